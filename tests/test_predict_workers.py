"""Decoders that hang, crash, raise or eat memory cost their own file and nothing else."""

import os
import signal
import threading
import time

import numpy as np
import pytest

from pipeline.data.geometry import unscaled
from pipeline.errors import DescryError
from pipeline.predict.ahead import ahead
from pipeline.predict.records import Ended, Opened, Picture
from pipeline.predict.workers import Workers

GOOD = [Opened, Picture, Ended]


def read(path, headers_only):
    """Runs in the workers."""
    yield Opened()
    if path.startswith("hang"):
        time.sleep(60)
    if path.startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.startswith("exit"):
        os._exit(3)
    if path.startswith("raise"):
        raise ValueError("DOE^JOHN")
    if path.startswith("noise"):
        os.write(2, b"DOE^JOHN")
    if path.startswith("big"):
        np.ones(2**40, np.uint8)
    pixels = np.full((300, 400), len(path), np.uint8)
    yield Picture(pixels, unscaled(pixels))
    yield Ended("processed")


def outcome(paths, workers, timeout=20.0):
    found = {}
    with Workers(read, workers, timeout) as team:
        for path, messages in team.files(paths):
            found[path] = list(messages)
    return found


@pytest.mark.parametrize("workers", [0, 3])
def test_files_come_in_order_with_their_own_messages(workers):
    paths = [f"file{'x' * i}" for i in range(9)]
    found = outcome(paths, workers)
    assert list(found) == paths
    for path, messages in found.items():
        assert [type(message) for message in messages] == GOOD
        assert (messages[1].pixels == len(path)).all()


def test_a_crash_or_a_hang_costs_one_file():
    paths = ["a", "crash", "b", "exit", "hang", "c", "d"]
    found = outcome(paths, workers=2, timeout=3.0)
    assert list(found) == paths
    ended = {path: messages[-1] for path, messages in found.items()}
    failed = ("failed", "decode")
    assert ended["crash"] == Ended(*failed, "the decoder crashed", "SIGSEGV")
    assert ended["exit"] == Ended(
        *failed, "the decoder crashed", "it ended the process with status 3"
    )
    assert ended["hang"] == Ended(*failed, "the decoder hangs", "no picture within 3 s")
    assert all([type(one) for one in found[path]] == GOOD for path in "abcd")


def test_mistakes_are_reported_without_their_words(capfd):
    found = outcome(["raise", "noise", "big", "a"], workers=1)
    ended = found["raise"][-1]
    assert (ended.kind, ended.step) == ("internal error", "decode")
    assert ended.message.startswith("ValueError at test_predict_workers.py:")
    assert found["noise"][-1].status == "processed"
    assert "MemoryError" in found["big"][-1].message
    assert found["a"][-1].status == "processed"
    assert "DOE" not in "".join(capfd.readouterr())


def test_the_parent_may_leave_early():
    with Workers(read, 2, 20.0) as team:
        next(team.files(["a", "b", "c", "d"]))


def test_leaving_does_not_wait_for_a_worker_that_hangs():
    with Workers(read, 2, 100.0) as team:
        next(team.files(["a", "hang", "hang", "b"]))
    assert not [thread.name for thread in threading.enumerate() if thread.name == "ahead"]


@pytest.mark.parametrize("limit", [1, 3 * 120_000, 10**9])
def test_pictures_wait_up_to_a_number_of_bytes(limit):
    taken = []

    def files():
        for name in "abcdefgh":
            taken.append(name)
            yield name, read(name, False)

    stream = ahead(files(), limit)
    for number, (_, messages) in enumerate(stream, 1):
        assert [type(message) for message in messages] == GOOD
        time.sleep(0.01)
        assert len(taken) <= number + 1 + limit // 120_000  # of 300 x 400 bytes each
    assert taken == list("abcdefgh")


def test_what_the_listening_thread_raises_is_raised_here():
    def files():
        yield "a", read("a", False)
        raise DescryError("no worker could start")

    with pytest.raises(DescryError, match="no worker"):
        for _, messages in ahead(files()):
            list(messages)


def test_the_same_workers_look_through_the_files_twice():
    with Workers(read, 2, 20.0) as team:
        for _ in range(2):
            assert [(path, len(list(m))) for path, m in team.files(["a", "b", "c"])] == [
                ("a", 3), ("b", 3), ("c", 3),
            ]  # fmt: skip

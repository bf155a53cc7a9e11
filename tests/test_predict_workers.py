"""Decoders that hang, crash, raise or eat memory cost their own file and nothing else."""

import os
import signal
import time

import numpy as np
import pytest

from pipeline.predict.records import Ended, Opened, Picture
from pipeline.predict.workers import read_files

GOOD = [Opened, Picture, Ended]


def read(path):
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
    yield Picture(np.full((300, 400), len(path), np.uint8))
    yield Ended("processed")


def outcome(paths, workers, timeout=20.0):
    found = {}
    for path, messages in read_files(read, paths, workers=workers, timeout=timeout):
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
    stream = read_files(read, ["a", "b", "c", "d"], workers=2, timeout=20.0)
    next(stream)
    stream.close()

"""Jobs that hang, crash, raise or answer much, and what becomes of the others."""

import os
import signal
from itertools import groupby

import numpy as np
import pytest

from pipeline.errors import DescryError
from pipeline.work.pool import Crashed, ProcessPool

JOBS = [1, 2, "die", 3, "much", 4, 5, "leave", 6, 7, 8, 9]


def answer(job):
    """What a job says, the worker does; every answer has two messages."""
    if job == "die":
        os.kill(os.getpid(), signal.SIGABRT)
    if job == "end":
        os.kill(os.getpid(), signal.SIGTERM)
    if job == "leave":
        os._exit(7)
    if job == "hang":
        signal.sigwait([signal.SIGUSR1])
    if job == "ask":
        raise DescryError("mend it")
    if job == "bug":
        raise ZeroDivisionError("a bug")
    yield np.full(10**6, 7, np.uint8) if job == "much" else job * 2
    yield "end"


class Unloadable:
    def __reduce__(self):
        return (os._exit, (5,))


def answers(jobs, workers, ordered=False, patience=300.0):
    with ProcessPool(answer, workers, patience) as pool:
        return list(pool.run(enumerate(jobs), ordered=ordered))


@pytest.mark.parametrize("ordered", [False, True])
def test_every_job_is_answered_and_a_death_costs_one(ordered):
    said = answers(JOBS, 2, ordered)
    if ordered:
        assert [number for number, _ in groupby(said, lambda one: one[0])] == list(range(12))
    by_number = {number: [m for n, m in said if n == number] for number, _ in said}
    assert by_number[2] == [Crashed("SIGABRT")]
    assert by_number[7] == [Crashed("the decoder ended the process with status 7")]
    pixels, end = by_number[4]
    assert (pixels == 7).all() and pixels.flags.writeable and end == "end"
    plain = (0, 1, 3, 5, 6, 8, 9, 10, 11)
    assert [by_number[i] for i in plain] == [[JOBS[i] * 2, "end"] for i in plain]


@pytest.mark.parametrize("ordered", [False, True])
def test_a_worker_that_hangs_costs_one_job(ordered):
    jobs = [1, "hang", 2, 3, 4, 5, "hang", 6]
    said = dict(answers(jobs, 2, ordered, patience=4.0))
    assert said[1] == said[6] == Crashed("no answer for 4 seconds", hung=True)
    assert [said[i] for i in (0, 2, 3, 4, 5, 7)] == ["end"] * 6


def test_no_jobs_need_no_workers_and_no_workers_are_this_process():
    assert answers([], 2) == []
    assert answers([3], 0) == [(0, 6), (0, "end")]


@pytest.mark.parametrize(
    ("job", "kind", "message"),
    [
        ("ask", DescryError, "^mend it$"),
        ("bug", RuntimeError, "ZeroDivisionError: a bug"),
        ("end", DescryError, "ended from outside; start again to go on"),
    ],
)
def test_what_is_no_crash_ends_the_run(job, kind, message):
    with pytest.raises(kind, match=message):
        answers([job], 1)


def test_workers_that_cannot_start_are_named():
    with (
        ProcessPool(Unloadable(), 1) as pool,
        pytest.raises(DescryError, match=r"could not start \(exit status 5\)"),
    ):
        list(pool.run([(0, 1)]))


def test_large_jobs_and_large_answers_do_not_wait_for_each_other():
    jobs = [text * 10**6 for text in "abcdefgh"]
    said = answers(jobs, 1)
    assert [len(message) for _, message in said if message != "end"] == [2 * 10**6] * 8


def test_leaving_early_does_not_wait_for_a_worker_that_hangs():
    with ProcessPool(answer, 2) as pool:
        next(pool.run(enumerate([1, "hang", "hang", 2])))


def test_the_same_workers_answer_twice():
    with ProcessPool(answer, 2) as pool:
        for _ in range(2):
            assert len(list(pool.run(enumerate([1, 2, 3])))) == 6
            assert len(pool._workers) == 2

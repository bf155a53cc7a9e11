"""Worker processes that may die or hang: a decoder's crash costs the one job that caused it.

`concurrent.futures.ProcessPoolExecutor` gives up all its workers and all jobs under way when one
process dies, and does not tell which job was at fault; it and Pebble's pool give one result per
job, so that a file of thousands of frames would have to be in memory as a whole. Here every worker
has its own pipe: the parent knows what each is working on, a worker that is not listened to waits
with its message, and one whose parent is gone reads the end of its pipe and ends.
"""

import multiprocessing
import os
import pickle
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from pipeline.errors import DescryError
from pipeline.work.message import receive, send

PATIENCE = 300.0  # seconds for one message; the largest images take a hundredth of it
_START_SECONDS = 300.0
_QUEUE = 4  # jobs of a worker: the next one is there when the present one is done
# Bytes of a job that is sent to a worker at work. Larger ones wait for it to be idle: if it were
# itself sending much, the two would wait for each other.
_SMALL = 8192
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# A decoder's own deaths. Whatever else ends a worker (a shutdown's SIGTERM) ends the run.
_CRASHES = {
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE", "SIGKILL", "SIGTRAP")
    if hasattr(signal, name)
}
Job = Any
Message = Any
Function = Callable[[Job], Iterable[Message]]


@dataclass(frozen=True, slots=True)
class Crashed:
    """The last message of a job whose worker died of it, or was ended for its silence.

    Attributes
    ----------
    how : str
        In words.
    hung : bool
        It was ended for its silence.
    """

    how: str
    hung: bool = False


@dataclass(frozen=True, slots=True)
class _Raised:
    """An exception on its way from a worker to the parent."""

    for_user: bool
    message: str


@dataclass(frozen=True, slots=True)
class _Ready:
    """First message of a worker: it has started."""


@dataclass(frozen=True, slots=True)
class _Done:
    """Last message of a job."""


@dataclass(slots=True)
class _Worker:
    """One process, its pipe and the jobs that it has not finished, the present one first."""

    process: SpawnProcess
    pipe: Connection
    ready: bool = False
    hung: bool = False
    jobs: deque[tuple[int, Job]] = field(default_factory=deque)
    unsent: deque[bytes] = field(default_factory=deque)  # the last of `jobs`
    heard: float = field(default_factory=time.monotonic)  # since when it is silent

    def add(self, job: tuple[int, Job]) -> None:
        """Queue a job."""
        if not self.jobs:
            self.heard = time.monotonic()
        self.jobs.append(job)
        self.unsent.append(pickle.dumps(job[1]))
        self.feed()

    def feed(self) -> None:
        """Send what may be sent now."""
        with suppress(OSError):  # its death is met where its messages are taken
            while self.unsent:
                if len(self.unsent) < len(self.jobs) and len(self.unsent[0]) > _SMALL:
                    return
                self.pipe.send_bytes(self.unsent.popleft())


def cores() -> int:
    """Number of processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class ProcessPool:
    """Processes that answer jobs; as a context, they end with it.

    Parameters
    ----------
    function : callable
        Picklable; yields the messages of a job. Runs in the workers, which start afresh (nothing
        is inherited but the modules' code).
    workers : int
        Number of processes; 0 calls `function` in this process, without protection.
    patience : float
        Seconds after which a worker without a word is ended, at the cost of its job.
    prepare : callable, optional
        Picklable; called once in each worker before its first job.
    """

    def __init__(
        self,
        function: Function,
        workers: int,
        patience: float = PATIENCE,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        if workers < 0:
            raise ValueError(f"{workers} workers")
        self.function, self.number, self.patience = function, workers, patience
        self._program = pickle.dumps((prepare, function))
        self._workers: list[_Worker] = []
        self._jobs: Iterator[tuple[int, Job]] = iter(())

    def __enter__(self) -> "ProcessPool":
        return self

    def __exit__(self, *exception: object) -> None:
        """End the workers, those at work too."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()

    def run(
        self, jobs: Iterable[tuple[int, Job]], *, ordered: bool = False
    ) -> Iterator[tuple[int, Message]]:
        """Yield (number, message) as messages come; all of it before `run` is called again.

        Parameters
        ----------
        jobs : iterable of (number, job)
            With ascending numbers. Taken from as workers become free, so that it is never held as
            a whole.
        ordered : bool
            Messages come in the order of the jobs. A worker whose job is not yet due goes on
            until its pipe is full and then waits, so that memory holds about one message of each.

        Yields
        ------
        (int, object)
            The job's number, and what `function` yielded for it, or `Crashed`.

        Raises
        ------
        DescryError
            That `function` raised, or when the workers are ended from outside or cannot start.
        RuntimeError
            When `function` raised anything else; with the worker's traceback.
        """
        if self.number == 0:
            for number, job in jobs:
                yield from ((number, message) for message in self.function(job))
            return
        self._jobs = iter(jobs)
        self._hand_out()
        while busy := [worker for worker in self._workers if worker.jobs]:
            due = [min(busy, key=lambda worker: worker.jobs[0][0])] if ordered else busy
            for worker in self._with_a_word(due):
                yield from self._answer(worker)

    def _hand_out(self) -> None:
        """Give the first jobs, starting as many workers as they need."""
        for _ in range(self.number - len(self._workers)):
            if (job := next(self._jobs, None)) is None:
                return
            self._workers.append(self._start([job]))
        for _ in range(_QUEUE):
            for worker in self._workers:
                if len(worker.jobs) < _QUEUE:
                    self._give(worker)

    def _give(self, worker: _Worker) -> None:
        """Queue the next job with `worker`."""
        if (job := next(self._jobs, None)) is not None:
            worker.add(job)

    def _start(self, jobs: Iterable[tuple[int, Job]]) -> _Worker:
        """Start a worker that begins with `jobs`."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()  # else the end of the worker would not be the end of the pipe
        worker = _Worker(process, ours)
        with suppress(OSError):  # see `_Worker.feed`
            ours.send_bytes(self._program)
        for job in jobs:
            worker.add(job)
        return worker

    def _with_a_word(self, due: list[_Worker]) -> Iterator[_Worker]:
        """Wait for a message of one of these workers; one that hangs is killed and has a last."""
        ends = [worker.heard + self._limit(worker) for worker in due]
        pipes = {worker.pipe: worker for worker in due}
        spoken = wait(list(pipes), timeout=max(0.0, min(ends) - time.monotonic()))
        yield from (pipes[pipe] for pipe in spoken)  # type: ignore[index]
        for worker, end in zip(due, ends, strict=True):
            if not spoken and time.monotonic() >= end and not worker.pipe.poll():
                worker.hung = True
                worker.process.kill()
                yield worker

    def _limit(self, worker: _Worker) -> float:
        return self.patience if worker.ready else _START_SECONDS

    def _answer(self, worker: _Worker) -> Iterator[tuple[int, Message]]:
        """Take one message of a worker, and give it a new job when one is done."""
        try:
            message = receive(worker.pipe)
        except (EOFError, ConnectionResetError):
            yield self._replace(worker)
            return
        worker.heard = time.monotonic()
        if isinstance(message, _Ready):
            worker.ready = True
        elif isinstance(message, _Raised):
            raise (DescryError if message.for_user else RuntimeError)(message.message)
        elif isinstance(message, _Done):
            worker.jobs.popleft()
            worker.feed()
            self._give(worker)
        else:
            yield worker.jobs[0][0], message

    def _replace(self, worker: _Worker) -> tuple[int, Crashed]:
        """A worker has died: its present job is to blame, the others go to a new worker."""
        worker.process.join()
        worker.pipe.close()
        self._workers.remove(worker)
        code = worker.process.exitcode or 0
        if not worker.ready:
            raise DescryError(f"a worker process could not start (exit status {code}); see above")
        if -code not in _CRASHES and code <= 0:
            raise DescryError("a worker process was ended from outside; start again to go on")
        (number, _), *rest = worker.jobs
        if rest or (rest := [*islice(self._jobs, 1)]):
            self._workers.append(self._start(rest))
        if worker.hung:
            return number, Crashed(f"no answer for {self.patience:g} seconds", hung=True)
        return number, Crashed(_death(code))


def _death(code: int) -> str:
    """How a process ended, in words."""
    if code > 0:
        return f"the decoder ended the process with status {code}"
    name = signal.Signals(-code).name
    return name + (" (out of memory?)" if name == "SIGKILL" else "")


def _serve(pipe: Connection) -> None:
    """Life of a worker: read the function, then answer jobs until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends us
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        prepare, function = pickle.loads(pipe.recv_bytes())
        if prepare is not None:
            prepare()
        send(pipe, _Ready())
        while True:
            _attempt(pipe, function, pickle.loads(pipe.recv_bytes()))


def _attempt(pipe: Connection, function: Function, job: Job) -> None:
    try:
        for message in function(job):
            send(pipe, message)
        send(pipe, _Done())
    except (BrokenPipeError, ConnectionResetError):
        raise
    except DescryError as error:
        send(pipe, _Raised(True, str(error)))
    except Exception:
        send(pipe, _Raised(False, "in a worker process:\n" + traceback.format_exc()))

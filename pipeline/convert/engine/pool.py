"""Worker processes that may die or hang: a decoder's crash costs the one job that caused it.

`concurrent.futures.ProcessPoolExecutor` gives up all its workers and all jobs under way when one
process dies, does not tell which job was at fault, and leaves its workers behind when the parent
is killed. Here every worker has its own pipe: the parent knows what each is working on, and a
worker whose parent is gone reads the end of its pipe and ends.
"""

import ctypes
import multiprocessing
import os
import pickle
import platform
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from pipeline.errors import DescryError

PATIENCE = 300.0  # seconds for one job; the largest images take a hundredth of it
CHUNK = 4  # jobs sent at once, so that a worker does not wait for the parent after each
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# A decoder's own deaths. Whatever else ends a worker (a shutdown's SIGTERM) ends the run.
_CRASHES = {
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGILL", "SIGFPE", "SIGKILL", "SIGTRAP")
    if hasattr(signal, name)
}


@dataclass(frozen=True, slots=True)
class Crashed:
    """The result of a job whose worker died of it, or was ended for its silence; `how` says it."""

    how: str


@dataclass(frozen=True, slots=True)
class _Raised:
    """An exception on its way from a worker to the parent."""

    for_user: bool
    message: str


@dataclass(slots=True)
class _Hand:
    """One worker process, its pipe and the jobs that it has not answered yet."""

    process: SpawnProcess
    pipe: Connection
    ready: bool = False
    jobs: deque[tuple[int, Any]] = field(default_factory=deque)
    heard: float = field(default_factory=time.monotonic)  # when it last answered


def cores() -> int:
    """Number of processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_jobs(
    function: Callable[[Any], Any],
    jobs: Iterator[tuple[int, Any]],
    workers: int,
    patience: float = PATIENCE,
) -> Generator[tuple[int, Any], None, None]:
    """Yield (number, result) as results come, which need not be the order of the jobs.

    Parameters
    ----------
    function : callable
        Picklable; runs in the workers, which start afresh (nothing is inherited but the
        modules' code).
    jobs : iterator of (number, job)
        Taken from as workers become free, so that it is never held as a whole.
    workers : int
        Number of processes.
    patience : float
        Seconds after which a worker that does not answer is ended, at the cost of its job.

    Yields
    ------
    (int, object)
        The job's number and what `function` returned, or `Crashed`.

    Raises
    ------
    DescryError
        That `function` raised, or when the workers are ended from outside or cannot start.
    RuntimeError
        When `function` raised anything else; with the worker's traceback.
    """
    team = _Team(pickle.dumps(function), jobs, workers, patience)
    try:
        yield from team.results()
    finally:
        team.close()


class _Team:
    """The workers of one `run_jobs`."""

    def __init__(
        self, function: bytes, jobs: Iterator[tuple[int, Any]], workers: int, patience: float
    ) -> None:
        self.function, self.jobs, self.patience = function, jobs, patience
        self.hands: list[_Hand] = []
        for _ in range(workers):
            chunk = self._next_chunk()
            if not chunk:
                break
            self.hands.append(self._hire(chunk))

    def _next_chunk(self) -> deque[tuple[int, Any]]:
        return deque(islice(self.jobs, CHUNK))

    def _hire(self, jobs: deque[tuple[int, Any]]) -> _Hand:
        """Start a worker that begins with `jobs`."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()  # else the end of the worker would not be the end of the pipe
        hand = _Hand(process, ours, jobs=jobs)
        with suppress(BrokenPipeError):  # a worker that died at once is met in `_answer`
            ours.send_bytes(self.function)
            ours.send(list(jobs))
        return hand

    def results(self) -> Iterator[tuple[int, Any]]:
        """Answers of all workers until no job is left."""
        while self.hands:
            pipes = {hand.pipe: hand for hand in self.hands}
            for pipe in wait(list(pipes), timeout=self.patience):
                yield from self._answer(pipes[pipe])  # type: ignore[index]
            for hand in [hand for hand in self.hands if self._hangs(hand)]:
                hand.process.kill()
                yield from self._bury(hand, f"no answer for {self.patience:g} seconds")

    def _hangs(self, hand: _Hand) -> bool:
        silent = time.monotonic() - hand.heard
        return hand.ready and silent >= self.patience and not hand.pipe.poll()

    def _answer(self, hand: _Hand) -> Iterator[tuple[int, Any]]:
        """Take one message of a worker, and give it new jobs when it has none left."""
        try:
            message = hand.pipe.recv()
        except (EOFError, ConnectionResetError):
            yield from self._bury(hand)
            return
        hand.heard = time.monotonic()
        if not hand.ready:
            hand.ready = True  # the first message only says that the worker has started
            return
        if isinstance(message, _Raised):
            raise (DescryError if message.for_user else RuntimeError)(message.message)
        number, _ = hand.jobs.popleft()
        if not hand.jobs:
            self._refill(hand)
        yield number, message

    def _refill(self, hand: _Hand) -> None:
        """Send the next jobs, or let the worker go."""
        hand.jobs = self._next_chunk()
        if hand.jobs:
            with suppress(BrokenPipeError):
                hand.pipe.send(list(hand.jobs))
        else:
            self._dismiss(hand)

    def _dismiss(self, hand: _Hand) -> None:
        self.hands.remove(hand)
        hand.pipe.close()
        hand.process.join()

    def _bury(self, hand: _Hand, how: str = "") -> Iterator[tuple[int, Any]]:
        """A worker has died: its current job is to blame, the others go to a new worker."""
        self._dismiss(hand)
        code = hand.process.exitcode or 0
        if not hand.ready:
            raise DescryError(f"a worker process could not start (exit status {code}); see above")
        if -code not in _CRASHES and code <= 0:
            raise DescryError("a worker process was ended from outside; start again to go on")
        number, _ = hand.jobs.popleft()
        rest = hand.jobs or self._next_chunk()
        if rest:
            self.hands.append(self._hire(rest))
        yield number, Crashed(how or _death(code))

    def close(self) -> None:
        """End the workers, those at work too."""
        for hand in self.hands:
            hand.process.terminate()
            hand.pipe.close()
        for hand in self.hands:
            hand.process.join()


def _death(code: int) -> str:
    """How a process ended, in words."""
    if code > 0:
        return f"the decoder ended the process with status {code}"
    name = signal.Signals(-code).name
    return name + (" (out of memory?)" if name == "SIGKILL" else "")


def keep_freed_memory() -> None:
    """Let the C library keep up to 256 MiB of freed memory instead of returning it at once.

    Every image allocates and frees several arrays of its size. By default glibc maps each anew
    and the system clears its pages again, which is a sixth of the time of a radiograph. Elsewhere
    (macOS, musl) this does nothing.
    """
    trim_threshold, mmap_threshold = -1, -3  # names of <malloc.h>: M_TRIM_..., M_MMAP_THRESHOLD
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(mmap_threshold, 32 << 20)  # the largest that glibc accepts
        library.mallopt(trim_threshold, 256 << 20)


def _serve(pipe: Connection) -> None:
    """Life of a worker: read the function, then answer jobs until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends us
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    keep_freed_memory()
    try:
        function = pickle.loads(pipe.recv_bytes())
        pipe.send("ready")
        while True:
            for _, job in pipe.recv():
                pipe.send(_attempt(function, job))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone or needs us no more


def _attempt(function: Callable[[Any], Any], job: Any) -> Any:
    try:
        return function(job)
    except DescryError as error:
        return _Raised(True, str(error))
    except Exception:
        return _Raised(False, "in a worker process:\n" + traceback.format_exc())

"""Read files ahead of the model in processes that may hang or die.

Every worker has its own pipe and a short queue of files. The parent takes the messages of one
file after the other, in the order of the files, some pictures ahead of the model (see `ahead`);
the other workers decode until their pipe is full and then wait, so that memory holds about one
picture of each. A worker that gives no word for too long is killed, one that dies is replaced:
either costs the file it was reading.
"""

import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from pipeline.errors import DescryError
from pipeline.predict.ahead import Answers, ahead
from pipeline.predict.decode import Message
from pipeline.predict.records import Ended

_QUEUE = 2  # files per worker: the next one is there when the present one is done
_START_SECONDS = 120.0
_MEMORY_BYTES = 6 * 2**30  # address space of a worker; a bomb dies here and not the machine
Task = tuple[str, bool]  # path, headers only
Read = Callable[[str, bool], Iterator[Message]]


@dataclass(slots=True)
class _Hand:
    """One worker, its pipe and the tasks it has not finished, the present one first."""

    process: SpawnProcess
    pipe: Connection
    ready: bool = False
    tasks: deque[Task] = field(default_factory=deque)


class Workers:
    """Processes that read files; as a context, they end with it.

    Parameters
    ----------
    read : callable
        Picklable; (path, headers only) -> messages of which `Ended` is the last.
    number : int
        Of processes; 0 reads in this process, without protection.
    timeout : float
        Seconds that a worker may take for one message (one picture).
    """

    def __init__(self, read: Read, number: int, timeout: float) -> None:
        if number < 0:
            raise ValueError(f"{number} workers")
        self.read, self.number = read, number
        self._team = _Team(read, number, timeout)
        self._stream = ahead(())

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exception: object) -> None:
        self._team.kill()
        self._stream.close()  # the thread that listens to the workers
        self._team.close()

    def files(self, paths: Iterable[str], *, headers_only: bool = False) -> Iterator[Answers]:
        """Yield each path with its messages, in the order of `paths`.

        The iterator of messages must be used up before the next path is asked for, and all paths
        before other files are read.
        """
        if self.number == 0:
            yield from ((path, self.read(path, headers_only)) for path in paths)
            return
        self._stream = ahead(self._taken(paths, headers_only))
        yield from self._stream

    def _taken(self, paths: Iterable[str], headers_only: bool) -> Iterator[Answers]:
        self._team.start((path, headers_only) for path in paths)
        while (path := self._team.next_path()) is not None:
            yield path, self._team.messages()


class _Team:
    """The processes of `Workers`."""

    def __init__(self, read: Read, number: int, timeout: float) -> None:
        self.read, self.timeout = read, timeout
        self.tasks: Iterator[Task] = iter(())
        self.order: deque[_Hand] = deque()  # who reads the next files, in their order
        self.hands = [self._hire() for _ in range(number)]
        self.killed = False

    def start(self, tasks: Iterator[Task]) -> None:
        """Hand out the first tasks; the rest follow as workers become free."""
        self.tasks = tasks
        for _ in range(_QUEUE):
            for hand in self.hands:
                self._give(hand)

    def next_path(self) -> str | None:
        """The file whose messages come next, None at the end or when the workers are killed."""
        return self.order[0].tasks[0][0] if self.order and not self.killed else None

    def messages(self) -> Iterator[Message]:
        """Messages of the file that `next_path` named."""
        hand = self.order[0]
        while True:
            try:
                message = self._receive(hand)
            except TimeoutError:
                if self.killed:
                    return
                self._replace(hand)
                said = f"no picture within {self.timeout:g} s"
                message = Ended("failed", "decode", "the decoder hangs", said)
            except (EOFError, ConnectionError):
                if self.killed:
                    return
                said = _death(self._replace(hand))
                message = Ended("failed", "decode", "the decoder crashed", said)
            if isinstance(message, Ended):
                self.order.popleft()
                hand.tasks.popleft()
                self._give(hand)
                yield message
                return
            yield message

    def _receive(self, hand: _Hand) -> Message:
        if not hand.ready:
            if not hand.pipe.poll(_START_SECONDS):
                raise DescryError(f"a worker process did not start within {_START_SECONDS:g} s")
            try:
                hand.pipe.recv()
            except EOFError:
                raise DescryError("a worker process could not start; see above") from None
            hand.ready = True
        if not hand.pipe.poll(self.timeout):
            raise TimeoutError
        message: Message = hand.pipe.recv()
        return message

    def _give(self, hand: _Hand) -> None:
        """Queue the next task with `hand`."""
        task = next(self.tasks, None)
        if task is None:
            return
        hand.tasks.append(task)
        self.order.append(hand)
        with suppress(BrokenPipeError):  # a worker that has died is met in `messages`
            hand.pipe.send(task)

    def _hire(self, tasks: Iterable[Task] = ()) -> _Hand:
        """Start a worker that begins with `tasks`."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.read), daemon=True)
        process.start()
        theirs.close()  # else the end of the worker would not be the end of the pipe
        with suppress(BrokenPipeError):  # a worker that dies at once is met in `messages`
            for task in tasks:
                ours.send(task)
        return _Hand(process, ours)

    def _replace(self, hand: _Hand) -> int:
        """Put a new worker in the place of one that hangs or died; return its exit status."""
        hand.process.join(1.0)
        if hand.process.is_alive():
            hand.process.kill()
            hand.process.join()
        code = hand.process.exitcode or 0
        hand.pipe.close()
        fresh = self._hire(list(hand.tasks)[1:])
        hand.process, hand.pipe, hand.ready = fresh.process, fresh.pipe, False
        return code

    def kill(self) -> None:
        """End all workers, those at work too."""
        self.killed = True
        for hand in self.hands:
            hand.process.kill()

    def close(self) -> None:
        """Tidy up after `kill`, when nobody listens any more."""
        for hand in self.hands:
            hand.process.kill()  # one that took the place of another meanwhile
            hand.process.join()
            hand.pipe.close()


def _death(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"it ended the process with status {code}"
    return signal.Signals(-code).name


def _serve(pipe: Connection, read: Read) -> None:
    """Life of a worker: say ready, then read files until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends us
    _confine()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        pipe.send("ready")
        while True:
            _answer(pipe, read, *pipe.recv())


def _answer(pipe: Connection, read: Read, path: str, headers_only: bool) -> None:
    try:
        for message in read(path, headers_only):
            pipe.send(message)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:  # a mistake of ours costs the file and is reported, not the run
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
        pipe.send(Ended("failed", "decode", "internal error", where))


def _confine() -> None:
    """Silence the codecs, which write to the terminal by themselves, and bound the memory."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with suppress(ImportError, ValueError, OSError):  # not all systems have or allow limits
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

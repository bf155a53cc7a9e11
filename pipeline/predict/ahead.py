"""Take pictures from the workers while the model is busy, up to a number of bytes.

A worker that has decoded a picture waits until somebody takes it. Without this, it would wait
for the model, and the model for it, in turns.
"""

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator

from pipeline.predict.decode import Message
from pipeline.predict.records import Ended, Picture

LIMIT = 64 * 2**20  # bytes of pixels that wait; one picture may always
Answers = tuple[str, Iterator[Message]]  # a file and what is read of it


class _Shelf:
    """Messages between two threads; adding waits while too many bytes are on it."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self.closed = False
        self.error: BaseException | None = None
        self._messages: deque[tuple[str, Message]] = deque()
        self._change = threading.Condition()

    def put(self, path: str, message: Message) -> bool:
        """Add at the end; False if nobody takes from it any more."""
        size = _size(message)
        with self._change:
            self._change.wait_for(lambda: self.closed or self._fits(size))
            self._messages.append((path, message))
            self.held += size
            self._change.notify_all()
            return not self.closed

    def _fits(self, size: int) -> bool:
        return self.held == 0 or self.held + size <= self.limit

    def take(self) -> tuple[str, Message] | None:
        """Remove the first; None when it is closed and empty."""
        with self._change:
            self._change.wait_for(lambda: self.closed or bool(self._messages))
            if not self._messages:
                return None
            path, message = self._messages.popleft()
            self.held -= _size(message)
            self._change.notify_all()
            return path, message

    def close(self) -> None:
        with self._change:
            self.closed = True
            self._change.notify_all()


def ahead(files: Iterable[Answers], limit: int = LIMIT) -> Generator[Answers, None, None]:
    """Yield what `files` yields, which a thread reads in the meantime.

    Parameters
    ----------
    files : iterable of (path, messages)
        As `Workers.files`; nobody else may use it before the generator is closed.
    limit : int
        Bytes of pixels that may wait.
    """
    shelf = _Shelf(limit)
    thread = threading.Thread(target=_fill, args=(shelf, files), name="ahead", daemon=True)
    thread.start()
    try:
        while (first := shelf.take()) is not None:
            yield first[0], _until_end(first[1], shelf)
        if shelf.error is not None:
            raise shelf.error
    finally:
        shelf.close()
        thread.join()


def _fill(shelf: _Shelf, files: Iterable[Answers]) -> None:
    try:
        for path, messages in files:
            for message in messages:
                if not shelf.put(path, message):
                    return
    except BaseException as error:  # belongs to the thread that takes
        shelf.error = error
    finally:
        shelf.close()


def _until_end(message: Message, shelf: _Shelf) -> Iterator[Message]:
    """The messages of one file."""
    yield message
    while not isinstance(message, Ended):
        following = shelf.take()
        if following is None:
            return
        message = following[1]
        yield message


def _size(message: Message) -> int:
    return message.nbytes if isinstance(message, Picture) else 0

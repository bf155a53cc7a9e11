"""Python values through a pipe, the pixels of arrays without being copied on the way.

An ordinary pickle holds an array's bytes up to three times at either end: with pictures of
hundreds of megabytes that is what a machine runs out of memory by.
"""

import os
import pickle
from multiprocessing.connection import Connection
from typing import Any


def send(pipe: Connection, value: Any) -> None:
    """Send a value; waits while the pipe is full.

    Raises
    ------
    BrokenPipeError, ConnectionResetError
        When nobody is at the other end.
    """
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    pipe.send_bytes(pickle.dumps((data, [view.nbytes for view in views])))
    for view in views:
        while view:
            view = view[os.write(pipe.fileno(), view) :]


def receive(pipe: Connection) -> Any:
    """Take the next value that `send` sent; arrays may be written to.

    Raises
    ------
    EOFError, ConnectionResetError
        When there is none and nobody is at the other end.
    """
    data, sizes = pickle.loads(pipe.recv_bytes())
    return pickle.loads(data, buffers=[_read(pipe, size) for size in sizes])


def _read(pipe: Connection, size: int) -> bytearray:
    content = bytearray(size)
    rest = memoryview(content)
    while rest:
        number = os.readv(pipe.fileno(), [rest])
        if number == 0:
            raise EOFError
        rest = rest[number:]
    return content

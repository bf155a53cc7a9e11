"""How long an archive may say nothing."""

import contextlib
import socket
import threading
import time
from typing import Any

from pynetdicom import evt
from pynetdicom.association import Association


class Silence:
    """Cuts connections when nothing moves on any of them.

    pynetdicom's own timers count whole messages, in which a large object may take longer than any
    archive should be silent, and do not count while a message is on its way.

    Parameters
    ----------
    timeout : float
        Seconds without a byte.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout, self._moved = timeout, time.monotonic()

    def left(self) -> float:
        """Seconds until it has been silent for too long."""
        return self._moved + self._timeout - time.monotonic()

    def moved(self, event: evt.Event) -> None:
        """Count from now on; a handler of whatever is a sign of the archive."""
        self._moved = time.monotonic()

    def watch(self, event: evt.Event) -> None:
        """Cut this connection when it is time; a handler of EVT_CONN_OPEN."""
        line = _socket(event.assoc)
        line.settimeout(self._timeout)  # within a message
        closed = threading.Event()
        event.assoc.bind(evt.EVT_CONN_CLOSE, lambda _: closed.set())
        threading.Thread(target=self._wait, args=(line, closed), daemon=True).start()

    def _wait(self, line: socket.socket, closed: threading.Event) -> None:
        while (left := self.left()) > 0:
            if closed.wait(left):
                return
        _shut(line)


def cut(association: Association) -> None:
    """End a connection, whatever is going on in it."""
    if (line := _socket(association)) is not None:
        _shut(line)


def _socket(association: Association) -> Any:
    """Its socket; None after it has been closed."""
    wrapper: Any = association.dul.socket
    return wrapper.socket


def _shut(line: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        # Not that of an SSLSocket, which is in use elsewhere: only the bytes have to stop.
        socket.socket.shutdown(line, socket.SHUT_RDWR)

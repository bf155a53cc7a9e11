"""Associations with an application entity (PS3.8): opened when needed, again after they broke."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from pipeline.archive.address import AE_TITLE, DimseAddress
from pipeline.archive.tls import EARLY, is_final, listening, speaks_tls, trouble
from pipeline.errors import DescryError

LITTLE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)  # what almost everybody reads
WAITS = (1.0, 2.0, 4.0, None)  # seconds before the next attempt
Answer = TypeVar("Answer")


class NothingAccepted(DescryError):
    """The archive accepts an association, but nothing that we want to do in it."""


class Connection:
    """Associations with one application entity, one at a time.

    Parameters
    ----------
    timeout : float
        Seconds without a byte after which the connection is cut.
    contexts, roles, handlers : sequences
        What pynetdicom negotiates and calls.

    Attributes
    ----------
    idle : IdleTimeout
        Counts on these associations, and on those that it is told of.
    """

    def __init__(
        self,
        address: DimseAddress,
        timeout: float,
        contexts: Sequence[PresentationContext],
        roles: Sequence[Any] = (),
        handlers: Sequence[Any] = (),
    ) -> None:
        self.address, self._timeout = address, timeout
        self._contexts, self._roles, self._handlers = list(contexts), list(roles), list(handlers)
        self._entity = AE(ae_title=address.own_title)
        self._entity.acse_timeout = self._entity.connection_timeout = timeout
        self._entity.dimse_timeout = self._entity.network_timeout = None  # `IdleTimeout` does it
        self.idle = IdleTimeout(timeout)
        self._handlers += [
            (evt.EVT_CONN_OPEN, self.idle.moved),
            (evt.EVT_CONN_OPEN, self.idle.watch),
            (evt.EVT_DATA_RECV, self.idle.moved),
            (evt.EVT_DATA_SENT, self.idle.moved),
            (evt.EVT_CONN_CLOSE, _ended),
        ]
        self._open: Association | None = None

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._open is not None and self._open.is_established:
            self._open.release()
        self._entity.shutdown()

    def tried(self, ask: Callable[[Association], Answer | None]) -> Answer | None:
        """Return what `ask` returns; None means that the line broke, and it is called again.

        Returns
        -------
        Answer or None
            None where the line broke at each attempt.

        Raises
        ------
        DescryError
            When no association can be had.
        """
        for wait in WAITS:
            if self._open is None or not self._open.is_established:
                self._open = self._associated()
            answer = ask(self._open)
            if answer is not None:
                return answer
            self._open.abort()
            self._open = None
            if wait is not None:
                time.sleep(wait)
        return None

    @property
    def attempts(self) -> int:
        """How often a question is asked before it is given up."""
        return len(WAITS)

    def unreachable(self, what: str) -> DescryError:
        """The error that ends a run."""
        return DescryError(f"{self._name()}: {what}; the same command goes on where it stopped")

    def _name(self) -> str:
        return f"archive {self.address.title} on port {self.address.port}"

    def _associated(self) -> Association:
        """An open association; further attempts wait longer each time."""
        for wait in WAITS:
            errors: list[OSError] = []
            association = self._attempt(errors)
            if association.is_established:
                return association
            why = self._why(association, errors)
            if wait is not None:
                time.sleep(wait)
        mute = self.address.tls is None and not association.is_rejected
        if mute and speaks_tls(*self._place(), self._timeout):
            why = "it speaks TLS on this port: write dicoms:// instead of dicom://"
        raise self.unreachable(f"{why}, {self.attempts} attempts")

    def _place(self) -> tuple[str, int]:
        return self.address.host, self.address.port

    def _attempt(self, errors: list[OSError]) -> Association:
        """Ask once for an association; what TLS says goes into `errors`."""
        context = self.address.tls
        if context is not None:
            context.sslsocket_class = listening(errors)
        try:
            return self._entity.associate(
                *self._place(),
                contexts=self._contexts,
                ae_title=self.address.title,
                ext_neg=self._roles,
                evt_handlers=self._handlers,
                tls_args=None if context is None else (context, self.address.host),
            )
        except socket.gaierror:
            raise self.unreachable("its host has no address") from None

    def _why(self, association: Association, errors: list[OSError]) -> str:
        """Why there is no association.

        Raises
        ------
        DescryError
            Where another attempt would end in the same way.
        """
        for error in errors:
            if isinstance(error, ssl.SSLError) and is_final(error):
                raise DescryError(f"{self._name()}: {trouble(error)}")
        if association.rejected_contexts:
            raise NothingAccepted(f"{self._name()}: it does not offer what we ask it for")
        if not association.is_rejected:
            return EARLY if errors else "no connection"
        answer: Any = association.acceptor.primitive  # PS3.8 9.3.4
        if answer.result == 0x02:  # transient
            return "it has too many connections" if answer.diagnostic == 0x02 else "it is busy"
        reasons = {
            0x03: f"it does not know our AE title {self.address.own_title}, set {AE_TITLE}",
            0x07: f"it is not called {self.address.title}",
        }
        about = reasons.get(answer.diagnostic, "does it know our AE title and its own?")
        raise DescryError(f"{self._name()}: it rejects us: {about}")


def _ended(event: evt.Event) -> None:
    """Wake who waits for an answer; a handler of EVT_CONN_CLOSE.

    pynetdicom does so once, and its own thread may be the one that this wakes: a call that begins
    in the same moment would then wait for ever.
    """
    threading.Thread(target=_wake, args=(event.assoc,), daemon=True).start()


def _wake(association: Association) -> None:
    while association.is_alive():
        association.dimse.msg_queue.put((None, None))
        association.join(0.1)
    association.dimse.msg_queue.put((None, None))


class IdleTimeout:
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

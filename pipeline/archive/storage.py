"""What archives store with us (PS3.4 B.2): over a connection of ours, or at a port of our own."""

import ssl
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydicom import uid
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.association import Association
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made while it is imported
    Verification,
    register_uid,
    uid_to_service_class,
)

from pipeline.archive.address import DimseAddress
from pipeline.archive.connection import IdleTimeout, cut
from pipeline.archive.query import LEVELS, Instance, is_uid
from pipeline.archive.tls import is_final, listening, trouble
from pipeline.atomic import replacing
from pipeline.dicom.read.decoders import NATIVE, PLUGINS
from pipeline.errors import DescryError

# Where an archive offers several for one object, the first counts: it has to lose nothing.
_SYNTAXES = [*dict.fromkeys((uid.ExplicitVRLittleEndian, *NATIVE, *PLUGINS))]
_MOST = 5  # associations at once


class StoreHandler:
    """Writes the objects that were asked for into a folder, byte by byte as they are sent.

    One at a time: an archive may send an object twice at once. pydicom's warnings, which quote
    values, are the caller's to keep quiet.
    """

    def __init__(self, folder: Path, wanted: Iterable[Instance]) -> None:
        self._folder, self._wanted = folder, {one.path for one in wanted}
        self._lock = threading.Lock()

    def store(self, event: evt.Event) -> int:
        """Answer to C-STORE (PS3.4 B.2.3); the object's UIDs are its path."""
        with self._lock:
            if not self._wanted:
                return 0xC000
            dataset = event.dataset
            instance = Instance(*(str(dataset.get(name, "")) for name in LEVELS.values()))
            if instance.path not in self._wanted:
                return 0xC000
            try:
                with replacing(self._folder / instance.path, "wb") as stream:
                    stream.write(event.encoded_dataset())
            except OSError:
                return 0xA700  # out of resources
            return 0x0000

    def has(self, instance: Instance) -> bool:
        """Say whether an object is there."""
        return (self._folder / instance.path).exists()

    def settle(self, instance: Instance, reason: str) -> str:
        """Empty for an object that is there; one that is not has this reason, and comes too late.

        It would otherwise count twice, as lost and as fetched.
        """
        with self._lock:
            if self.has(instance):
                return ""
            self._wanted.discard(instance.path)
            return reason

    def close(self) -> None:
        """Keep nothing any more; what is being written is written before this returns."""
        with self._lock:
            self._wanted.clear()


class StorageServer:
    """Listens on a port of all interfaces while the context is open.

    Parameters
    ----------
    address : DimseAddress
        Our title and the port are in it.
    timeout : float
        Seconds for whoever connects to say what for.
    handler : StoreHandler
        Gets what arrives.
    classes : iterable of str
        SOP classes of what is asked for; an empty one can be any.
    idle : IdleTimeout
        Broken by what is stored, not by C-ECHO, which some send every minute.
    """

    def __init__(
        self,
        address: DimseAddress,
        timeout: float,
        handler: StoreHandler,
        classes: Iterable[str],
        idle: IdleTimeout,
    ) -> None:
        assert address.destination is not None
        self.port, self._tls = address.destination.port, address.destination.tls
        self.handler, self._idle = handler, idle
        self._changed, self._errors = threading.Condition(), list[OSError]()
        self._busy, self._found, self._broke = set[Association](), False, False
        self._entity = AE(ae_title=address.own_title)
        self._entity.require_called_aet = True
        self._entity.maximum_associations = _MOST
        self._entity.acse_timeout = timeout
        self._entity.dimse_timeout = self._entity.network_timeout = None  # `IdleTimeout` does it
        self._entity.add_supported_context(Verification)
        for sop_class in _storage(classes):
            self._entity.add_supported_context(sop_class, _SYNTAXES)

    def __enter__(self) -> "StorageServer":
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._idle.watch),
            (evt.EVT_PDU_RECV, self._heard),
            (evt.EVT_C_STORE, self.handler.store),
            (evt.EVT_DIMSE_SENT, self._answered),
            (evt.EVT_CONN_CLOSE, self._closed),
        ]
        if self._tls is not None:
            self._tls.sslsocket_class = listening(self._errors)
        try:
            self._server: Any = self._entity.start_server(
                ("", self.port), block=False, evt_handlers=handlers, ssl_context=self._tls
            )
        except OSError as error:
            raise DescryError(
                f"--move-port {self.port}: cannot listen on this port ({error.strerror}); "
                "choose another, which the archive has to know"
            ) from None
        return self

    def __exit__(self, *exception: object) -> None:
        self.handler.close()
        self._server.shutdown()
        for association in self._entity.active_associations:
            cut(association)  # an abort is no answer to who has not asked for an association yet

    def brought(self, instance: Instance, promised: bool) -> bool:
        """Wait for an object of which the archive has said its last word; say whether it came.

        Parameters
        ----------
        promised : bool
            The archive says that it has sent it: whether or not it is on its way, it has until
            the silence is too long.
        """
        with self._changed:
            while not self.handler.has(instance) and (promised or self._busy):
                if (left := self._idle.left()) <= 0:
                    break
                self._changed.wait(left)
        return self.handler.has(instance)

    def doubt(self) -> str:
        """What seems to keep an archive from storing here; empty once it has begun to."""
        if self._found:
            return ""
        for error in self._errors:
            if isinstance(error, ssl.SSLError) and is_final(error):
                return f", but on port {self.port} {trouble(error)}"
        return f", but nothing has come to port {self.port}"

    def broke(self) -> bool:
        """Say whether a connection has ended within an object since this was last asked."""
        broke, self._broke = self._broke, False
        return broke

    def _heard(self, event: evt.Event) -> None:
        accepted = event.assoc.accepted_contexts
        if all(context.abstract_syntax == Verification for context in accepted):
            return
        self._idle.moved(event)
        self._found = True
        if isinstance(event.pdu, P_DATA_TF):
            with self._changed:
                self._busy.add(event.assoc)

    def _answered(self, event: evt.Event) -> None:
        with self._changed:
            self._busy.discard(event.assoc)
            self._changed.notify_all()

    def _closed(self, event: evt.Event) -> None:
        with self._changed:
            self._broke = self._broke or event.assoc in self._busy
        self._answered(event)


def _storage(classes: Iterable[str]) -> set[str]:
    """Storage classes to accept, made known to pynetdicom: it lacks those that are retired."""
    wanted = set(classes)
    named = {one for one in wanted if is_uid(one)}
    for sop_class in named:
        if uid_to_service_class(sop_class) is ServiceClass:
            register_uid(sop_class, f"Class_{sop_class.replace('.', '_')}", StorageServiceClass)
    if named == wanted:
        return named
    return named | {str(context.abstract_syntax) for context in AllStoragePresentationContexts}

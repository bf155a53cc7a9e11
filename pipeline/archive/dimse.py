"""DIMSE (PS3.7): C-FIND, C-GET or C-MOVE, and C-STORE, in the study root model (PS3.4 C).

By C-GET objects come back over the connection that asks for them, so that neither the archive's
configuration nor a firewall needs to know of us. By C-MOVE the archive connects to us, which it
does only with whom its configuration names.
"""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path

from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pynetdicom import build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made while it is imported
    StudyRootQueryRetrieveInformationModelFind as FIND,
)
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelGet as GET,
)
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelMove as MOVE,
)

from pipeline.archive.address import DimseAddress
from pipeline.archive.connection import LITTLE, Connection, NothingAccepted
from pipeline.archive.query import LEVELS, Instance, Query, identifier, is_uid
from pipeline.archive.storage import StorageServer, StoreHandler
from pipeline.dicom.errors import quiet
from pipeline.dicom.read.decoders import NATIVE, PLUGINS
from pipeline.errors import DescryError

log = logging.getLogger(__name__)
_PENDING, _UNSUPPORTED_KEY = 0xFF00, 0xFF01  # PS3.4 C.4.1.1.4
_DUPLICATE = 0x0111  # PS3.7 C.4.6
_UNACCEPTED = "the archive does not accept objects of this kind"
Ask = Callable[[Association, Instance], str | None]
Fetched = Generator[tuple[Instance, str], None, None]
_UNKNOWN_DESTINATION = 0xA801  # PS3.4 C.4.2.1.5
_MOVE_INSTEAD = "if it offers C-MOVE, add --move-port PORT"
# Asked for where the archive does not say what an object is: at most 128 contexts fit (PS3.8).
_COMMON = (
    uid.ComputedRadiographyImageStorage,
    uid.DigitalXRayImageStorageForPresentation,
    uid.DigitalMammographyXRayImageStorageForPresentation,
    uid.CTImageStorage,
    uid.MRImageStorage,
    uid.SecondaryCaptureImageStorage,
    uid.EnhancedMRImageStorage,
    uid.EnhancedCTImageStorage,
)


class DimseArchive:
    """An application entity (see `pipeline.archive.transfer.Archive`)."""

    def __init__(self, address: DimseAddress, timeout: float) -> None:
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # it prints identifiers
        self.address, self._timeout = address, timeout
        self._vague = False

    def __enter__(self) -> "DimseArchive":
        return self

    def __exit__(self, *exception: object) -> None:
        pass  # each conversation has a line of its own

    def find(self, query: Query) -> Iterator[Instance]:
        """Name the objects that match: studies, their series, their instances."""
        with Connection(self.address, self._timeout, [build_context(FIND)]) as line:
            for study in self._matches(line, "STUDY", dict(query.study), "StudyInstanceUID"):
                name = str(study.get("StudyInstanceUID", ""))
                if is_uid(name):  # as a key, an empty one would match every study
                    yield from self._within(line, name, dict(query.series))
                else:
                    yield Instance(name, "", "")

    def _within(self, line: Connection, study: str, keys: dict[str, str]) -> Iterator[Instance]:
        """Name the objects of a study in series that match."""
        keys = {"StudyInstanceUID": study, **keys}
        for one in self._matches(line, "SERIES", keys, "SeriesInstanceUID"):
            series = str(one.get("SeriesInstanceUID", ""))
            if not is_uid(series):
                yield Instance(study, series, "")
                continue
            below = {"StudyInstanceUID": study, "SeriesInstanceUID": series}
            wanted = ("SOPInstanceUID", "SOPClassUID")
            for image in self._matches(line, "IMAGE", below, *wanted):
                yield Instance(study, series, *(str(image.get(key, "")) for key in wanted))

    def _matches(
        self, line: Connection, level: str, keys: dict[str, str], *wanted: str
    ) -> list[Dataset]:
        """All answers of a C-FIND (PS3.4 C.4.1)."""
        question = identifier(level, dict.fromkeys(wanted, "") | keys)
        found = line.tried(partial(self._answers, question=question))
        if found is None:
            raise line.unreachable("it breaks the connection again and again")
        return found

    def _answers(self, association: Association, question: Dataset) -> list[Dataset] | None:
        """Answers of a C-FIND, or None for a broken line."""
        found = []
        try:
            with quiet():
                for status, answer in association.send_c_find(question, FIND):
                    code = status.get("Status")
                    if code in (_PENDING, _UNSUPPORTED_KEY) and answer is not None:
                        found.append(answer)
                        self._warn(code == _UNSUPPORTED_KEY)
                    elif code is None:
                        return None
                    elif code != 0x0000:
                        said = f"the search failed (status {code:04X}H)"
                        raise DescryError(f"{self.address.title}: {said}")
        except RuntimeError:  # the association has ended
            return None
        return found

    def _warn(self, vague: bool) -> None:
        if vague and not self._vague:
            log.warning("the archive does not match every key of --query: it may give more")
        self._vague = self._vague or vague

    def fetch(self, instances: Iterable[Instance], folder: Path) -> Fetched:
        """Write each object below `folder`, in the transfer syntax that the archive keeps."""
        retrieve = by_get if self.address.destination is None else by_move
        return retrieve(self.address, self._timeout, instances, folder)

    def send(self, paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
        """Store files over one connection."""
        files = list(paths)
        metas = [read_file_meta_info(path) for path in files]
        contexts = [
            # The default syntax has to be offered (PS3.5 10.1); pynetdicom converts where it can.
            build_context(kind, [syntax])
            for kind, kept in sorted(
                {(m.MediaStorageSOPClassUID, m.TransferSyntaxUID) for m in metas}
            )
            for syntax in dict.fromkeys((kept, *(() if kept.is_compressed else LITTLE)))
        ]
        if not files:
            return
        with Connection(self.address, self._timeout, contexts) as line:
            for path in files:
                try:
                    reason = line.tried(partial(_stored, path=path))
                except NothingAccepted:
                    reason = _UNACCEPTED
                if reason is None:
                    raise line.unreachable("it breaks the connection again and again")
                yield path, reason


def _stored(association: Association, path: Path) -> str | None:
    """Store one file: empty, why it was not stored (PS3.7 9.1.1.1.9), or None for a broken line."""
    try:
        with quiet():
            code = association.send_c_store(path).get("Status")
    except ValueError:
        return _UNACCEPTED
    except RuntimeError:
        return None
    if code is None:
        return None
    # A duplicate is what a run that was stopped had sent: equal UIDs are equal objects.
    return "" if code in (0x0000, _DUPLICATE) or code >> 12 == 0xB else f"status {code:04X}H"


def by_get(
    address: DimseAddress, timeout: float, instances: Iterable[Instance], folder: Path
) -> Fetched:
    """Fetch by C-GET; see `pipeline.archive.transfer.Archive`."""
    by_class = sorted(instances, key=lambda one: (one.sop_class, one.path))
    for sop_class, group in groupby(by_class, key=lambda one: one.sop_class):
        classes = (sop_class,) if sop_class else _COMMON
        syntaxes = (*(NATIVE if sop_class else LITTLE), *PLUGINS)
        contexts = [build_context(one, [syntax]) for one in classes for syntax in syntaxes]
        roles = [build_role(one, scp_role=True) for one in classes]
        wanted = list(group)
        handler = StoreHandler(folder, wanted)
        handlers = [(evt.EVT_C_STORE, handler.store)]
        with Connection(address, timeout, [build_context(GET), *contexts], roles, handlers) as line:
            try:
                yield from _each(line, wanted, handler, _got)
            except NothingAccepted as error:
                raise DescryError(f"{error}; {_MOVE_INSTEAD}") from None


def by_move(
    address: DimseAddress, timeout: float, instances: Iterable[Instance], folder: Path
) -> Fetched:
    """Fetch by C-MOVE to our own title; see `pipeline.archive.transfer.Archive`."""
    wanted = sorted(instances, key=lambda one: one.path)
    if not wanted:
        return
    handler = StoreHandler(folder, wanted)
    line = Connection(address, timeout, [build_context(MOVE)])
    classes = {one.sop_class for one in wanted}
    server = StorageServer(address, timeout, handler, classes, line.idle)
    # Quiet here: what it changes is not a thread's own. The line ends first: an archive that still
    # sends what nobody waits for is not cut off in the middle.
    with quiet(), server, line:
        try:
            yield from _each(line, wanted, handler, partial(_moved, line=line, server=server))
        except NothingAccepted as error:
            raise DescryError(f"{error}; if it offers C-GET, leave out --move-port") from None


def _each(
    line: Connection, instances: Iterable[Instance], handler: StoreHandler, ask: Ask
) -> Fetched:
    """Ask for one object after the other; one at which the line breaks costs itself only."""
    broke_before = False
    for instance in instances:
        reason = line.tried(partial(_asked, instance=instance, handler=handler, ask=ask))
        if reason is None and broke_before:
            raise line.unreachable("it breaks the connection again and again")
        broke_before = reason is None
        broken = f"the connection breaks at this object, {line.attempts} attempts"
        yield instance, handler.settle(instance, broken if reason is None else reason)


def _asked(
    association: Association, instance: Instance, handler: StoreHandler, ask: Ask
) -> str | None:
    """As `ask`, for what has not come along with another, or before the line broke."""
    return "" if handler.has(instance) else ask(association, instance)


def _got(association: Association, instance: Instance) -> str | None:
    """Ask by C-GET: why the archive does not give an object, or None for a broken line."""
    try:
        code = _last(association.send_c_get(_named(instance), GET)).get("Status")
    except RuntimeError:  # the association has ended
        return None
    except ValueError:
        return f"the archive does not offer C-GET; {_MOVE_INSTEAD}"
    return None if code is None else f"not given (status {code:04X}H)"


def _moved(
    association: Association, instance: Instance, line: Connection, server: StorageServer
) -> str | None:
    """Ask by C-MOVE, as `_got`.

    Raises
    ------
    DescryError
        When the archive does not know where we are, or takes another place for ours.
    """
    title = line.address.own_title
    try:
        answer = _last(association.send_c_move(_named(instance), title, MOVE))
    except RuntimeError:  # the association has ended
        answer = Dataset()
    code, here = answer.get("Status"), association.requestor.address
    register = f"it has to know AE title {title} as host {here} (this one), port {server.port}"
    if code == _UNKNOWN_DESTINATION:
        raise line.unreachable(f"it does not find us (status A801H{server.doubt()}); {register}")
    promised = code == 0x0000 and answer.get("NumberOfCompletedSuboperations") != 0
    came, broke = server.brought(instance, promised), server.broke()
    if came:
        return ""
    if promised and server.doubt():
        raise line.unreachable(f"it says that it has sent an object{server.doubt()}; {register}")
    if code is None or promised or broke:
        return None
    return f"not given (status {code:04X}H{server.doubt()})"


def _last(answers: Iterable[tuple[Dataset, Dataset | None]]) -> Dataset:
    """The last answer, which has the final status; empty for a broken line."""
    with quiet():
        return list(answers)[-1][0]


def _named(instance: Instance) -> Dataset:
    uids = (instance.study, instance.series, instance.uid)
    return identifier("IMAGE", dict(zip(LEVELS.values(), uids, strict=True)))

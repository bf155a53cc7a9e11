"""DIMSE (PS3.7): C-FIND, C-GET and C-STORE in the study root model.

C-GET and not C-MOVE: objects come back over the connection that asked for them, so that neither
the archive's configuration nor a firewall needs to know of us.
"""

import logging
from collections.abc import Iterable, Iterator
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

from pipeline.archive.address import DimseAddress
from pipeline.archive.line import WAITS, Line, NothingAccepted
from pipeline.archive.query import Instance, Query, is_uid
from pipeline.atomic import replacing
from pipeline.dicom.decoders import NATIVE, PLUGINS
from pipeline.dicom.errors import quiet
from pipeline.errors import DescryError

log = logging.getLogger(__name__)
_PENDING, _UNSUPPORTED_KEY = 0xFF00, 0xFF01  # PS3.4 C.4.1.1.4
_DUPLICATE = 0x0111  # PS3.7 C.4.6
_LITTLE = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian)
_UNACCEPTED = "the archive does not accept objects of this kind"
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
        with Line(self.address, self._timeout, [build_context(FIND)]) as line:
            for study in self._matches(line, "STUDY", dict(query.study), "StudyInstanceUID"):
                name = str(study.get("StudyInstanceUID", ""))
                if is_uid(name):  # as a key, an empty one would match every study
                    yield from self._within(line, name, dict(query.series))
                else:
                    yield Instance(name, "", "")

    def _within(self, line: Line, study: str, keys: dict[str, str]) -> Iterator[Instance]:
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

    def _matches(self, line: Line, level: str, keys: dict[str, str], *wanted: str) -> list[Dataset]:
        """All answers of a C-FIND (PS3.4 C.4.1)."""
        question = _question(level, dict.fromkeys(wanted, "") | keys)
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

    def fetch(self, instances: Iterable[Instance], folder: Path) -> Iterator[tuple[Instance, str]]:
        """Write each object below `folder`, in the transfer syntax that the archive keeps."""
        by_class = sorted(instances, key=lambda one: (one.sop_class, one.path))
        for sop_class, group in groupby(by_class, key=lambda one: one.sop_class):
            yield from self._fetch_class(sop_class, list(group), folder)

    def _fetch_class(
        self, sop_class: str, instances: list[Instance], folder: Path
    ) -> Iterator[tuple[Instance, str]]:
        """Fetch objects of one class; one at which the connection breaks costs itself only."""
        classes = (sop_class,) if sop_class else _COMMON
        syntaxes = (*(NATIVE if sop_class else _LITTLE), *PLUGINS)
        contexts = [build_context(one, [syntax]) for one in classes for syntax in syntaxes]
        roles = [build_role(one, scp_role=True) for one in classes]
        handlers = [(evt.EVT_C_STORE, _keep, [folder, {one.path for one in instances}])]
        broke_before = False
        with Line(
            self.address, self._timeout, [build_context(GET), *contexts], roles, handlers
        ) as line:
            for instance in instances:
                reason = line.tried(partial(_got, instance=instance, folder=folder))
                if reason is None and broke_before:
                    raise line.unreachable("it breaks the connection again and again")
                broke_before = reason is None
                broken = f"the connection breaks at this object, {len(WAITS)} attempts"
                yield instance, broken if reason is None else reason

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
            for syntax in dict.fromkeys((kept, *(() if kept.is_compressed else _LITTLE)))
        ]
        if not files:
            return
        with Line(self.address, self._timeout, contexts) as line:
            for path in files:
                try:
                    reason = line.tried(partial(_stored, path=path))
                except NothingAccepted:
                    reason = _UNACCEPTED
                if reason is None:
                    raise line.unreachable("it breaks the connection again and again")
                yield path, reason


def _question(level: str, keys: dict[str, str]) -> Dataset:
    """Identifier of a C-FIND or C-GET (PS3.4 C.4)."""
    question = Dataset()
    question.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(question, keyword, value)
    return question


def _got(association: Association, instance: Instance, folder: Path) -> str | None:
    """Fetch one object: empty, why the archive does not give it, or None for a broken line."""
    if (folder / instance.path).exists():  # it came along with another, or before the line broke
        return ""
    uids = (instance.study, instance.series, instance.uid)
    names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    question, code = _question("IMAGE", dict(zip(names, uids, strict=True))), None
    try:
        with quiet():
            for status, _ in association.send_c_get(question, GET):
                code = status.get("Status")
    except RuntimeError:  # the association has ended
        return None
    except ValueError:
        return "the archive does not offer C-GET"
    if (folder / instance.path).exists():
        return ""
    return None if code is None else f"not given (status {code:04X}H)"


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


def _keep(event: evt.Event, folder: Path, wanted: set[str]) -> int:
    """Write what C-GET brings, byte by byte as it was sent; its UIDs are its path."""
    with quiet():
        dataset = event.dataset
        names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        instance = Instance(*(str(dataset.get(name, "")) for name in names))
    if instance.path not in wanted:
        return 0xC000
    try:
        with replacing(folder / instance.path, "wb") as stream:
            stream.write(event.encoded_dataset())
    except OSError:
        return 0xA700  # out of resources
    return 0x0000

"""DIMSE (PS3.7): C-FIND, C-GET or C-MOVE, and C-STORE, in the study root model."""

import logging
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pynetdicom import build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made while it is imported
    StudyRootQueryRetrieveInformationModelFind as FIND,
)

from pipeline.archive.address import DimseAddress
from pipeline.archive.line import LITTLE, Line, NothingAccepted
from pipeline.archive.query import Instance, Query, identifier, is_uid
from pipeline.archive.retrieve import Fetched, by_get, by_move
from pipeline.dicom.errors import quiet
from pipeline.errors import DescryError

log = logging.getLogger(__name__)
_PENDING, _UNSUPPORTED_KEY = 0xFF00, 0xFF01  # PS3.4 C.4.1.1.4
_DUPLICATE = 0x0111  # PS3.7 C.4.6
_UNACCEPTED = "the archive does not accept objects of this kind"


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
        with Line(self.address, self._timeout, contexts) as line:
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

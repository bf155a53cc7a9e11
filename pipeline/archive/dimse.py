"""DIMSE (PS3.7): C-FIND, C-GET and C-STORE in the study root model.

C-GET and not C-MOVE: objects come back over the connection that asked for them, so that neither
the archive's configuration nor a firewall needs to know of us.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made while it is imported
    StudyRootQueryRetrieveInformationModelFind as FIND,
)
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelGet as GET,
)

from pipeline.archive.address import DimseAddress
from pipeline.archive.query import Instance, Query, is_uid
from pipeline.atomic import replacing
from pipeline.dicom.decoders import PLUGINS
from pipeline.dicom.errors import quiet
from pipeline.errors import DescryError

_WAITS = (1.0, 2.0, 4.0, None)  # seconds before the next attempt
_PENDING = (0xFF00, 0xFF01)  # PS3.4 C.4.1.1.4
_SYNTAXES = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, *PLUGINS)
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
        self.address = address
        self._entity = AE(ae_title=address.own_title)
        for name in ("acse", "dimse", "network", "connection"):
            setattr(self._entity, f"{name}_timeout", timeout)

    def __enter__(self) -> "DimseArchive":
        return self

    def __exit__(self, *exception: object) -> None:
        self._entity.shutdown()

    def find(self, query: Query) -> Iterator[Instance]:
        """Name the objects that match: studies, their series, their instances."""
        with self._association([build_context(FIND)]) as open_one:
            for study in self._matches(open_one, "STUDY", dict(query.study), "StudyInstanceUID"):
                within = {"StudyInstanceUID": study.StudyInstanceUID}
                keys = within | dict(query.series)
                for series in self._matches(open_one, "SERIES", keys, "SeriesInstanceUID"):
                    below = within | {"SeriesInstanceUID": series.SeriesInstanceUID}
                    wanted = ("SOPInstanceUID", "SOPClassUID")
                    for one in self._matches(open_one, "IMAGE", below, *wanted):
                        yield Instance(*below.values(), *(str(one.get(key, "")) for key in wanted))

    def _matches(
        self, association: Association, level: str, keys: dict[str, str], *wanted: str
    ) -> list[Dataset]:
        """All answers of a C-FIND (PS3.4 C.4.1)."""
        question, found = _question(level, dict.fromkeys(wanted, "") | keys), []
        with quiet():
            for status, answer in association.send_c_find(question, FIND):
                code = status.get("Status")
                if code in _PENDING and answer is not None:
                    found.append(answer)
                elif code != 0x0000:
                    said = "no answer" if code is None else f"status {code:04X}H"
                    raise DescryError(f"{self.address.title}: the search failed ({said})")
        return found

    def fetch(self, instances: Iterable[Instance], folder: Path) -> Iterator[tuple[Instance, str]]:
        """Write each object below `folder`, in the transfer syntax that the archive keeps."""
        by_class = sorted(instances, key=lambda one: (one.sop_class, one.path))
        for sop_class, group in groupby(by_class, key=lambda one: one.sop_class):
            yield from self._fetch_class(sop_class, list(group), folder)

    def _fetch_class(
        self, sop_class: str, instances: list[Instance], folder: Path
    ) -> Iterator[tuple[Instance, str]]:
        """Fetch objects of one class; go on with the rest when the connection breaks."""
        classes = (sop_class,) if sop_class else _COMMON
        contexts = [build_context(one, [syntax]) for one in classes for syntax in _SYNTAXES]
        roles = [build_role(one, scp_role=True) for one in classes]
        handlers = [(evt.EVT_C_STORE, _keep, [folder])]
        todo, breaks = instances, 0
        while todo:
            with self._association([build_context(GET), *contexts], roles, handlers) as open_one:
                for instance in list(todo):
                    reason = _got(open_one, instance, folder)
                    if reason is None:
                        breaks += 1
                        break
                    todo, breaks = todo[1:], 0
                    yield instance, reason
            if breaks >= len(_WAITS):
                raise self._unreachable("it breaks the connection again and again")

    def send(self, paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
        """Store files over one connection."""
        files = list(paths)
        metas = [read_file_meta_info(path) for path in files]
        kinds = {(m.MediaStorageSOPClassUID, m.TransferSyntaxUID) for m in metas}
        if not files:
            return
        with self._association([build_context(c, [s]) for c, s in sorted(kinds)]) as open_one:
            for path in files:
                yield path, self._stored(open_one, path)

    def _stored(self, association: Association, path: Path) -> str:
        """Empty, or why a file was not stored (PS3.7 9.1.1.1.9)."""
        try:
            with quiet():
                code = association.send_c_store(path).get("Status")
        except ValueError:
            return "the archive does not accept objects of this kind"
        except RuntimeError:
            code = None
        if code is None:
            raise self._unreachable("it has stopped answering")
        return "" if code == 0x0000 or code >> 12 == 0xB else f"status {code:04X}H"

    @contextmanager
    def _association(
        self,
        contexts: Sequence[PresentationContext],
        roles: Sequence[Any] = (),
        handlers: Sequence[Any] = (),
    ) -> Iterator[Association]:
        association = self._connected(contexts, roles, handlers)
        try:
            yield association
        finally:
            if association.is_established:
                association.release()

    def _connected(
        self, contexts: Sequence[Any], roles: Sequence[Any], handlers: Sequence[Any]
    ) -> Association:
        """An open association; further attempts wait longer each time."""
        for wait in _WAITS:
            association = self._entity.associate(
                self.address.host,
                self.address.port,
                contexts=list(contexts),
                ae_title=self.address.title,
                ext_neg=list(roles),
                evt_handlers=list(handlers),
            )
            if association.is_established:
                return association
            if association.is_rejected:
                raise self._unreachable("it rejects us: does it know our AE title and its own?")
            if wait is not None:
                time.sleep(wait)
        raise self._unreachable(f"no connection in {len(_WAITS)} attempts")

    def _unreachable(self, what: str) -> DescryError:
        return DescryError(
            f"archive {self.address.title} on port {self.address.port}: {what}; "
            "the same command goes on where it stopped"
        )


def _question(level: str, keys: dict[str, str]) -> Dataset:
    """Identifier of a C-FIND or C-GET (PS3.4 C.4)."""
    question = Dataset()
    question.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(question, keyword, value)
    return question


def _got(association: Association, instance: Instance, folder: Path) -> str | None:
    """Fetch one object: empty, why the archive does not give it, or None for a broken line."""
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


def _keep(event: evt.Event, folder: Path) -> int:
    """Write what C-GET brings, byte by byte as it was sent; its UIDs are its path."""
    with quiet():
        dataset = event.dataset
        names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        instance = Instance(*(str(dataset.get(name, "")) for name in names))
    if not all(map(is_uid, (instance.study, instance.series, instance.uid))):
        return 0xC000
    try:
        with replacing(folder / instance.path, "wb") as stream:
            stream.write(event.encoded_dataset())
    except OSError:
        return 0xA700  # out of resources
    return 0x0000

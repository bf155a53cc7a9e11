"""Which records are finished already, and how one knows that they still are."""

import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pipeline
from pipeline.convert.engine.scan import RecordIndex, describe
from pipeline.convert.engine.worker import Outcome, Timings, dropped
from pipeline.convert.records import Record, Source
from pipeline.versions import version_of
from pipeline.work.journal import NEVER_REUSED, Journal
from pipeline.work.pool import Crashed
from pipeline.work.progress import Progress

_PACKAGES = ("numpy", "pillow", "opencv-python-headless", "pydicom", "h5py", "python-gdcm")
_ROOMS = ("convert", "data", "dicom")  # of the package, whose code decides over pixels and boxes


class Fingerprint:
    """Digests of records: of all that the outcome of a record depends on.

    That is the record, size and modification time of its image file, the source with its
    parameters, the PNG level, our code and the versions of the libraries that decode and encode.
    """

    def __init__(self, source: Source, png_level: int) -> None:
        self.raw = source.raw
        base = [type(source).__qualname__, describe(source), png_level]
        base += [_code(source), [version_of(package) for package in _PACKAGES]]
        self._base = json.dumps(base, default=str, sort_keys=True).encode()

    def of(self, record: Record) -> str:
        """Digest of one record, 32 hexadecimal digits.

        Raises
        ------
        FileNotFoundError
            When there is no image file.
        """
        status = (self.raw / record.path).stat()
        digest = hashlib.sha256(self._base)
        digest.update(repr((record, status.st_size, status.st_mtime_ns)).encode())
        return digest.hexdigest()[:32]


def _code(source: Source) -> str:
    """Digest of the code that reads, checks and writes, and of the source's own module."""
    root = Path(pipeline.__file__).parent
    files = {path for room in _ROOMS for path in (root / room).rglob("*.py")}
    files.add(Path(inspect.getfile(type(source))))
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class PendingRecords:
    """Hands out the records that are not finished and enters the results."""

    def __init__(
        self,
        fingerprint: Fingerprint,
        journal: Journal,
        index: RecordIndex,
        images: Path,
        bar: Progress,
    ) -> None:
        self.fingerprint, self.journal, self.index = fingerprint, journal, index
        self.images, self.bar = images, bar
        self._under_way: dict[int, tuple[str, Record]] = {}

    def jobs(self, records: Iterable[Record]) -> Iterator[tuple[int, Record]]:
        """Yield the records for the workers; the others are entered at once."""
        for number, record in enumerate(records):
            try:
                digest = self.fingerprint.of(record)
            except OSError as error:  # a loop of links, say: the others are read
                lost = isinstance(error, FileNotFoundError)
                reason = "image missing" if lost else "image cannot be opened"
                self._enter(number, NEVER_REUSED, record, dropped(record, reason))
                continue
            place = self.journal.find(digest)
            if place is not None and self._is_whole(entry := self.journal.at(place)):
                self.index.put(number, place, entry)
                self.bar.advance()
                continue
            self._under_way[number] = digest, record
            yield number, record

    def _is_whole(self, entry: dict[str, Any]) -> bool:
        """Whether the entry's image file, if it has one, is there at its full size."""
        path = self.images / entry["file"]
        return not entry["file"] or (path.is_file() and path.stat().st_size == entry["bytes"])

    def done(self, number: int, result: Any, spent: Timings) -> None:
        """Enter the result of a worker, and add its time to `spent`."""
        digest, record = self._under_way.pop(number)
        if isinstance(result, Crashed):
            self._enter(
                number, NEVER_REUSED, record, dropped(record, "decoder crashed", result.how)
            )
            return
        outcome, seconds = result
        self._enter(number, digest, record, outcome)
        for part in fields(spent):
            setattr(spent, part.name, getattr(spent, part.name) + getattr(seconds, part.name))

    def _enter(self, number: int, digest: str, record: Record, outcome: Outcome) -> None:
        """Write one line of the journal."""
        entry = {
            "key": record.key,
            "path": record.path,
            "group": record.group,
            "split": record.split,
            "size": record.size,
            "crop": record.crop,
            **{part.name: getattr(outcome, part.name) for part in fields(outcome)},
        }
        self.index.put(number, self.journal.add(entry, digest), entry)
        self.bar.advance()

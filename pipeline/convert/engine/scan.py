"""The scan of a source, spooled to disk: memory stays flat and the number of images is known."""

import hashlib
import pickle
from array import array
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pipeline.convert.engine.split import NONE, group_number
from pipeline.convert.records import SPLITS, Ledger, Record, Source
from pipeline.errors import DescryError

NOT_UTF8 = "file name is not UTF-8"
TOO_LONG = "file name leaves no room for .png in 255 bytes"
_LONGEST = 251  # bytes of a name that file systems hold, without ".png"


class Scan:
    """Records of a source in order, in a file; the ledger of their scan.

    Attributes
    ----------
    records : int
    box_rows : int
        Distinct annotation rows (`Box.where`) among the records' boxes.
    """

    def __init__(self, source: Source, path: Path) -> None:
        self.path, self.ledger = path, Ledger()
        self.records = 0
        keys, rows = array("Q"), array("Q")
        with path.open("wb") as stream:
            for record in source.scan(self.ledger):
                rows.extend(number_of(box.where) for box in record.boxes if box.where)
                if not self._is_usable(record):
                    continue
                keys.append(number_of(record.key))
                pickle.dump(record, stream, protocol=pickle.HIGHEST_PROTOCOL)
                self.records += 1
        self.box_rows = len(np.unique(np.array(rows, np.uint64)))
        self._check_unique(np.array(keys, np.uint64))

    def _is_usable(self, record: Record) -> bool:
        """Whether the record's names can be written; if not, it is entered as dropped."""
        _check(record)
        reason = ""
        if writable(record.key + record.path) != record.key + record.path:
            reason = NOT_UTF8
        elif any(len(part.encode()) > _LONGEST for part in record.key.split("/")):
            reason = TOO_LONG
        if not reason:
            return True
        self.ledger.drop("image", writable(record.path), reason)
        for box in record.boxes:
            self.ledger.drop("box", writable(box.where), "image dropped", reason)
        return False

    def __iter__(self) -> Iterator[Record]:
        with self.path.open("rb") as stream:
            for _ in range(self.records):
                yield pickle.load(stream)

    def _check_unique(self, keys: np.ndarray) -> None:
        """Two records with one key would overwrite each other's image."""
        numbers, counts = np.unique(keys, return_counts=True)
        repeated = set(numbers[counts > 1].tolist())
        if not repeated:
            return
        first: dict[str, Record] = {}
        for record in self:
            if number_of(record.key) in repeated:
                other = first.setdefault(record.key, record)
                if other is not record:
                    raise DescryError(
                        f"{other.path} and {record.path} would both become the image "
                        f"{record.key!r}; rename or remove one of them"
                    )


def _check(record: Record) -> None:
    """Refuse a key that does not name a file below the images folder, or an unknown split."""
    parts = record.key.split("/")
    if "\\" in record.key or "\0" in record.key or {"", ".", ".."} & set(parts):
        raise DescryError(
            f"{record.path}: {record.key!r} cannot name an output image; rename the file"
        )
    if record.split is not None and record.split not in SPLITS:
        raise DescryError(f"{record.path}: split {record.split!r} is none of {', '.join(SPLITS)}")
    if PurePosixPath(record.path).is_absolute():
        raise DescryError(f"{record.path}: the path of an image must be relative to the raw folder")


def number_of(text: str) -> int:
    """64 bits that stand for `text` in an array instead of a Python string in a set."""
    data = text.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def writable(text: str) -> str:
    """`text` as UTF-8 can hold it; bytes of a file name that are not UTF-8 become escapes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def describe(source: Source) -> dict[str, Any]:
    """Parameters of a source (a dataclass): those of params.yaml, and what it was given beside."""
    given = {part.name: getattr(source, part.name) for part in fields(source)}  # type: ignore[arg-type]
    plain = {key: asdict(value) if is_dataclass(value) else value for key, value in given.items()}  # type: ignore[arg-type]
    chosen = plain.pop("params", {})
    return chosen | {key: value for key, value in plain.items() if key not in ("raw", "dataset")}


class RecordIndex:
    """Arrays over the records: 75 bytes each.

    Attributes
    ----------
    places : array (n,), int64
        Where the record's line begins in the journal.
    groups, paths : array (n,), uint64
    pixels : array (n, 2), uint64
        The first 128 bits of the pixels' digest.
    looks : array (n, 32), uint8
        Perceptual hash; zeros where there is none.
    official : array (n,), int8
    written, has_box : array (n,), bool
    """

    def __init__(self, records: int, seed: int) -> None:
        self.seed = seed
        self.places = np.zeros(records, np.int64)
        self.groups = np.zeros(records, np.uint64)
        self.paths = np.zeros(records, np.uint64)
        self.pixels = np.zeros((records, 2), np.uint64)
        self.looks = np.zeros((records, 32), np.uint8)
        self.official = np.full(records, NONE, np.int8)
        self.written = np.zeros(records, bool)
        self.has_box = np.zeros(records, bool)

    def put(self, number: int, place: int, entry: dict[str, Any]) -> None:
        """Note record `number`, whose journal line begins at `place`."""
        self.places[number] = place
        self.groups[number] = group_number(self.seed, entry["group"], entry["key"])
        self.paths[number] = number_of(entry["path"])
        if entry["split"]:
            self.official[number] = SPLITS.index(entry["split"])
        if entry["file"]:
            self.written[number] = True
            self.has_box[number] = bool(entry["boxes"])
            halves = entry["pixels"][:16], entry["pixels"][16:32]
            self.pixels[number] = [int(half, 16) for half in halves]
            if entry["look"]:
                self.looks[number] = list(bytes.fromhex(entry["look"]))


class HashSet:
    """A set of texts held as sorted 64-bit numbers, 8 bytes each."""

    def __init__(self, numbers: np.ndarray) -> None:
        self._sorted = np.unique(numbers)

    def __contains__(self, text: str) -> bool:
        number = np.uint64(number_of(text))
        at = int(np.searchsorted(self._sorted, number))
        return at < len(self._sorted) and bool(self._sorted[at] == number)

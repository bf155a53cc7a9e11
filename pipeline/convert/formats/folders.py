"""What the folder layouts (YOLO, VOC, COCO) share: splits, wanted classes, listing images."""

import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Protocol
from urllib.parse import unquote

from pipeline.convert.formats.pictures import SUFFIXES, files_below, patient_of
from pipeline.convert.records import Ledger, Record
from pipeline.errors import DescryError

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_ROBOFLOW = re.compile(r"^(?P<name>.+?)(_(jpe?g|png|bmp|tiff?|webp))?\.rf\.[0-9A-Za-z]+$", re.I)


class InvalidRow(Exception):
    """One annotation row cannot be used.

    Parameters
    ----------
    reason : str
        A constant phrase, counted by the report.
    detail : str
        The value at fault.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


ROTATED = "box(es) are turned: the upright box around each is taken."


def angle_of(value: object) -> float:
    """Degrees of a rotation attribute; a value that is no number refuses the row.

    Raises
    ------
    InvalidRow
    """
    try:
        angle = float(str(value).replace(",", "."))
    except ValueError as error:
        raise InvalidRow("malformed row", f"rotation {value!r}") from error
    if not math.isfinite(angle):
        raise InvalidRow("malformed row", f"rotation {value!r}")
    return angle % 360


def enclosing(
    x: float, y: float, width: float, height: float, degrees: float
) -> tuple[float, float, float, float]:
    """The upright box around a box that is turned about its centre."""
    turn = math.radians(degrees)
    cos, sin = abs(math.cos(turn)), abs(math.sin(turn))
    w = round(width * cos + height * sin, 6)
    h = round(width * sin + height * cos, 6)
    return x + (width - w) / 2, y + (height - h) / 2, w, h


class Layout(Protocol):
    """One kind of annotated folder, opened."""

    def records(self, ledger: Ledger) -> Iterator[Record]:
        """Yield one record per usable image, in sorted order."""
        ...

    def names(self) -> list[str]:
        """Class names in id order; called after `records` is exhausted."""
        ...


@dataclass(frozen=True, slots=True)
class Selection:
    """The classes that a caller wants; without any, all that are found."""

    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.classes:
            if self.classes.count(name) > 1:
                raise DescryError(f"classes: {name!r} stands there twice; each class once.")

    def check(self, label: str) -> str:
        """Return `label`, or raise `InvalidRow` when it is not among the wanted classes."""
        if self.classes and label not in self.classes:
            raise InvalidRow("class not selected", repr(label))
        return label

    def order(self, found: list[str]) -> list[str]:
        """Class names in id order: as asked for, else as found."""
        return list(self.classes) if self.classes else found

    def among(self, declared: list[str], where: Path) -> None:
        """Fail when a wanted class is not declared by the dataset itself."""
        unknown = [name for name in self.classes if name not in declared]
        if unknown:
            raise DescryError(
                f"classes: {unknown[0]!r} is not a class of {where}. Allowed: {', '.join(declared)}"
            )


@dataclass(frozen=True, slots=True)
class FolderPair:
    """A folder of images and the one with what is known of them.

    `split` is the official split that the folder's name says, `key` begins the keys of its images.
    """

    images: Path
    truth: Path
    split: str | None
    key: str


def find_pairs(base: Path, truth: str) -> list[FolderPair]:
    """Pairs below `base`: ``train/images``, ``images/train`` or ``images``, and `truth` beside.

    The first of these three shapes that is present wins; an empty list means none is. By splits,
    the images alone make a pair, whose `truth` is not there. Case does not matter.
    """
    by_split = [
        FolderPair(child(base, name, "images"), child(base, name, truth), split, name)
        for name, split in SPLIT_NAMES.items()
    ]
    by_kind = [
        FolderPair(child(base, "images", name), child(base, truth, name), split, name)
        for name, split in SPLIT_NAMES.items()
    ]
    for shape in (by_split, by_kind):
        found = [pair for pair in shape if pair.images.is_dir()]
        if found:
            return found
    flat = FolderPair(child(base, "images"), child(base, truth), None, "")
    return [flat] if flat.images.is_dir() and flat.truth.is_dir() else []


def child(folder: Path, *names: str) -> Path:
    """A path below `folder`, whatever the case in which its parts are written there."""
    for name in names:
        exact = folder / name
        if not exact.exists() and folder.is_dir():
            alike = sorted(p for p in folder.iterdir() if p.name.lower() == name.lower())
            exact = next(iter(alike), exact)
        folder = exact
    return folder


def relative(raw: Path, path: Path) -> str:
    """Path of `path` below `raw`, with ``/``."""
    return path.relative_to(raw).as_posix()


def bases(raw: Path) -> list[Path]:
    """Folders in which a layout may begin: the raw folder and, below it, unpacked archives."""
    if not raw.is_dir():
        raise DescryError(f"{raw}: not a folder. Unpack the dataset and name its folder.")
    below = sorted(p for p in raw.iterdir() if p.is_dir() and not p.name.startswith("."))
    return [raw, *(p for p in below if p.name != "__MACOSX")]


def images_in(folder: Path, raw: Path, ledger: Ledger) -> dict[str, Path]:
    """Map name to image file, sorted; of two files with one name only the first is kept.

    The name is the path below `folder` without extension. Annotations name an image by it, so
    ``a.jpg`` beside ``a.png`` is ambiguous.
    """
    found: dict[str, Path] = {}
    for path in files_below(folder, SUFFIXES):
        name = name_of(path, folder)
        if name in found:
            ledger.drop("image", relative(raw, path), "another image has the same name")
        else:
            found[name] = path
    return found


def name_of(path: Path, folder: Path) -> str:
    """Path below `folder` without extension, with ``/``."""
    return path.relative_to(folder).with_suffix("").as_posix()


@dataclass(slots=True)
class NameMatch:
    """Which annotation belongs to which image.

    Attributes
    ----------
    pairs : dict
        Name of the image -> name of the annotation.
    alike : list of (str, str)
        Those of the pairs whose names are not equal.
    unclear : dict
        Images of which several annotations, or annotations of which several images, have nearly
        the name: name of the image -> one of the annotations.
    """

    pairs: dict[str, str]
    alike: list[tuple[str, str]] = field(default_factory=list)
    unclear: dict[str, str] = field(default_factory=dict)


def match_names(images: Iterable[str], annotations: Iterable[str]) -> NameMatch:
    """Match by equal names; what is left over, by names that differ as exports make them differ.

    That is by case, by the form of accents (Unicode NFC or NFD), by ``%20`` for a blank, or by an
    image's extension that was kept (``a.jpg.txt``).
    """
    truths = set(annotations)
    match = NameMatch({name: name for name in images if name in truths})
    left: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, names in enumerate((images, sorted(truths))):
        for name in names:
            if name not in match.pairs:
                left[_alike(name)][side].append(name)
    for ours, theirs in left.values():
        if len(ours) == len(theirs) == 1:
            match.pairs[ours[0]] = theirs[0]
            match.alike.append((ours[0], theirs[0]))
        elif theirs:
            match.unclear |= dict.fromkeys(ours, theirs[0])
    return match


def _alike(name: str) -> str:
    """What names have in common that mean one file."""
    plain = unicodedata.normalize("NFC", unquote(name)).casefold()
    return plain.removesuffix(PurePosixPath(plain).suffix) if _has_image_suffix(plain) else plain


def _has_image_suffix(name: str) -> bool:
    return PurePosixPath(name).suffix in SUFFIXES


def original_name(stem: str) -> str | None:
    """Name that an image had before Roboflow: ``y24_jpg.rf.<hash>`` -> ``y24``; else None.

    Augmented copies of one original share it, so it is what may not be divided between splits.
    """
    match = _ROBOFLOW.match(stem)
    return match["name"] if match else None


@dataclass(slots=True)
class Groups:
    """Gives each record its group.

    Parameters
    ----------
    raw : Path
        What the records' paths are relative to.
    pattern : str
        Regular expression for paths; its first group, else the whole match, is the name. Empty:
        the layout's own answer or, for DICOM without one, a digest of the Patient ID.

    Raises
    ------
    DescryError
        When the pattern is no regular expression.
    """

    raw: Path
    pattern: str = ""

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise DescryError(
                f"group={self.pattern!r}: not a regular expression ({error})"
            ) from None

    def records(self, records: Iterator[Record], ledger: Ledger) -> Iterator[Record]:
        """Yield the records with their groups, and note how many images have none.

        Raises
        ------
        DescryError
            When the pattern finds nothing in a path: alone, the image could be divided from its
            own kind.
        """
        images = alone = 0
        for record in records:
            group = self._group(record)
            images, alone = images + 1, alone + (not group and record.split is None)
            yield replace(record, group=group)
        if alone:
            ledger.note(
                f"{alone} of {images} image(s) say nothing of their patient or slide and stand for "
                "themselves: if several are of one, set group."
            )

    def _group(self, record: Record) -> str:
        if self.pattern:
            found = re.search(self.pattern, record.path)
            name = found and (found[1] if found.re.groups else found[0])
            if not name:
                raise DescryError(f"group={self.pattern!r}: finds nothing in {record.path}")
            return name
        return record.group or patient_of(self.raw / record.path)

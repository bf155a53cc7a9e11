"""What the folder layouts (YOLO, VOC, COCO) share: listing images, names, sizes, reading one."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image, UnidentifiedImageError

from pipeline.convert.formats.orient import in_displayed_frame
from pipeline.convert.records import Ledger, Picture, Record, Unreadable
from pipeline.data.images import EXTENSIONS, ImageError, read_image
from pipeline.errors import DescryError

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_ROBOFLOW = re.compile(r"^(?P<name>.+?)(_(jpe?g|png|bmp|tiff?|webp))?\.rf\.[0-9A-Za-z]+$", re.I)
_ORIENTATION = 0x0112


class BadRow(Exception):
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
        """Return `label`, or raise `BadRow` when it is not among the wanted classes."""
        if self.classes and label not in self.classes:
            raise BadRow("class not selected", repr(label))
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
    """Map stem to image file, sorted; of two files with one stem only the first is kept.

    Annotations name an image by its stem, so ``a.jpg`` beside ``a.png`` is ambiguous.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in EXTENSIONS or path.name.startswith("."):
            continue
        if path.stem in found:
            ledger.drop("image", relative(raw, path), "another image has the same name")
        else:
            found[path.stem] = path
    return found


def displayed_size(path: Path) -> tuple[int, int] | None:
    """Width and height after the EXIF orientation, from the header alone; None if unreadable."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            return (height, width) if _orientation(image) >= 5 else (width, height)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def is_turned(path: Path) -> bool:
    """Whether the file asks to be shown turned or mirrored (EXIF orientation 2 to 8)."""
    try:
        with Image.open(path) as image:
            return _orientation(image) != 1
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _orientation(image: Image.Image) -> int:
    """EXIF orientation; a PNG without an early eXIf chunk is not decoded to look for one."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    value = int(image.getexif().get(_ORIENTATION, 1) or 1)
    return value if 1 <= value <= 8 else 1


def original_name(stem: str) -> str | None:
    """Name that an image had before Roboflow: ``y24_jpg.rf.<hash>`` -> ``y24``; else None.

    Augmented copies of one original share it, so it is what may not be divided between splits.
    """
    match = _ROBOFLOW.match(stem)
    return match["name"] if match else None


def read_ordinary(raw: Path, record: Record) -> Picture:
    """Decode the image file of `record`; its boxes follow an EXIF orientation.

    Raises
    ------
    Unreadable
        When the file is missing, is not a complete image, or has another size than the
        annotation declares.
    """
    try:
        image = read_image(raw / record.path)
    except FileNotFoundError as error:
        raise Unreadable("image missing") from error
    except ImageError as error:
        raise Unreadable("corrupt image", str(error)) from error
    boxes, notes = in_displayed_frame(record.boxes, record.size, image)
    return Picture(image.pixels, boxes, image.verbatim, image.notes + notes)

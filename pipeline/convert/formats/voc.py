"""Pascal VOC folders: one xml per image in Annotations, splits as name lists in ImageSets/Main.

Corners follow the VOC development kit: 1-based pixel numbers, both inclusive, so that a box that
covers a whole image of width W reads xmin = 1, xmax = W. Hence x = xmin - 1 and
width = xmax - xmin + 1. A box whose two corners coincide in x or y (a click without a drag, not
an object one pixel wide) gets no extent there and is dropped as degenerate.
"""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.convert.formats.folders import (
    InvalidRow,
    Selection,
    images_in,
    original_name,
    relative,
)
from pipeline.convert.records import Box, Ledger, Record
from pipeline.errors import DescryError

_FOLDERS = (("Annotations", "JPEGImages"), ("annotations", "images"))
_LISTS = {"test": "test", "val": "val", "train": "train"}


@dataclass(frozen=True, slots=True)
class ListedImage:
    """Where a split list names an image."""

    split: str
    file: str
    number: int


@dataclass(slots=True)
class VocLayout:
    """One VOC dataset below `base`; paths in records are relative to `raw`."""

    raw: Path
    base: Path
    annotations: Path
    images: Path
    selection: Selection = field(default_factory=Selection)
    found: set[str] = field(default_factory=set)
    difficult: int = 0

    def names(self) -> list[str]:
        """Class names, sorted unless given: VOC declares none."""
        return self.selection.order(sorted(self.found))

    def records(self, ledger: Ledger) -> Iterator[Record]:
        """Yield one record per xml file with an image (see `formats.folders.Layout`)."""
        splits = self._splits(ledger)
        images = images_in(self.images, self.raw, ledger)
        for path in sorted(self.annotations.glob("*.xml")):
            record = self._record(path, images, splits, ledger)
            if record is not None:
                yield record
        self._account(images, splits, ledger)

    def _record(
        self, path: Path, images: dict[str, Path], splits: dict[str, ListedImage], ledger: Ledger
    ) -> Record | None:
        file = relative(self.raw, path)
        listed = splits.pop(path.stem, None)
        if listed is not None:
            ledger.use(listed.file)
        root = _parse(path, file, ledger)
        image = images.pop(path.stem, None)
        if image is None and root is not None:
            image = images.pop(Path(root.findtext("filename") or "").stem, None)
        boxes = None
        if root is not None:
            boxes = self._boxes(root, file, ledger, with_image=image is not None)
        if image is None:
            ledger.drop("file", file, "annotation without image")
        elif root is None or boxes is None:  # without its boxes it would pass for a negative
            ledger.drop("image", relative(self.raw, image), "annotation unusable", file)
        else:
            split, group = listed.split if listed else None, original_name(path.stem) or ""
            place = relative(self.raw, image)
            return Record(path.stem, place, boxes, group, split, _size(root))
        return None

    def _boxes(
        self, root: ElementTree.Element, file: str, ledger: Ledger, with_image: bool
    ) -> tuple[Box, ...] | None:
        """Boxes of one xml; None when all of its objects are malformed."""
        objects = root.findall("object")
        ledger.read(file, len(objects))
        boxes, malformed = [], 0
        for number, element in enumerate(objects, 1):
            where = f"{file}:object {number}"
            try:
                if not with_image:
                    raise InvalidRow("annotation without image")
                boxes.append(self._box(element, where))
            except InvalidRow as bad:
                malformed += bad.reason != "class not selected"
                ledger.drop("row", where, bad.reason, bad.detail)
        return None if objects and malformed == len(objects) else tuple(boxes)

    def _box(self, element: ElementTree.Element, where: str) -> Box:
        x, y, width, height = parse_corners(element.find("bndbox"))
        label = (element.findtext("name") or "").strip()
        if not label:
            raise InvalidRow("malformed row", "object without a name")
        self.selection.check(label)
        self.found.add(label)
        self.difficult += (element.findtext("difficult") or "0").strip() == "1"
        return Box(x, y, width, height, label, where)

    def _splits(self, ledger: Ledger) -> dict[str, ListedImage]:
        """Split by image name from ImageSets/Main, the evaluation side first."""
        folder = self.base / "ImageSets" / "Main"
        splits: dict[str, ListedImage] = {}
        for name, split in _LISTS.items():
            path = folder / f"{name}.txt"
            if path.is_file():
                self._list(path, split, splits, ledger)
        joint = folder / "trainval.txt"
        if joint.is_file() and not (folder / "train.txt").is_file():
            self._list(joint, "train", splits, ledger)
        elif joint.is_file():
            ledger.claim(relative(self.raw, joint))
        return splits

    def _list(self, path: Path, split: str, splits: dict[str, ListedImage], ledger: Ledger) -> None:
        """Enter the names of one list; a name of an earlier list stays where it is."""
        file = relative(self.raw, path)
        names = [line.strip() for line in _lines(path) if line.strip()]
        ledger.read(file, len(names))
        for number, name in enumerate(names, 1):
            first = splits.setdefault(name, ListedImage(split, file, number))
            if (first.file, first.number) == (file, number):
                continue
            if path.stem == "trainval":  # names val.txt's images once more
                ledger.use(file)
            else:
                where = f"{file}:name {number}"
                ledger.drop("row", where, "listed twice", f"{name} is already {first.split}")

    def _account(
        self, images: dict[str, Path], splits: dict[str, ListedImage], ledger: Ledger
    ) -> None:
        """Images without xml, listed names without anything, and what the reader should know."""
        for path in images.values():
            ledger.drop("image", relative(self.raw, path), "image without annotation")
        for name, listed in splits.items():
            where = f"{listed.file}:name {listed.number}"
            ledger.drop("row", where, "listed but not annotated", name)
        if self.difficult:
            ledger.note(f"{self.difficult} object(s) are marked difficult; kept as ordinary ones.")
        for name in sorted(set(self.selection.classes) - self.found):
            ledger.note(f"classes: no object of class {name!r} was found.")


def open_voc(raw: Path, base: Path, selection: Selection) -> VocLayout | None:
    """Return the VOC dataset that begins at `base`, or None when there is none.

    Raises
    ------
    DescryError
        When its annotations are there but its images are not.
    """
    for annotations, images in _FOLDERS:
        if next((base / annotations).glob("*.xml"), None) is None:
            continue
        if not (base / images).is_dir():
            raise DescryError(
                f"{base / images}: the image folder of the VOC layout is missing, but "
                f"{base / annotations} holds its annotations. Put the images there."
            )
        return VocLayout(raw, base, base / annotations, base / images, selection)
    return None


def _parse(path: Path, file: str, ledger: Ledger) -> ElementTree.Element | None:
    """Root of an annotation file, or None when it is dropped."""
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        ledger.drop("file", file, "malformed xml", str(error))
        return None
    if root.tag != "annotation":
        ledger.drop("file", file, "malformed xml", f"<{root.tag}> instead of <annotation>")
        return None
    return root


def parse_corners(element: ElementTree.Element | None) -> tuple[float, float, float, float]:
    """x, y, width, height (pixels, from 0) of a ``bndbox`` element.

    Raises
    ------
    InvalidRow
        When a corner is missing, is not a number, or lies left of or above the first one.
    """
    if element is None:
        raise InvalidRow("malformed row", "object without a bndbox")
    texts = [element.findtext(name) for name in ("xmin", "ymin", "xmax", "ymax")]
    try:
        x0, y0, x1, y1 = (float(text or "nan") for text in texts)
    except ValueError as error:
        raise InvalidRow("malformed row", f"corners {texts}") from error
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise InvalidRow("malformed row", f"corners {texts}")
    if x1 < x0 or y1 < y0:
        raise InvalidRow("corners reversed", f"corners {texts}")
    return x0 - 1, y0 - 1, x1 - x0 + (x1 > x0), y1 - y0 + (y1 > y0)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DescryError(
            f"{path}: the list is not text ({error}). Repair or remove it."
        ) from error


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    """Declared width and height; annotation tools that did not know them wrote 0."""
    try:
        width = int(root.findtext("size/width") or 0)
        height = int(root.findtext("size/height") or 0)
    except ValueError:
        return None
    return (width, height) if width > 0 and height > 0 else None

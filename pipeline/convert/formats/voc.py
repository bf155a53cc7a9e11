"""Pascal VOC folders: one xml per image, splits as name lists in ImageSets/Main or as folders.

Corners follow the VOC development kit: 1-based pixel numbers, both inclusive, so that a box that
covers a whole image of width W reads xmin = 1, xmax = W. Hence x = xmin - 1 and
width = xmax - xmin + 1. Exporters that count from 0 need `voc_origin: 0`. A box whose two corners
coincide in x or y (a click without a drag, not an object one pixel wide) gets no extent there and
is dropped as degenerate.
"""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

from pipeline.convert.formats.folders import (
    ROTATED,
    SPLIT_NAMES,
    FolderPair,
    InvalidRow,
    Selection,
    angle_of,
    child,
    enclosing,
    images_in,
    match_names,
    name_of,
    original_name,
    relative,
)
from pipeline.convert.formats.pictures import files_below
from pipeline.convert.records import Box, Ledger, Record
from pipeline.errors import DescryError

# Annotations and images, below the folder in which the layout begins.
_FOLDERS = (
    ("Annotations", "JPEGImages"),
    ("annotations", "images"),
    ("annotations/xmls", "images"),
)
_LISTS = {"test": "test", "val": "val", "train": "train"}
_FLAG = re.compile(r"\s+(-1|0|1)$")  # behind a name in the lists of one class


@dataclass(frozen=True, slots=True)
class ListedImage:
    """Where a split list names an image."""

    split: str
    file: str
    number: int


@dataclass(slots=True)
class VocLayout:
    """One VOC dataset below `base`; paths in records are relative to `raw`.

    Attributes
    ----------
    pairs : list of FolderPair
        Images, and their xml files.
    origin : int
        The number of the first pixel: 1, or 0 as some exporters count.
    """

    raw: Path
    base: Path
    pairs: list[FolderPair]
    selection: Selection = field(default_factory=Selection)
    origin: int = 1
    found: set[str] = field(default_factory=set)
    notes: Counter[str] = field(default_factory=Counter)

    def names(self) -> list[str]:
        """Class names, sorted unless given: VOC declares none."""
        return self.selection.order(sorted(self.found))

    def records(self, ledger: Ledger) -> Iterator[Record]:
        """Yield one record per xml file with an image (see `formats.folders.Layout`)."""
        splits = self._splits(ledger)
        known = {name for pair in self.pairs for name in _xml_files(pair)}
        listed = _by_annotation(splits, known, self.base)
        for pair in self.pairs:
            yield from self._pair(pair, listed, ledger)
        self._account(splits, listed, ledger)

    def _pair(
        self, pair: FolderPair, listed: dict[str, ListedImage], ledger: Ledger
    ) -> Iterator[Record]:
        files, images = _xml_files(pair), images_in(pair.images, self.raw, ledger)
        image_of = _assign(files, images, self.notes)
        for name, path in files.items():
            image = image_of.get(name)
            record = self._record(pair, name, path, images.get(image or ""), listed, ledger)
            if record is not None:
                yield record
        for name, path in images.items():
            if name not in image_of.values():
                ledger.drop("image", relative(self.raw, path), "image without annotation")

    def _record(
        self,
        pair: FolderPair,
        name: str,
        path: Path,
        image: Path | None,
        listed: dict[str, ListedImage],
        ledger: Ledger,
    ) -> Record | None:
        file, entry = relative(self.raw, path), listed.get(name)
        if entry is not None:
            ledger.use(entry.file)
        root = _parse(path, file, ledger)
        boxes = None
        if root is not None:
            boxes = self._boxes(root, file, ledger, with_image=image is not None)
        if image is None:
            ledger.drop("file", file, "annotation without image")
        elif root is None or boxes is None:  # without its boxes it would pass for a negative
            ledger.drop("image", relative(self.raw, image), "annotation unusable", file)
        else:
            split, group = entry.split if entry else pair.split, original_name(path.stem) or ""
            key, place = f"{pair.key}/{name}".lstrip("/"), relative(self.raw, image)
            return Record(key, place, boxes, group, split, _size(root))
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
        x, y, width, height = parse_corners(element.find("bndbox"), self.origin)
        angle = _rotation(element)
        if angle:
            self.notes[ROTATED] += 1
            x, y, width, height = enclosing(x, y, width, height, angle)
        self.notes[ZERO] += self.origin == 1 and -1.0 in (x, y)
        label = (element.findtext("name") or "").strip()
        if not label:
            raise InvalidRow("malformed row", "object without a name")
        self.selection.check(label)
        self.found.add(label)
        self.notes[DIFFICULT] += (element.findtext("difficult") or "0").strip() == "1"
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
        self, splits: dict[str, ListedImage], listed: dict[str, ListedImage], ledger: Ledger
    ) -> None:
        """Listed names without anything, and what the reader should know."""
        used = {(entry.file, entry.number) for entry in listed.values()}
        for name, entry in splits.items():
            if (entry.file, entry.number) not in used:
                where = f"{entry.file}:name {entry.number}"
                ledger.drop("row", where, "listed but not annotated", name)
        for text, count in sorted(self.notes.items()):
            if count:
                ledger.note(f"{count} {text}")
        for name in sorted(set(self.selection.classes) - self.found):
            ledger.note(f"classes: no object of class {name!r} was found.")


DIFFICULT = "object(s) are marked difficult; kept as ordinary ones."
ZERO = "corner(s) are 0 where VOC counts from 1: if the exporter counts from 0, set voc_origin: 0."
FILENAME = "annotation(s) name their image only inside, not by their own name."
ALIKE = "annotation(s) have nearly the name of their image."


def _xml_files(pair: FolderPair) -> dict[str, Path]:
    """Annotation files by name, sorted."""
    return {name_of(path, pair.truth): path for path in files_below(pair.truth, {".xml"})}


def _assign(
    files: Mapping[str, Path], images: Mapping[str, Path], notes: Counter[str]
) -> dict[str, str]:
    """Annotation -> image: by name, else by the file name inside if no other one has the image."""
    match = match_names(images, files)
    image_of = {annotation: image for image, annotation in match.pairs.items()}
    notes[ALIKE] += len(match.alike)
    free = {name.rsplit("/", 1)[-1]: name for name in images if name not in match.pairs}
    claims: dict[str, list[str]] = defaultdict(list)
    for name, path in files.items():
        if name not in image_of and free:
            stem = PureWindowsPath(unquote(_filename(path))).stem  # may be C:\\pictures\\a.jpg
            if stem in free:
                claims[free[stem]].append(name)
    for image, names in claims.items():
        if len(names) == 1:  # of several, none is surely the right one
            image_of[names[0]] = image
            notes[FILENAME] += 1
    return image_of


def _filename(path: Path) -> str:
    try:
        return ElementTree.parse(path).getroot().findtext("filename") or ""
    except (ElementTree.ParseError, ValueError, LookupError):
        return ""


def _by_annotation(
    splits: Mapping[str, ListedImage], known: Collection[str], base: Path
) -> dict[str, ListedImage]:
    """Entries of the split lists by annotation: the name, with a flag behind it or an extension.

    Raises
    ------
    DescryError
        When there are entries and none has the name of an annotation: a drawn split would put
        images of the lists' test into train.
    """
    listed: dict[str, ListedImage] = {}
    for text, entry in splits.items():
        plain = _FLAG.sub("", text)
        names = (text, plain, PurePosixPath(plain).stem, PurePosixPath(text).stem)
        name = next((name for name in names if name in known), None)
        if name is not None:
            listed.setdefault(name, entry)
    if splits and known and not listed:
        raise DescryError(
            f"{base / 'ImageSets' / 'Main'}: none of the {len(splits)} listed names "
            f"({min(splits)!r}) is that of an annotation ({min(known)!r}). Mend or remove the "
            "lists."
        )
    return listed


def open_voc(raw: Path, base: Path, selection: Selection, origin: int = 1) -> VocLayout | None:
    """Return the VOC dataset that begins at `base`, or None when there is none.

    Raises
    ------
    DescryError
        When its annotations are there but its images are not.
    """
    for annotations, images in _FOLDERS:
        truth = child(base, *annotations.split("/"))
        if next(truth.glob("*.xml"), None) is None:
            continue
        folder = child(base, images)
        if not folder.is_dir():
            folder = child(base, "images")
        if not folder.is_dir():
            raise DescryError(
                f"{base / images}: the image folder of the VOC layout is missing, but "
                f"{truth} holds its annotations. Put the images there."
            )
        return VocLayout(raw, base, [FolderPair(folder, truth, None, "")], selection, origin)
    beside = [FolderPair(p, p, split, p.name) for split, p in _split_folders(base) if _is_voc(p)]
    if not beside and _is_voc(base):
        beside = [FolderPair(base, base, None, "")]
    return VocLayout(raw, base, beside, selection, origin) if beside else None


def _split_folders(base: Path) -> list[tuple[str, Path]]:
    folders = [(split, child(base, name)) for name, split in SPLIT_NAMES.items()]
    return [(split, folder) for split, folder in folders if folder.is_dir()]


def _is_voc(folder: Path) -> bool:
    """Whether xml files of this kind lie in a folder, beside their images."""
    first = next(iter(sorted(folder.glob("[!.]*.xml"))), None)
    if first is None:
        return False
    try:
        return ElementTree.parse(first).getroot().tag == "annotation"
    except (ElementTree.ParseError, ValueError, LookupError):
        return False


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


def parse_corners(
    element: ElementTree.Element | None, origin: int = 1
) -> tuple[float, float, float, float]:
    """x, y, width, height (pixels, from 0) of a ``bndbox`` element.

    With `origin` 0, corners are lines between pixels: width = xmax - xmin.

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
    if origin == 0:
        return x0, y0, x1 - x0, y1 - y0
    return x0 - 1, y0 - 1, x1 - x0 + (x1 > x0), y1 - y0 + (y1 > y0)


def _rotation(element: ElementTree.Element) -> float:
    """Degrees by which CVAT says that the box is turned about its centre; 0 without."""
    for attribute in element.iterfind("attributes/attribute"):
        if (attribute.findtext("name") or "").strip() == "rotation":
            return angle_of(attribute.findtext("value"))
    return 0.0


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

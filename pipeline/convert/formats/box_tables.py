"""CSV files with a row per box, as Kaggle, TensorFlow, keras-retinanet and AutoML Vision have them.

With a header, its columns are known by their usual names; without one, rows are
``path,x1,y1,x2,y2,class`` (keras-retinanet) or ``set,path,class,x,y,,,x,y,,`` (AutoML). Corners are
lines between pixels, counted from 0. An image whose row has no box is one without objects.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from pipeline.convert.formats.coco import split_of
from pipeline.convert.formats.folders import SPLIT_NAMES, InvalidRow, Selection, child, relative
from pipeline.convert.formats.listed import ListedImages, Listing
from pipeline.convert.formats.pictures import displayed_size
from pipeline.convert.formats.tables import Row, read_rows
from pipeline.convert.records import Box, Ledger, Record, Unreadable
from pipeline.errors import DescryError

_IMAGE = (
    *("filename", "file_name", "image", "image_id", "imageid", "image_name", "image_path"),
    *("img_path", "img", "file", "path"),
)
_CLASS = (
    "class",
    "class_name",
    "label",
    "label_name",
    "labelname",
    "category",
    "classname",
    "name",
)
_CORNERS = (
    *(("xmin", "ymin", "xmax", "ymax"), ("x_min", "y_min", "x_max", "y_max")),
    *(("x1", "y1", "x2", "y2"), ("left", "top", "right", "bottom")),
)
_SIZED = (
    *(("x", "y", "width", "height"), ("x", "y", "w", "h"), ("xmin", "ymin", "width", "height")),
    *(("bbox_x", "bbox_y", "bbox_width", "bbox_height"), ("left", "top", "width", "height")),
)
_GROUP = ("patient_id", "patientid", "patient", "group")
_SPLIT = ("split", "subset", "set", "partition")
_SETS = {"TRAIN", "TRAINING", "VALIDATION", "TEST", "UNASSIGNED"}
_OBJECT = "object"  # the class of rows that name none


@dataclass(frozen=True, slots=True)
class Format:
    """Which column is what; -1 and none: not there.

    Attributes
    ----------
    box : tuple of int
        Four columns, or one that holds ``[x, y, width, height]``.
    corners : bool
        The last two numbers are the lower right corner.
    header : bool
    fractions : bool
        Coordinates are of the image's size for sure; else if all of them are in 0 to 1.
    """

    image: int
    box: tuple[int, ...]
    corners: bool
    label: int = -1
    split: int = -1
    group: int = -1
    header: bool = True
    fractions: bool = False


_RETINANET = Format(0, (1, 2, 3, 4), True, 5, header=False)
_AUTOML = Format(1, (3, 4, 7, 8), True, 2, 0, header=False, fractions=True)


def format_of(fields: tuple[str, ...]) -> Format | None:
    """What the first row of a table says of its columns; None: no table of boxes."""
    names = {name.casefold().replace(" ", "_"): at for at, name in reversed([*enumerate(fields)])}
    image = next((names[name] for name in _IMAGE if name in names), -1)
    for columns in (*_CORNERS, *_SIZED, ("bbox",)):
        if image >= 0 and all(name in names for name in columns):
            box, corners = tuple(names[name] for name in columns), columns in _CORNERS
            label, split, group = (_first(names, kind) for kind in (_CLASS, _SPLIT, _GROUP))
            return Format(image, box, corners, label, split, group)
    if len(fields) >= 9 and fields[0].upper() in _SETS:
        return _AUTOML
    if len(fields) == 6 and all(_is_number(text) or not text for text in fields[1:5]):
        return _RETINANET
    return None


def _first(names: Mapping[str, int], kind: tuple[str, ...]) -> int:
    return next((names[name] for name in kind if name in names), -1)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def find_tables(raw: Path, base: Path, selection: Selection) -> "TableLayout | None":
    """The tables of boxes that begin at `base`, or None when there is none."""
    folders = [base, child(base, "annotations"), *(child(base, name) for name in SPLIT_NAMES)]
    paths = chain.from_iterable(sorted(folder.glob("[!.]*.csv")) for folder in folders)
    found = {path: known for path in paths if (known := _known(path)) is not None}
    return TableLayout(raw, base, found, selection) if found else None


def _known(path: Path) -> Format | None:
    try:
        return format_of(next(read_rows(path)).fields)
    except DescryError:
        return None


@dataclass
class TableLayout:
    """Tables that together are one dataset; paths in records are relative to `raw`."""

    raw: Path
    base: Path
    tables: dict[Path, Format]
    selection: Selection = field(default_factory=Selection)
    used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.images = ListedImages(self.raw, self.base)

    def names(self) -> list[str]:
        """Class names, sorted unless given: tables declare none."""
        return self.selection.order(sorted(self.used))

    def records(self, ledger: Ledger) -> Iterator[Record]:
        """Yield one record per listed image, by table (see `formats.folders.Layout`)."""
        for path, known in self.tables.items():
            self._table(path, known, ledger)
        yield from self.images.account(ledger)

    def _table(self, path: Path, known: Format, ledger: Ledger) -> None:
        """Enter the images of a table."""
        place, rows = relative(self.raw, path), list(read_rows(path))[known.header :]
        ledger.read(place, len(rows))
        by_image: dict[tuple[str, str, str], list[tuple[str, Row]]] = {}
        for row in rows:
            where = f"{place}:{row.where.rpartition(':')[2]}"
            if len(row.fields) <= max(known.image, known.label, *known.box):
                ledger.drop("row", where, "malformed row", f"{len(row.fields)} fields")
                continue
            at = tuple(_field(row, n) for n in (known.image, known.split, known.group))
            by_image.setdefault((at[0], at[1], at[2]), []).append((where, row))
        fractions = known.fractions or _all_fractions(rows, known)
        for (name, split, group), mine in by_image.items():
            listing = Listing(path, name, (), _split(split) or split_of(path), None, group)
            image = self.images.find(listing)
            size = displayed_size(image) if image and fractions else None
            boxes, broken = self._boxes(
                mine, known, (size or (1, 1)) if fractions else None, ledger
            )
            told = Listing(path, name, boxes, listing.split, None, group, broken)
            self.images.enter(told, ledger)

    def _boxes(
        self,
        rows: list[tuple[str, Row]],
        known: Format,
        size: tuple[int, int] | None,
        ledger: Ledger,
    ) -> tuple[tuple[Box, ...], str]:
        """Boxes of one image, and why it cannot be used: all of its rows are malformed."""
        boxes, malformed = [], 0
        for where, row in rows:
            if not any(_field(row, at) for at in known.box):
                ledger.use(where.rpartition(":")[0])  # an image without objects
                continue
            try:
                boxes.append(self._box(row, known, size, where))
            except (InvalidRow, Unreadable) as bad:
                malformed += bad.reason == "malformed row"
                ledger.drop("row", where, bad.reason, bad.detail)
        broken = malformed and malformed == len(rows)
        return tuple(boxes), "annotation unusable" if broken else ""

    def _box(self, row: Row, known: Format, size: tuple[int, int] | None, where: str) -> Box:
        a, b, c, d = _numbers(row, known)
        width, height = (c - a, d - b) if known.corners else (c, d)
        if width < 0 or height < 0:
            raise InvalidRow("corners reversed", f"{a} {b} {c} {d}")
        label = _field(row, known.label) or _OBJECT
        self.selection.check(label)
        self.used.add(label)
        if size is not None:  # a millionth of a pixel is above rounding noise
            a, width = round(a * size[0], 6), round(width * size[0], 6)
            b, height = round(b * size[1], 6), round(height * size[1], 6)
        return Box(a, b, width, height, label, where)


def _field(row: Row, at: int) -> str:
    return row.fields[at] if 0 <= at < len(row.fields) else ""


def _numbers(row: Row, known: Format) -> list[float]:
    """The four numbers of a row.

    Raises
    ------
    InvalidRow, Unreadable
        When they are not four, or not finite.
    """
    if len(known.box) == 4:
        return [row.number(at) for at in known.box]
    parts = re.findall(r"[^\s,\[\]()]+", row.fields[known.box[0]])
    if len(parts) != 4:
        raise InvalidRow("malformed row", row.fields[known.box[0]])
    return [Row(row.where, (part,)).number(0) for part in parts]


def _all_fractions(rows: list[Row], known: Format) -> bool:
    """Whether all boxes are in 0 to 1, as fractions of the image are."""
    seen = False
    for row in rows:
        if len(row.fields) <= max(known.box) or not any(_field(row, at) for at in known.box):
            continue
        try:
            values = _numbers(row, known)
        except (InvalidRow, Unreadable):
            continue
        if max(values) > 1 or min(values) < 0:
            return False
        seen = True
    return seen


def _split(text: str) -> str | None:
    """Split that a column says: TRAIN, VALIDATION, TEST, ...; anything else is none."""
    return SPLIT_NAMES.get(text.casefold(), "train" if text.casefold() == "training" else None)

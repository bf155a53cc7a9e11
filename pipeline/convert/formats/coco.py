"""COCO folders of any origin: where the JSON files and their images lie, and one record each.

A JSON is of a split when its own or its folder's name says so (``instances_train2017.json``,
``valid/_annotations.coco.json``).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pipeline.convert.formats.folders import (
    ROTATED,
    SPLIT_NAMES,
    InvalidRow,
    Selection,
    angle_of,
    child,
    enclosing,
    relative,
)
from pipeline.convert.formats.listed import ListedImages, Listing
from pipeline.convert.formats.tools import ends_of, tool_in, tool_of
from pipeline.convert.records import Box, Ledger, Record
from pipeline.data.coco_table import CocoTable, load_table
from pipeline.errors import DescryError

_ROBOFLOW = "_annotations.coco.json"
_GROUP = ("group", "patient_id")  # keys of an image, not of the format, that name its patient
_SPLIT = re.compile(r"(?<![a-z])(train|valid|validation|val|test)(?![a-z])")


@dataclass
class CocoLayout:
    """COCO files that together are one dataset; paths in records are relative to `raw`."""

    raw: Path
    base: Path
    files: list[Path]
    selection: Selection = field(default_factory=Selection)
    declared: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.images = ListedImages(self.raw, self.base)

    def names(self) -> list[str]:
        """Classes that annotations use, in the order of their category ids."""
        return self.selection.order([name for name in self.declared if name in self.used])

    def records(self, ledger: Ledger) -> Iterator[Record]:
        """Yield one record per listed image, by file (see `formats.folders.Layout`)."""
        for file in self.files:
            table = load_table(file)
            self._declare(table, file)
            ledger.read(relative(self.raw, file), len(table.ids))
            self._file(file, table, ledger)
        self.selection.among(self.declared, self.files[0])
        yield from self.images.account(ledger)
        unused = [name for name in self.declared if name not in self.used]
        if unused:
            ledger.note(f"categories that no annotation uses are left out: {', '.join(unused)}.")

    def _declare(self, table: CocoTable, file: Path) -> None:
        """Enter the classes of a file; one name under two ids is one class if one id is used."""
        used = set(table.category_ids.tolist())
        entries = sorted(table.categories, key=lambda c: c["id"])
        names = [entry["name"] for entry in entries if entry["id"] in used]
        if len(set(names)) != len(names):
            raise DescryError(f"{file}: categories {names}: a name stands there twice. Rename one.")
        known = [entry["name"] for entry in entries]
        self.declared += [name for name in dict.fromkeys(known) if name not in self.declared]
        self.used |= set(names)

    def _file(self, file: Path, table: CocoTable, ledger: Ledger) -> None:
        names = {entry["id"]: entry["name"] for entry in table.categories}
        rows, split = table.rows_by_image(), split_of(file)
        for image in sorted(table.images, key=lambda i: (i["file_name"], i["id"])):
            mine = rows.get(image["id"], [])
            boxes = partial(self._boxes, file, table, mine, names, ledger)
            size = (image["width"], image["height"]) if image["width"] and image["height"] else None
            group = next((str(image[k]) for k in _GROUP if image.get(k) not in (None, "")), "")
            listing = Listing(file, image["file_name"], boxes, split, size, group)
            self.images.enter(listing, ledger)

    def _boxes(
        self, file: Path, table: CocoTable, rows: list[int], names: dict[int, str], ledger: Ledger
    ) -> tuple[Box, ...]:
        """Boxes of the rows of one image."""
        boxes, place = [], relative(self.raw, file)
        columns = (table.ids, table.category_ids, table.boxes, table.crowds)
        values = zip(rows, *(column[rows].tolist() for column in columns), strict=True)
        for row, number, category, box, crowd in values:
            where = f"{place}:annotation {number}"
            try:
                label = self.selection.check(names[category])
                extent = self._extent(box, table.rotations.get(row))
            except InvalidRow as bad:
                ledger.drop("row", where, bad.reason, bad.detail)
                continue
            boxes.append(Box(*extent, label, where, crowd, table.mask(row)))
        return tuple(boxes)

    def _extent(self, box: list[float], rotation: object) -> tuple[float, float, float, float]:
        """The box of a row; CVAT writes a turned one upright, and its angle beside."""
        x, y, width, height = box
        angle = 0.0 if rotation is None else angle_of(rotation)
        if not angle:
            return x, y, width, height
        self.images.notes[ROTATED] += 1
        return enclosing(x, y, width, height, angle)


def find_coco(
    raw: Path, base: Path, selection: Selection, alone: bool = False
) -> CocoLayout | None:
    """Return the COCO dataset that begins at `base`, or None when there is none.

    Parameters
    ----------
    alone : bool
        There is nothing else: the only JSON of a folder counts, so that reading it says what is
        wrong.
    """
    splits = [child(base, name) for name in SPLIT_NAMES]
    exports = sorted(p / _ROBOFLOW for p in splits if (p / _ROBOFLOW).is_file())
    own = sorted(child(base, "annotations").glob("[!.]*.json"))
    beside = [p for folder in (base, *splits) for p in sorted(folder.glob("[!.]*.json"))]
    listed = [path for path in own if tool_of(path) is None]
    listed += [path for path in beside if _looks_like_coco(path)]
    if alone and not listed and len(beside) == 1:
        listed = beside
    instances = [path for path in listed if path.name.startswith("instances_")]
    files = exports or instances or listed
    return CocoLayout(raw, base, files, selection) if files else None


def _looks_like_coco(path: Path) -> bool:
    """Whether a JSON's beginning and end name the lists of the format; others lie about, too."""
    text = ends_of(path)
    named = sum(key in text for key in (b'"images"', b'"annotations"', b'"categories"'))
    return named >= 2 and tool_in(text) is None


def split_of(file: Path) -> str | None:
    """Official split that the name of a JSON says, or that of its folder, if any."""
    match = _SPLIT.search(file.stem.lower()) if file.name != _ROBOFLOW else None
    return SPLIT_NAMES[match[1]] if match else SPLIT_NAMES.get(file.parent.name.lower())

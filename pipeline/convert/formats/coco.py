"""COCO folders of any origin: where the JSON files and their images lie, and one record each.

A JSON is of a split when its own or its folder's name says so (``instances_train2017.json``,
``valid/_annotations.coco.json``). The file is held in memory whole; nothing else grows.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.convert.formats.folders import (
    SPLIT_NAMES,
    InvalidRow,
    Selection,
    original_name,
    relative,
)
from pipeline.convert.formats.pictures import SUFFIXES
from pipeline.convert.records import Box, Ledger, Record
from pipeline.data.coco import load_coco
from pipeline.errors import DescryError

_ROBOFLOW = "_annotations.coco.json"
_GROUP = ("group", "patient_id")  # keys of an image, not of the format, that name its patient
_SPLIT = re.compile(r"(?<![a-z])(train|valid|validation|val|test)(?![a-z])")


@dataclass(slots=True)
class CocoLayout:
    """COCO files that together are one dataset; paths in records are relative to `raw`."""

    raw: Path
    base: Path
    files: list[Path]
    selection: Selection = field(default_factory=Selection)
    declared: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    taken: set[Path] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)

    def names(self) -> list[str]:
        """Classes that annotations use, in the order of their category ids."""
        return self.selection.order([name for name in self.declared if name in self.used])

    def records(self, ledger: Ledger) -> Iterator[Record]:
        """Yield one record per listed image, by file (see `formats.folders.Layout`)."""
        for file in self.files:
            coco = load_coco(file)
            self._declare(coco["categories"], file)
            ledger.read(relative(self.raw, file), len(coco["annotations"]))
            yield from self._file(file, coco, ledger)
        self.selection.among(self.declared, self.files[0])
        self._account(ledger)

    def _declare(self, categories: list[dict[str, Any]], file: Path) -> None:
        names = [entry["name"] for entry in sorted(categories, key=lambda c: c["id"])]
        if len(set(names)) != len(names):
            raise DescryError(f"{file}: categories {names}: a name stands there twice. Rename one.")
        self.declared += [name for name in names if name not in self.declared]

    def _file(self, file: Path, coco: dict[str, Any], ledger: Ledger) -> Iterator[Record]:
        names = {entry["id"]: entry["name"] for entry in coco["categories"]}
        rows = defaultdict(list)
        for annotation in coco["annotations"]:
            rows[annotation["image_id"]].append(annotation)
        for image in sorted(coco["images"], key=lambda i: (i["file_name"], i["id"])):
            boxes = self._boxes(file, rows.pop(image["id"], []), names, ledger)
            record = self._record(file, image, boxes, ledger)
            if record is not None:
                yield record

    def _boxes(
        self, file: Path, rows: list[dict[str, Any]], names: dict[int, str], ledger: Ledger
    ) -> tuple[Box, ...]:
        """Boxes of one image, in the order of their annotation ids."""
        boxes = []
        for row in sorted(rows, key=lambda r: r["id"]):
            where = f"{relative(self.raw, file)}:annotation {row['id']}"
            name = names[row["category_id"]]
            self.used.add(name)
            try:
                label = self.selection.check(name)
            except InvalidRow as bad:
                ledger.drop("row", where, bad.reason, bad.detail)
                continue
            x, y, width, height = map(float, row["bbox"])
            boxes.append(Box(x, y, width, height, label, where, bool(row["iscrowd"])))
        return tuple(boxes)

    def _record(
        self, file: Path, image: dict[str, Any], boxes: tuple[Box, ...], ledger: Ledger
    ) -> Record | None:
        """Record of a listed image, or None when it is not there or was there before."""
        name = image["file_name"].replace("\\", "/")  # as written on Windows
        path, split = self._find(file, name), split_of(file)
        parts = [part for part in PurePosixPath(name).with_suffix("").parts if part.strip("./")]
        key = "/".join([split, *parts] if split else parts)
        reason = ""
        if path is None:
            reason = "image missing"
        elif path in self.taken:
            reason = "image listed twice"
        elif key in self.keys:
            reason = "another image has the same name"
        if path is None or reason:
            ledger.drop("image", image["file_name"], reason, f"in {relative(self.raw, file)}")
            for box in boxes:
                ledger.drop("row", box.where, reason, image["file_name"])
            return None
        self.taken.add(path)
        self.keys.add(key)
        size = image["width"], image["height"]
        told = next((str(image[key]) for key in _GROUP if image.get(key) not in (None, "")), "")
        group = told or original_name(parts[-1]) or ""
        return Record(key, relative(self.raw, path), boxes, group, split, size)

    def _find(self, file: Path, name: str) -> Path | None:
        """Where the image lies: beside the JSON, or in one of the usual folders."""
        plain = file.stem.removeprefix("instances_")
        for folder in (
            file.parent,
            self.base / "images" / plain,
            self.base / plain,
            self.base / "images",
            self.base,
        ):
            inside = os.path.relpath(folder / name, self.raw)  # may climb: "../images/a.jpg"
            path = self.raw / inside
            if path.is_file() and not inside.startswith(".."):
                return path
        return None

    def _account(self, ledger: Ledger) -> None:
        """Images that no JSON lists, and categories that nothing uses."""
        for path in sorted(self.base.rglob("*")):
            if path.suffix.lower() in SUFFIXES and path not in self.taken and path.is_file():
                ledger.drop("image", relative(self.raw, path), "image without annotation")
        unused = [name for name in self.declared if name not in self.used]
        if unused:
            ledger.note(f"categories that no annotation uses are left out: {', '.join(unused)}.")


def find_coco(raw: Path, base: Path, selection: Selection) -> CocoLayout | None:
    """Return the COCO dataset that begins at `base`, or None when there is none."""
    exports = [base / name / _ROBOFLOW for name in SPLIT_NAMES]
    exports = sorted(path for path in exports if path.is_file())
    # Deeper down a stray JSON says nothing: other datasets keep theirs in such places.
    places = [base / "annotations", base] if base == raw else [base / "annotations"]
    listed = [path for folder in places for path in sorted(folder.glob("[!.]*.json"))]
    instances = [path for path in listed if path.name.startswith("instances_")]
    files = exports or instances or listed
    return CocoLayout(raw, base, files, selection) if files else None


def split_of(file: Path) -> str | None:
    """Official split that the name of a JSON (for Roboflow: of its folder) says, if any."""
    name = file.parent.name if file.name == _ROBOFLOW else file.stem
    match = _SPLIT.search(name.lower())
    return SPLIT_NAMES[match[1]] if match else None

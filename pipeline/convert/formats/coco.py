"""COCO folders of any origin: where the JSON files and their images lie, and one record each.

A JSON is of a split when its own or its folder's name says so (``instances_train2017.json``,
``valid/_annotations.coco.json``). One image may be listed several times (a JSON per class): its
boxes are joined. Each file is held in memory whole; what is kept of it are its boxes.
"""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import unquote

from pipeline.convert.formats.folders import (
    ROTATED,
    SPLIT_NAMES,
    InvalidRow,
    Selection,
    angle_of,
    child,
    enclosing,
    original_name,
    relative,
)
from pipeline.convert.formats.pictures import SUFFIXES, files_below
from pipeline.convert.records import Box, Ledger, Record
from pipeline.data.coco import load_coco
from pipeline.errors import DescryError

_ROBOFLOW = "_annotations.coco.json"
_PEEK = 2**16  # bytes
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
    found: dict[Path, Record] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    notes: Counter[str] = field(default_factory=Counter)

    def names(self) -> list[str]:
        """Classes that annotations use, in the order of their category ids."""
        return self.selection.order([name for name in self.declared if name in self.used])

    def records(self, ledger: Ledger) -> Iterator[Record]:
        """Yield one record per listed image, by file (see `formats.folders.Layout`)."""
        for file in self.files:
            coco = load_coco(file, foreign=True)
            self._declare(coco, file)
            ledger.read(relative(self.raw, file), len(coco["annotations"]))
            self._file(file, coco, ledger)
        self.selection.among(self.declared, self.files[0])
        yield from self.found.values()
        self._account(ledger)

    def _declare(self, coco: dict[str, Any], file: Path) -> None:
        """Enter the classes of a file; one name under two ids is one class if one id is used."""
        used = {annotation["category_id"] for annotation in coco["annotations"]}
        entries = sorted(coco["categories"], key=lambda c: c["id"])
        names = [entry["name"] for entry in entries if entry["id"] in used]
        if len(set(names)) != len(names):
            raise DescryError(f"{file}: categories {names}: a name stands there twice. Rename one.")
        known = [entry["name"] for entry in entries]
        self.declared += [name for name in dict.fromkeys(known) if name not in self.declared]

    def _file(self, file: Path, coco: dict[str, Any], ledger: Ledger) -> None:
        names = {entry["id"]: entry["name"] for entry in coco["categories"]}
        rows = defaultdict(list)
        for annotation in coco["annotations"]:
            rows[annotation["image_id"]].append(annotation)
        for image in sorted(coco["images"], key=lambda i: (i["file_name"], i["id"])):
            boxes = self._boxes(file, rows.pop(image["id"], []), names, ledger)
            self._enter(file, image, boxes, ledger)

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
                x, y, width, height = self._extent(row)
            except InvalidRow as bad:
                ledger.drop("row", where, bad.reason, bad.detail)
                continue
            boxes.append(Box(x, y, width, height, label, where, bool(row["iscrowd"])))
        return tuple(boxes)

    def _extent(self, row: dict[str, Any]) -> tuple[float, float, float, float]:
        """The box of a row; CVAT writes a turned one upright, and its angle beside."""
        x, y, width, height = map(float, row["bbox"])
        attributes = row.get("attributes")
        turned = attributes.get("rotation") if isinstance(attributes, dict) else None
        angle = 0.0 if turned is None else angle_of(turned)
        if not angle:
            return x, y, width, height
        self.notes[ROTATED] += 1
        return enclosing(x, y, width, height, angle)

    def _enter(
        self, file: Path, image: dict[str, Any], boxes: tuple[Box, ...], ledger: Ledger
    ) -> None:
        """Enter a listed image, or drop it when it is not there or is in another split, too."""
        name = image["file_name"].replace("\\", "/")  # as written on Windows
        path, split = self._find(file, name), split_of(file)
        known = self.found.get(path) if path else None
        if path is None:
            self._drop(file, image, boxes, "image missing", ledger)
        elif known is None:
            self._add(file, image, boxes, path, ledger)
        elif known.split != split:
            self._drop(file, image, boxes, "image listed twice", ledger)
        else:
            self.notes["image(s) are listed again: their boxes are joined."] += 1
            self.found[path] = replace(known, boxes=self._join(known.boxes, boxes, ledger))

    def _add(
        self, file: Path, image: dict[str, Any], boxes: tuple[Box, ...], path: Path, ledger: Ledger
    ) -> None:
        """Enter an image for the first time."""
        split = split_of(file)
        told = PurePosixPath(image["file_name"].replace("\\", "/"))
        parts = [part for part in told.parts if part.strip("./")]
        if not parts or self._is_foreign(image["file_name"]):
            parts = [path.name]
        stem = "/".join([split, *parts] if split else parts)
        plain = str(PurePosixPath(stem).with_suffix(""))
        key = plain if plain not in self.keys else f"{plain}_{path.suffix[1:].lower()}"
        if key in self.keys:
            self._drop(file, image, boxes, "another image has the same name", ledger)
            return
        self.keys.add(key)
        size = (image["width"], image["height"]) if image["width"] and image["height"] else None
        patient = next((str(image[key]) for key in _GROUP if image.get(key) not in (None, "")), "")
        group = patient or original_name(path.stem) or ""
        self.found[path] = Record(key, relative(self.raw, path), boxes, group, split, size)

    @staticmethod
    def _is_foreign(name: str) -> bool:
        """Whether a file name is a place on another machine: absolute, or a URL."""
        return "://" in name or bool(PureWindowsPath(name).root)

    def _drop(
        self, file: Path, image: dict[str, Any], boxes: tuple[Box, ...], reason: str, ledger: Ledger
    ) -> None:
        ledger.drop("image", image["file_name"], reason, f"in {relative(self.raw, file)}")
        for box in boxes:
            ledger.drop("row", box.where, reason, image["file_name"])

    @staticmethod
    def _join(known: tuple[Box, ...], more: tuple[Box, ...], ledger: Ledger) -> tuple[Box, ...]:
        """Boxes of an image that is listed again; the same box again is dropped."""
        joined = {replace(box, where=""): box for box in known}
        for box in more:
            if joined.setdefault(replace(box, where=""), box) is not box:
                ledger.drop("row", box.where, "repeated row", box.label)
        new = set(map(id, joined.values()))
        return (*known, *(box for box in more if id(box) in new))

    def _find(self, file: Path, name: str) -> Path | None:
        """Where the image lies: beside the JSON, in one of the usual folders, or by its name."""
        plain = file.stem.removeprefix("instances_")
        for folder in (
            file.parent,
            self.base / "images" / plain,
            self.base / plain,
            self.base / "images",
            self.base,
            file.parent / "data",
            file.parent / "images",
        ):
            inside = os.path.relpath(folder / name, self.raw)  # may climb: "../images/a.jpg"
            path = self.raw / inside
            if path.is_file() and not inside.startswith(".."):
                return path
        alike = self._by_name.get(_alike(name), [])
        return alike[0] if len(alike) == 1 else None

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """Images below `base` by what is left of a name on another machine."""
        found = defaultdict(list)
        for path in files_below(self.base, SUFFIXES):
            found[_alike(path.name)].append(path)
        return found

    def _account(self, ledger: Ledger) -> None:
        """Images that no JSON lists, and categories that nothing uses."""
        for path in files_below(self.base, SUFFIXES):
            if path not in self.found:
                ledger.drop("image", relative(self.raw, path), "image without annotation")
        for text, count in sorted(self.notes.items()):
            ledger.note(f"{count} {text}")
        unused = [name for name in self.declared if name not in self.used]
        if unused:
            ledger.note(f"categories that no annotation uses are left out: {', '.join(unused)}.")


def _alike(name: str) -> str:
    """The base name of a path or URL, without what differs between machines and exports."""
    base = name.partition("?")[0].replace("\\", "/").rsplit("/", 1)[-1]
    return unicodedata.normalize("NFC", unquote(base)).casefold()


def find_coco(raw: Path, base: Path, selection: Selection) -> CocoLayout | None:
    """Return the COCO dataset that begins at `base`, or None when there is none."""
    splits = [child(base, name) for name in SPLIT_NAMES]
    exports = sorted(p / _ROBOFLOW for p in splits if (p / _ROBOFLOW).is_file())
    own = sorted(child(base, "annotations").glob("[!.]*.json"))
    beside = [p for folder in (base, *splits) for p in sorted(folder.glob("[!.]*.json"))]
    listed = own + [path for path in beside if _looks_like_coco(path)]
    if base == raw and not listed and len(beside) == 1:
        listed = beside  # the only JSON there is: reading it says what is wrong
    instances = [path for path in listed if path.name.startswith("instances_")]
    files = exports or instances or listed
    return CocoLayout(raw, base, files, selection) if files else None


def _looks_like_coco(path: Path) -> bool:
    """Whether a JSON's beginning and end name the lists of the format; others lie about, too."""
    with path.open("rb") as stream:
        text = stream.read(_PEEK)
        stream.seek(max(path.stat().st_size - _PEEK, 0))
        text += stream.read(_PEEK)
    return sum(key in text for key in (b'"images"', b'"annotations"', b'"categories"')) >= 2


def split_of(file: Path) -> str | None:
    """Official split that the name of a JSON says, or that of its folder, if any."""
    match = _SPLIT.search(file.stem.lower()) if file.name != _ROBOFLOW else None
    return SPLIT_NAMES[match[1]] if match else SPLIT_NAMES.get(file.parent.name.lower())

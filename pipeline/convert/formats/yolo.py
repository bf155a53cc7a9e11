"""YOLO folders: one text file per image, a row per object, in fractions of the image's size.

A row is ``class cx cy w h``, for outlines ``class x1 y1 x2 y2 x3 y3 ...``, and for poses, of which
the yaml tells the shape, ``class cx cy w h`` and keypoints. Class names stand in a yaml beside the
folders. Formats: the dataset page of Ultralytics and the exports of Roboflow.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pipeline.convert.formats.folders import (
    SPLIT_NAMES,
    FolderPair,
    InvalidRow,
    Selection,
    find_pairs,
    images_in,
    match_names,
    name_of,
    original_name,
    relative,
)
from pipeline.convert.formats.pictures import displayed_size, files_below
from pipeline.convert.formats.yolo_names import ClassNames, find_names
from pipeline.convert.records import Box, Ledger, Record
from pipeline.convert.segmentation import segmentation_text
from pipeline.errors import DescryError

log = logging.getLogger(__name__)
UNCLEAR = "several annotations have nearly the name of the image"
# Rounded exports overshoot the border by a hair; anything more is not a fraction of the image.
OVERSHOOT = 0.01


@dataclass(slots=True)
class YoloCounts:
    """Counts for the notes of the report."""

    unlabelled: list[str] = field(default_factory=list)
    alike: list[tuple[str, str]] = field(default_factory=list)
    classes: Counter[int] = field(default_factory=Counter)
    keypoints: int = 0
    empty: int = 0
    outlines: int = 0


_DARKNET = re.compile(r"obj_(\w+)_data", re.I)


def find_folders(base: Path) -> list[FolderPair]:
    """Image and label folders below `base`: as `find_pairs`, or ``obj_train_data`` of Darknet.

    In the latter, which CVAT and datumaro export as YOLO 1.1, labels lie beside the images.
    """
    pairs = find_pairs(base, "labels")
    if pairs or not base.is_dir():
        return pairs
    named = [(p, m[1].lower()) for p in sorted(base.iterdir()) if (m := _DARKNET.fullmatch(p.name))]
    splits = [(path, SPLIT_NAMES.get(name)) for path, name in named if path.is_dir()]
    return [FolderPair(path, path, split, split or path.name) for path, split in splits]


def open_yolo(raw: Path, starts: list[Path], selection: Selection) -> "YoloLayout":
    """Open the YOLO folders that begin at each of `starts` as one dataset.

    Raises
    ------
    DescryError
        When there are several that are not meant to be one, or the class names are missing,
        malformed or different.
    """
    folders, declared = [], []
    for base in starts:
        here = find_folders(base)
        images = [folder.images for folder in here]
        declared.append(find_names(base, raw, images, selection.classes))
        inner = f"{base.name}/" if len(starts) > 1 else ""
        folders += [replace(folder, key=f"{inner}{folder.key}".rstrip("/")) for folder in here]
    for base, names in zip(starts, declared, strict=True):
        if names.names != declared[0].names:
            raise DescryError(
                f"{base}: its classes {names.names} differ from {declared[0].names} of "
                f"{starts[0]}. Convert them one at a time."
            )
    selection.among(list(declared[0].names), declared[0].file or starts[0])
    return YoloLayout(raw, folders, declared, selection)


@dataclass(slots=True)
class YoloLayout:
    """One YOLO dataset: its folders and its class names.

    Attributes
    ----------
    raw : Path
        Paths in records and reports are relative to it.
    folders : list of FolderPair
    declared : list of ClassNames
        Class names by index, the same ones from each place where they were read.
    selection : Selection
        Which of them are wanted.
    """

    raw: Path
    folders: list[FolderPair]
    declared: list[ClassNames]
    selection: Selection = field(default_factory=Selection)
    counts: YoloCounts = field(default_factory=YoloCounts)

    def names(self) -> list[str]:
        """Class names in id order, used or not."""
        return self.selection.order(list(self.classes))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by index."""
        return self.declared[0].names

    def records(self, ledger: Ledger) -> Iterator[Record]:
        """Yield one record per image (see `formats.folders.Layout`)."""
        for names in dict.fromkeys(self.declared):
            names.account(self.raw, ledger)
        for folder in self.folders:
            yield from self._folder(folder, ledger)
        self._notes(ledger)

    def _folder(self, folder: FolderPair, ledger: Ledger) -> Iterator[Record]:
        images = images_in(folder.images, self.raw, ledger)
        labels = _label_files(folder)
        match = match_names(images, labels)
        if images and labels and not match.pairs:
            raise DescryError(
                f"{folder.truth}: none of its {len(labels)} label files has the name of one of the "
                f"{len(images)} images in {folder.images} ({min(labels)}, {min(images)}). Rename "
                "one side."
            )
        self.counts.alike += match.alike
        for name, image in images.items():
            if name in match.unclear:
                detail = f"{match.unclear[name]}.txt and others"
                ledger.drop("image", relative(self.raw, image), UNCLEAR, detail)
                continue
            label = match.pairs.get(name)
            file = None if label is None else labels.pop(label)
            record = self._record(folder, name, image, file, ledger)
            if record is not None:
                yield record
        for path in labels.values():
            self._orphan(path, ledger)

    def _record(
        self, folder: FolderPair, name: str, image: Path, label: Path | None, ledger: Ledger
    ) -> Record | None:
        """Record of one image, or None when its label file cannot be used at all."""
        path, size = relative(self.raw, image), displayed_size(image)
        boxes: tuple[Box, ...] | None = ()
        if label is None:
            self.counts.unlabelled.append(path)
        else:
            boxes = self._boxes(label, size or (1, 1), ledger)
        if boxes is None:  # without its annotation the image would pass for a negative
            ledger.drop("image", path, "label file unusable", relative(self.raw, label or image))
            return None
        key = f"{folder.key}/{name}" if folder.key else name
        return Record(key, path, boxes, original_name(image.stem) or "", folder.split, size)

    def _boxes(self, label: Path, size: tuple[int, int], ledger: Ledger) -> tuple[Box, ...] | None:
        """Boxes of one label file in pixels; None when all of its rows were malformed."""
        file, boxes, malformed = relative(self.raw, label), [], 0
        rows = _read_rows(label, file, ledger)
        if rows is None:
            return None
        self.counts.empty += not rows
        for number, text in rows:
            where = f"{file}:{number}"
            try:
                boxes.append(self._box(text, size, where))
            except InvalidRow as bad:
                malformed += bad.reason != "class not selected"
                ledger.drop("row", where, bad.reason, bad.detail)
        return None if rows and malformed == len(rows) else tuple(boxes)

    def _box(self, text: str, size: tuple[int, int], where: str) -> Box:
        index, (x0, y0, x1, y1), kind = parse_row(text, self.declared[0].keypoints)
        self.counts.classes[index] += 1
        if index >= len(self.classes):
            raise InvalidRow("class id out of range", f"{index} of {len(self.classes)} classes")
        label = self.selection.check(self.classes[index])
        self.counts.outlines += kind == "outline"
        self.counts.keypoints += kind == "pose"
        width, height = size
        # A millionth of a pixel is below what any label file states and above rounding noise.
        x, y = round(x0 * width, 6), round(y0 * height, 6)
        extent = (x, y, round((x1 - x0) * width, 6), round((y1 - y0) * height, 6))
        mask = _polygon(text, size, extent) if kind == "outline" else ""
        return Box(*extent, label, where, mask=mask)

    def _orphan(self, label: Path, ledger: Ledger) -> None:
        """Account for a label file that belongs to no image."""
        file = relative(self.raw, label)
        rows = _read_rows(label, file, ledger)
        for number, text in rows or ():
            ledger.drop("row", f"{file}:{number}", "annotation without image", text)
        if rows == []:
            ledger.drop("file", file, "annotation without image", "empty label file")

    def _notes(self, ledger: Ledger) -> None:
        counts = self.counts
        if counts.unlabelled:
            shown = ", ".join(counts.unlabelled[:3])
            ledger.note(
                f"{len(counts.unlabelled)} image(s) have no label file and are kept as images "
                f"without objects (the YOLO convention; they may be unlabelled): {shown}"
                + (", ..." if len(counts.unlabelled) > 3 else "")
            )
        if counts.empty:
            ledger.note(f"{counts.empty} label file(s) are empty: images without objects.")
        if counts.outlines:
            ledger.note(f"{counts.outlines} row(s) are outlines: their extent is the box.")
        if counts.keypoints:
            ledger.note(f"{counts.keypoints} row(s) are poses: the keypoints are left out.")
        if counts.alike:
            shown = ", ".join(f"{label}.txt for {image}" for image, label in counts.alike[:3])
            ledger.note(
                f"{len(counts.alike)} label file(s) have nearly the name of an image: {shown}"
            )
        lowest = min(counts.classes, default=0)
        if lowest > 0:
            used = ", ".join(f"{index}: {n}" for index, n in sorted(counts.classes.items()))
            self._warn(
                f"no row has the class ids 0 to {lowest - 1}; rows by class id: {used}. If the ids "
                "count from 1, every box has the name of the next class: put the first name last "
                "or mend the ids.",
                ledger,
            )

    def _warn(self, text: str, ledger: Ledger) -> None:
        """A note that the console shows, too."""
        ledger.note(text)
        log.warning("%s: %s", self.raw, text)


Kind = Literal["box", "outline", "pose"]


def parse_row(text: str, keypoints: int = 0) -> tuple[int, tuple[float, float, float, float], Kind]:
    """Class index, box (x0, y0, x1, y1 in fractions) and what else the row holds.

    Parameters
    ----------
    keypoints : int
        Numbers behind the box of a pose, as the dataset's ``kpt_shape`` says; 0: no poses.

    Raises
    ------
    InvalidRow
        When the row is none of the shapes or its values are not fractions.
    """
    try:
        index, *values = (float(token) for token in text.split())
    except ValueError as error:
        raise InvalidRow("malformed row", repr(text)) from error
    kind = _kind_of(len(values), keypoints)
    if kind is None or index < 0 or not index.is_integer():
        raise InvalidRow("malformed row", repr(text))
    values = values[:4] if kind == "pose" else values
    if not all(-OVERSHOOT <= v <= 1 + OVERSHOOT for v in values):
        reason = "coordinate outside 0..1" if all(map(math.isfinite, values)) else "malformed row"
        raise InvalidRow(reason, repr(text))
    if kind == "outline":
        xs, ys = values[0::2], values[1::2]
        return int(index), (min(xs), min(ys), max(xs), max(ys)), kind
    cx, cy, w, h = values
    return int(index), (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), kind


def _polygon(text: str, size: tuple[int, int], extent: Sequence[float]) -> str:
    """The outline of a row, which `parse_row` has taken, as the mask of its box."""
    values = [float(token) for token in text.split()[1:]]
    points = [round(v * size[i % 2], 6) for i, v in enumerate(values)]
    return segmentation_text([points], extent)


def _kind_of(count: int, keypoints: int) -> Kind | None:
    """What a row of `count` numbers behind the class is; None: nothing known."""
    if count == 4:
        return "box"
    if keypoints:
        return "pose" if count == 4 + keypoints else None
    return "outline" if count >= 6 and count % 2 == 0 else None


def _label_files(folder: FolderPair) -> dict[str, Path]:
    """Label files by name, sorted; a folder without any would make every image a negative."""
    found = files_below(folder.truth, {".txt"}) if folder.truth.is_dir() else []
    labels = {name_of(p, folder.truth): p for p in found if p.name != "classes.txt"}
    if not labels and any(folder.images.iterdir()):
        raise DescryError(
            f"{folder.truth}: no label files (*.txt) for the images in {folder.images}. "
            "Put the YOLO labels there, or move images without annotation out of the raw folder."
        )
    return labels


def _read_rows(path: Path, file: str, ledger: Ledger) -> list[tuple[int, str]] | None:
    """(line number, text) of the rows that are not blank; None when the file is not text."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        ledger.drop("file", file, "label file is not text", str(error))
        return None
    rows = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    ledger.read(file, len(rows))
    return rows

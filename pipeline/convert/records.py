"""What a converter knows of one image, and the contract that every dataset's converter keeps.

A converter is a `Source`: it `scan`s the raw folder into cheap `Record`s (annotations and paths,
no pixels) and, in a worker process, `read`s one record into a `Picture` (pixels and boxes). All
the rest (order, processes, clipping, splits, duplicates, COCO files, the report) is the writer's
and the same for all datasets.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

SPLITS = ("train", "val", "test")


class Unreadable(Exception):
    """One image (or its annotation) cannot be used; the run goes on and the report lists it.

    Parameters
    ----------
    reason : str
        A short constant phrase that the report counts by, such as ``"corrupt image"``.
    detail : str
        What exactly was wrong with this one.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Box:
    """One annotated object: top-left corner and size in pixels, of the annotation's frame.

    `where` names the row it came from (``"BBox_List_2017.csv:17"``), for the report. `mask` is the
    object's COCO segmentation as JSON text, in the annotation's frame; empty where only the box is
    known.
    """

    x: float
    y: float
    width: float
    height: float
    label: str
    where: str = ""
    iscrowd: bool = False
    mask: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """One image as the annotations describe it, before any pixel is read.

    Attributes
    ----------
    key : str
        Unique and stable within the dataset; names the output image (``images/<key>.png``).
        May contain ``/``.
    path : str
        The image, relative to the raw folder, with ``/``.
    boxes : tuple of Box
        Empty for a negative. A source that finds boxes only in pixels (masks) leaves this
        empty and returns them from `Source.read`.
    group : str
        What may never be divided between splits (a patient, a slide). Empty: the image itself.
    split : str or None
        The official split (``train``, ``val`` or ``test``) where there is one.
    size : (int, int) or None
        Width and height that the annotation declares: decides whether boxes of an image with an
        EXIF orientation belong to the stored or to the displayed frame.
    crop : (int, int, int, int) or None
        A tile (x, y, width, height in pixels) of a larger image; boxes are in the tile's frame.
    attributes : mapping
        JSON values that go into the COCO image entry (view position, sex, plane, ...).
    """

    key: str
    path: str
    boxes: tuple[Box, ...] = ()
    group: str = ""
    split: str | None = None
    size: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] | None = None
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class Picture:
    """Pixels and boxes of one record, as the writer needs them.

    Attributes
    ----------
    pixels : array (H, W) or (H, W, 3), uint8 or uint16
        Displayed orientation, grey or RGB.
    boxes : tuple of Box
        In the frame of `pixels`; may still reach outside of it.
    verbatim : bool
        The file at `Record.path` holds exactly these pixels as JPEG or PNG and can be copied
        byte for byte instead of being encoded again.
    notes : tuple of str
        Constant phrases that the report counts, such as ``"EXIF orientation applied"``.
    attributes : mapping
        JSON values found in the image file (a DICOM header); added to those of the record.
    """

    pixels: np.ndarray
    boxes: tuple[Box, ...]
    verbatim: bool = False
    notes: tuple[str, ...] = ()
    attributes: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drop:
    """Something of the input that is not in the output, and why."""

    kind: str  # "row", "box", "image" or "file"
    where: str  # file, or file:line, relative to the raw folder
    reason: str  # a constant phrase, counted
    detail: str = ""


class Ledger:
    """Accounts for the input while a source scans: rows read, files used, things dropped.

    Every annotation row is `read` once and then either becomes part of a record or is dropped.
    The source claims every file (`claim`) as an annotation or as an image; the writer lists files
    that no one claimed.
    """

    def __init__(self) -> None:
        self.rows_read: dict[str, int] = {}
        self.rows_without_box: dict[str, int] = {}
        self.annotation_files: set[str] = set()
        self.drops: list[Drop] = []
        self.notes: list[str] = []

    def read(self, file: str, rows: int = 1) -> None:
        """Count `rows` annotation rows (CSV rows, label lines, COCO annotations) of `file`."""
        self.annotation_files.add(file)
        self.rows_read[file] = self.rows_read.get(file, 0) + rows

    def use(self, file: str, rows: int = 1) -> None:
        """Count rows that serve a record without giving it a box of their own.

        The row of a negative, a row of attributes. With it the books balance: rows read are the
        distinct `Box.where` of all records, plus the rows used here, plus the rows dropped.
        """
        self.rows_without_box[file] = self.rows_without_box.get(file, 0) + rows

    def claim(self, file: str) -> None:
        """Say that `file` was read for something other than pixels."""
        self.annotation_files.add(file)

    def drop(self, kind: str, where: str, reason: str, detail: str = "") -> None:
        """Record something that will not be in the output."""
        self.drops.append(Drop(kind, where, reason, detail))

    def note(self, text: str) -> None:
        """Add a sentence for the reader of the report (a decision taken, a known limit)."""
        self.notes.append(text)


class Source(Protocol):
    """The contract of a dataset's converter. Instances are picklable (they travel to workers)."""

    @property
    def raw(self) -> Path:
        """The raw folder."""
        ...

    @property
    def name(self) -> str:
        """What the dataset is called."""
        ...

    def scan(self, ledger: Ledger) -> Iterator[Record]:
        """Yield the records in an order that does not depend on the file system.

        Raises
        ------
        DescryError
            When the folder as a whole cannot be used (a required file is missing or malformed).
        """
        ...

    def categories(self) -> list[tuple[str, str]]:
        """(name, supercategory) per class, in id order from 1; called after `scan` is exhausted."""
        ...

    def read(self, record: Record) -> Picture:
        """Decode one record, in a worker process.

        Raises
        ------
        Unreadable
            When this image or its annotation cannot be used.
        """
        ...

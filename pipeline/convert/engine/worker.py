"""What happens to one record in a worker process: read, check boxes, write, describe."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.convert.engine.boxes import Checked, check_boxes
from pipeline.convert.engine.encode import copy_file, copyable_as, pixel_digest, write_png
from pipeline.convert.engine.workspace import unwritable
from pipeline.convert.records import Box, Drop, Picture, Record, Source, Unreadable
from pipeline.errors import DescryError


@dataclass(slots=True)
class Outcome:
    """What became of one record, as JSON values: the journal keeps it.

    Attributes
    ----------
    file : str
        Relative to the images folder; empty if the image was dropped.
    bytes : int
        Size of that file.
    pixels : str
        SHA-256 of shape, type and values.
    boxes : list of [x, y, width, height, label, iscrowd, where]
    boxes_in : int
        Boxes before the rules.
    drops : list of [kind, where, reason, detail]
    notes : list of str
    attributes : dict
        Of the record and of the picture.
    """

    file: str = ""
    bytes: int = 0
    width: int = 0
    height: int = 0
    pixels: str = ""
    boxes: list[list] = field(default_factory=list)
    boxes_in: int = 0
    clipped: int = 0
    drops: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    attributes: dict[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class Spent:
    """Seconds of one record: wall clock, and processor time of the worker."""

    read: float = 0.0
    write: float = 0.0
    total: float = 0.0
    read_cpu: float = 0.0
    write_cpu: float = 0.0


@dataclass(frozen=True, slots=True)
class Worker:
    """Converts one record after the other; travels to the worker processes.

    Attributes
    ----------
    images : Path
        Folder of the output images.
    labels : frozenset of str
        Names of all classes.
    """

    source: Source
    images: Path
    labels: frozenset[str]
    png_level: int

    def __call__(self, record: Record) -> tuple[Outcome, Spent]:
        """Convert one record.

        Raises
        ------
        DescryError
            When a box has an unknown class, or the output cannot be written.
        """
        spent, start = Spent(), _clock()
        try:
            picture = _read(self.source, record)
        except Unreadable as error:
            detail = error.detail.replace(f"{self.source.raw}/", "")  # as decoders tell it
            outcome = dropped(record, error.reason, detail)
            spent.read, spent.read_cpu = _since(start)
        else:
            spent.read, spent.read_cpu = _since(start)
            outcome = self._keep(record, picture, spent)
        spent.total = _since(start)[0]
        return outcome, spent

    def _keep(self, record: Record, picture: Picture, spent: Spent) -> Outcome:
        """Check boxes and write the image."""
        height, width = picture.pixels.shape[:2]
        checked = check_boxes(picture.boxes, width, height, record.path)
        self._check_labels(checked)
        if picture.boxes and not checked.boxes:
            return _without_usable_box(record, len(picture.boxes), checked.drops)
        start = _clock()
        name, size = self._write(record, picture)
        spent.write, spent.write_cpu = _since(start)
        return Outcome(
            file=name,
            bytes=size,
            width=width,
            height=height,
            pixels=pixel_digest(picture.pixels),
            boxes=[_row(box) for box in checked.boxes],
            boxes_in=len(picture.boxes),
            clipped=checked.clipped,
            drops=[_line(drop) for drop in checked.drops],
            notes=list(picture.notes),
            attributes={**record.attributes, **picture.attributes},
        )

    def _check_labels(self, checked: Checked) -> None:
        for box in checked.boxes:
            if box.label not in self.labels:
                raise DescryError(
                    f"{box.where}: class {box.label!r} is none of {', '.join(sorted(self.labels))}"
                )

    def _write(self, record: Record, picture: Picture) -> tuple[str, int]:
        """Name (relative to the images folder) and size of the written file."""
        raw = self.source.raw / record.path
        kind = copyable_as(raw) if picture.verbatim and record.crop is None else None
        name = f"{record.key}.{kind or 'png'}"
        target = self.images / name
        try:
            if kind:
                return name, copy_file(raw, target)
            return name, write_png(picture.pixels, target, self.png_level)
        except OSError as error:
            raise DescryError(unwritable(error, self.images)) from error


def _read(source: Source, record: Record) -> Picture:
    """`Source.read`, with everything that a decoder may raise turned into `Unreadable`.

    Decoders raise anything on a damaged file. A missing package or a mistake of the user is not
    the image's fault and ends the run.
    """
    try:
        picture = source.read(record)
        if not picture.pixels.size:
            raise Unreadable("image without pixels")
        return picture
    except (Unreadable, DescryError, ImportError):
        raise
    except Exception as error:
        raise Unreadable("decoder failed", f"{type(error).__name__}: {error}") from error


def dropped(record: Record, reason: str, detail: str = "") -> Outcome:
    """Outcome of a record whose image cannot be used; its boxes go with it."""
    return Outcome(
        boxes_in=len(record.boxes),
        drops=[
            ["image", place(record.path, record.crop), reason, detail],
            *(box_of_dropped(box.where or record.path, reason) for box in record.boxes),
        ],
    )


def _without_usable_box(record: Record, boxes_in: int, drops: Sequence[Drop]) -> Outcome:
    """An image that has objects, none of them usable: kept, it would pass as a negative."""
    where = place(record.path, record.crop)
    image = ["image", where, "no usable box, and not a negative", ""]
    return Outcome(boxes_in=boxes_in, drops=[image, *map(_line, drops)])


def box_of_dropped(where: str, reason: str) -> list[str]:
    """Drop of a box whose image is dropped."""
    return ["box", where, "image dropped", reason]


def place(path: str, crop: tuple[int, int, int, int] | list[int] | None) -> str:
    """Name of an image in the list of drops: its path, and the tile where it is one."""
    return path if crop is None else f"{path}[{','.join(map(str, crop))}]"


def _row(box: Box) -> list:
    corner_and_size = [float(v) for v in (box.x, box.y, box.width, box.height)]
    return [*corner_and_size, box.label, int(box.iscrowd), box.where]


def _line(drop: Drop) -> list[str]:
    return [drop.kind, drop.where, drop.reason, drop.detail]


def _clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(start: tuple[float, float]) -> tuple[float, float]:
    wall, cpu = _clock()
    return wall - start[0], cpu - start[1]

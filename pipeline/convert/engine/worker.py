"""What happens to one record in a worker process: read, check boxes, write, describe."""

import ctypes
import hashlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.atomic import unwritable
from pipeline.convert.engine.alike import perceptual_hash
from pipeline.convert.engine.boxes import CheckedBoxes, check_boxes
from pipeline.convert.records import Box, Drop, Picture, Record, Source, Unreadable
from pipeline.convert.segmentation import counts_on
from pipeline.data.images import opened
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
    look : str
        `perceptual_hash` of the pixels.
    boxes : list of [x, y, width, height, label, iscrowd, where, mask]
        The mask as compressed run lengths of the whole image; empty where there is none.
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
    look: str = ""
    boxes: list[list] = field(default_factory=list)
    boxes_in: int = 0
    clipped: int = 0
    drops: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    attributes: dict[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class Timings:
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

    def __call__(self, record: Record) -> Iterator[tuple[Outcome, Timings]]:
        """Convert one record and say what became of it.

        Raises
        ------
        DescryError
            When a box has an unknown class, or the output cannot be written.
        """
        spent, start = Timings(), _clock()
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
        yield outcome, spent

    def _keep(self, record: Record, picture: Picture, spent: Timings) -> Outcome:
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
            look=perceptual_hash(picture.pixels),
            boxes=[_row(box, width, height, record.crop) for box in checked.boxes],
            boxes_in=len(picture.boxes),
            clipped=checked.clipped,
            drops=[_line(drop) for drop in checked.drops],
            notes=list(picture.notes),
            attributes={**record.attributes, **picture.attributes},
        )

    def _check_labels(self, checked: CheckedBoxes) -> None:
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


def _row(box: Box, width: int, height: int, crop: tuple[int, int, int, int] | None) -> list:
    corner_and_size = [float(v) for v in (box.x, box.y, box.width, box.height)]
    mask = counts_on(box.mask, width, height, crop)
    return [*corner_and_size, box.label, int(box.iscrowd), box.where, mask]


def _line(drop: Drop) -> list[str]:
    return [drop.kind, drop.where, drop.reason, drop.detail]


def _clock() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(start: tuple[float, float]) -> tuple[float, float]:
    wall, cpu = _clock()
    return wall - start[0], cpu - start[1]


_SIGNATURES = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpg"))


def copyable_as(path: Path) -> str | None:
    """``png`` or ``jpg`` by the file's first bytes (its name may lie), None for anything else."""
    with opened(path) as stream:
        head = stream.read(8)
    return next((kind for sign, kind in _SIGNATURES if head.startswith(sign)), None)


def copy_file(path: Path, target: Path) -> int:
    """Copy `path` byte for byte; return the number of bytes."""
    return _whole(target, lambda temporary: shutil.copyfile(path, temporary))


def write_png(pixels: np.ndarray, target: Path, level: int) -> int:
    """Write 8- or 16-bit grey or RGB pixels; return the number of bytes.

    Level 1 filters every row by the average of its neighbours and lets zlib look for runs only.
    On radiographs that takes half the time of zlib's own level 1 and gives files a fifth smaller;
    what is noisy has no longer repetitions. Level 0 stores, levels 2 to 9 are zlib's, with the
    filter chosen for each row.

    Parameters
    ----------
    pixels : array (H, W) or (H, W, 3), uint8 or uint16
    """
    import cv2  # a fifth faster than Pillow; loaded where pixels are encoded, not by the parent

    cv2.setNumThreads(0)  # the processes are the parallelism; threads in each would multiply
    grey_or_rgb = pixels.ndim == 2 or pixels.shape[2:] == (3,)
    if pixels.dtype not in (np.uint8, np.uint16) or not grey_or_rgb:
        raise TypeError(f"pixels of {pixels.dtype}, shape {pixels.shape} are no grey or RGB image")
    ordered = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    flags = [cv2.IMWRITE_PNG_COMPRESSION, level]
    if level == 1:
        flags += [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
        flags += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG]
    done, data = cv2.imencode(".png", ordered, flags)
    if not done:
        raise RuntimeError(f"PNG encoder refused pixels of {pixels.dtype}, shape {pixels.shape}")
    return _whole(target, lambda temporary: temporary.write_bytes(data.data))


def _whole(target: Path, write: Callable[[Path], object]) -> int:
    """Write a temporary sibling and rename it; return its size in bytes.

    Without `fsync`, which would take longer than encoding; a restarted conversion compares sizes
    instead.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{os.getpid()}.tmp")  # a name may be as long as it can be
    try:
        write(temporary)
        size = temporary.stat().st_size
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return size


def pixel_digest(pixels: np.ndarray) -> str:
    """SHA-256 (hexadecimal) of shape, type and values: equal for equal pixels, however stored."""
    digest = hashlib.sha256(f"{pixels.shape} {pixels.dtype.str}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def keep_freed_memory() -> None:
    """Let the C library keep up to 256 MiB of freed memory instead of returning it at once.

    Every image allocates and frees several arrays of its size. By default glibc maps each anew
    and the system clears its pages again, which is a sixth of the time of a radiograph. Elsewhere
    (macOS, musl) this does nothing.
    """
    trim_threshold, mmap_threshold = -1, -3  # names of <malloc.h>: M_TRIM_..., M_MMAP_THRESHOLD
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(mmap_threshold, 32 << 20)  # the largest that glibc accepts
        library.mallopt(trim_threshold, 256 << 20)

"""Reading a rectangle of a slide, of an uncompressed TIFF without the rest of the file.

TIFF 6.0, section 8 (strips) and section 15 (tiles): an uncompressed part is its rows of pixels,
one after the other, so a rectangle lies at known places of the file.

Of slides of scanners and of TIFFs beyond the limit of pixels, OpenSlide reads the rectangle.

Cost of reading otherwise: a JPEG or PNG can only be decoded from its beginning, and a compressed
TIFF is decoded whole by Pillow. Each worker keeps the slide that it decoded last, so a slide costs
one decoding (and its full size in memory) per worker that gets some of its tiles. Of an
uncompressed TIFF only the strips or tiles that the wanted rectangle crosses are read.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.convert.formats.pictures import is_slide, read_picture
from pipeline.convert.formats.whole_slides import read_region
from pipeline.convert.records import Picture, Record, Unreadable
from pipeline.data.images import DAMAGE, opened
from pipeline.data.intensity import Intensity

Rectangle = tuple[int, int, int, int]  # x, y, width, height in pixels
_PHOTOMETRIC = 262  # 0: white is 0
# Pixel type and samples by Pillow's name of the stored layout.
_STORED = {"L": ("u1", 1), "RGB": ("u1", 3), "I;16": ("<u2", 1), "I;16B": (">u2", 1)}


def read_stored(path: Path, crop: Rectangle) -> np.ndarray | None:
    """Pixels (height, width) or (height, width, 3) of `crop`, uint8 or uint16.

    Returns None when the file is no uncompressed grey or RGB TIFF, is shorter than it says, or
    does not cover the rectangle: the full reader will then read it or say what is wrong.
    """
    try:
        with opened(path) as stream, Image.open(stream) as image:
            kind, mode, parts = image.format, image.mode, list(getattr(image, "tile", ()))
            inverted = kind == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
        if kind != "TIFF" or inverted or any(not _is_plain(p, mode) for p in parts):
            return None
        stored = np.memmap(path, np.uint8, mode="r")
    except DAMAGE:
        return None
    return _assemble(stored, parts, crop)


def _is_plain(part: tuple, mode: str) -> bool:
    """Whether a part is stored as pixels of `mode`, top row first."""
    return part[0] == "raw" and part[3][0] == mode in _STORED and part[3][2] == 1


def _assemble(stored: np.ndarray, parts: list, crop: Rectangle) -> np.ndarray | None:
    """Copy what the parts hold of the rectangle; None if some of it is in none."""
    x, y, width, height = crop
    result, covered = None, 0
    for _, (left, top, right, bottom), offset, (layout, stride, *_) in parts:
        x0, x1, y0, y1 = max(x, left), min(x + width, right), max(y, top), min(y + height, bottom)
        if x0 >= x1 or y0 >= y1:
            continue
        part = _part(stored, offset, (bottom - top, right - left), layout, stride)
        if part is None:
            return None
        if result is None:
            result = np.empty((height, width, *part.shape[2:]), part.dtype.newbyteorder("="))
        result[y0 - y : y1 - y, x0 - x : x1 - x] = part[y0 - top : y1 - top, x0 - left : x1 - left]
        covered += (x1 - x0) * (y1 - y0)
    return result if covered == width * height else None


def _part(
    stored: np.ndarray, offset: int, shape: tuple[int, int], layout: str, stride: int
) -> np.ndarray | None:
    """One strip or tile as a view (rows, columns[, 3]) of the file's bytes (n,)."""
    kind, samples = _STORED[layout]
    rows, columns = shape
    used = columns * samples * np.dtype(kind).itemsize
    # Tiles at the right border are stored wider than what they show of the image.
    stride = stride or used
    last = offset + (rows - 1) * stride + used
    if stride < used or last > len(stored):
        return None
    lines = np.lib.stride_tricks.as_strided(stored[offset:], (rows, used), (stride, 1))
    return lines.view(kind) if samples == 1 else lines.reshape(rows, columns, samples)


def read_tile(raw: Path, record: Record, intensity: Intensity) -> Picture:
    """Read the rectangle `record.crop` of an image file, all of it without one.

    Raises
    ------
    Unreadable
        When the file is missing or corrupt.
    """
    if record.crop is None:
        return read_picture(raw, record, intensity)
    x, y, width, height = record.crop
    notes: tuple[str, ...] = ()
    pixels = read_stored(raw / record.path, record.crop)
    if pixels is None and is_slide(raw / record.path):
        pixels = read_region(raw / record.path, record.crop)
    elif pixels is None:
        slide = _last_slide(raw, record.path, intensity)
        pixels, notes = slide.pixels[y : y + height, x : x + width], slide.notes
    if pixels.shape[:2] != (height, width):
        raise Unreadable("image changed during the conversion", f"tile {record.crop} is outside")
    return Picture(np.ascontiguousarray(pixels), record.boxes, False, notes)


@lru_cache(maxsize=1)
def _last_slide(raw: Path, path: str, intensity: Intensity) -> Picture:
    """Decode a whole slide, once for all of its tiles that this worker gets in a row."""
    return read_picture(raw, Record(key=path, path=path), intensity)

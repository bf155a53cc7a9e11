"""Slides of scanners, and TIFFs too large to decode: only what a tile covers is read, by OpenSlide.

Needs ``descry[slides]``. Formats: those of https://openslide.org/formats, at full resolution.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.convert.records import Unreadable
from pipeline.data.images import MAX_PIXELS
from pipeline.errors import DescryError

SLIDES = frozenset({".svs", ".ndpi", ".scn", ".mrxs", ".bif", ".svslide", ".vms", ".vmu"})


@lru_cache(maxsize=1)
def _open(path: Path) -> Any:
    """A slide, which stays open as long as its tiles are read.

    Raises
    ------
    Unreadable
        When OpenSlide does not know it.
    DescryError
        When OpenSlide is not installed.
    """
    try:
        import openslide
    except ImportError:
        raise DescryError(f"{path.name}: slides need pip install 'descry[slides]'") from None
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise Unreadable("corrupt image", f"OpenSlide: {error}") from error


def size_of(path: Path) -> tuple[int, int] | None:
    """Width and height in pixels; None if unreadable."""
    try:
        width, height = _open(path).dimensions
    except Unreadable:
        return None
    return int(width), int(height)


def read_region(path: Path, crop: tuple[int, int, int, int] | None) -> NDArray[np.uint8]:
    """Pixels (H, W, 3) of a rectangle (x, y, width, height), or all; what was not scanned is white.

    Raises
    ------
    Unreadable
        When the slide is damaged, or too large to be read whole.
    """
    slide = _open(path)
    x, y, width, height = crop or (0, 0, *slide.dimensions)
    if width * height > MAX_PIXELS:
        detail = f"{width} x {height}; set tile, to cut it"
        raise Unreadable(f"more than {MAX_PIXELS // 10**6} million pixels", detail)
    try:
        rgba = np.asarray(slide.read_region((x, y), 0, (width, height))).astype(np.uint16)
    except Exception as error:  # OpenSlide's own, which closes the slide; imported where it is used
        _open.cache_clear()
        raise Unreadable("corrupt image", f"OpenSlide: {error}") from error
    seen = rgba[..., 3:]
    return ((rgba[..., :3] * seen + 255 * (255 - seen) + 127) // 255).astype(np.uint8)

"""One image file of a folder, ordinary or DICOM: its size, its patient, its pixels.

What reads DICOM is imported where there is some: conversion of ordinary images does without.
"""

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from PIL import Image

from pipeline import dicom
from pipeline.convert.formats import whole_slides
from pipeline.convert.formats.whole_slides import SLIDES
from pipeline.convert.records import Box, Ledger, Picture, Record, Unreadable
from pipeline.convert.segmentation import turned
from pipeline.data.images import (
    DAMAGE,
    EXTENSIONS,
    TOO_LARGE,
    DecodedImage,
    ImageError,
    frame_of,
    opened,
    read_image,
)
from pipeline.data.intensity import Intensity

SUFFIXES = EXTENSIONS | dicom.EXTENSIONS | SLIDES


def displayed_size(path: Path) -> tuple[int, int] | None:
    """Width and height after the EXIF orientation, from the header alone; None if unreadable."""
    if _is_dicom(path):
        from pipeline.convert.formats.dicom import size_of

        return size_of(path)
    if is_slide(path):
        return whole_slides.size_of(path)
    try:
        with opened(path) as stream, Image.open(stream) as image:
            orientation, (width, height) = _frame(image)
            return (height, width) if orientation >= 5 else (width, height)
    except DAMAGE:
        return None


def is_turned(path: Path) -> bool:
    """Whether the file asks to be shown turned or mirrored (EXIF orientation 2 to 8)."""
    try:
        with opened(path) as stream, Image.open(stream) as image:
            return not is_slide(path) and _frame(image)[0] != 1
    except DAMAGE:
        return False


@lru_cache(maxsize=64)
def is_slide(path: Path) -> bool:
    """Whether a file is read a rectangle at a time: a scanner's, or a TIFF beyond all limits."""
    if path.suffix.lower() in SLIDES:
        return True
    try:
        with opened(path) as stream, Image.open(stream):
            return False
    except TOO_LARGE:
        return path.suffix.lower() in (".tif", ".tiff")
    except DAMAGE:
        return False


def _frame(image: Image.Image) -> tuple[int, tuple[int, int]]:
    """As `frame_of`; a PNG without an early eXIf chunk is not decoded to look for one."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1, image.size
    return frame_of(image)


def patient_of(path: Path) -> str:
    """A name for the patient, if the file is DICOM and tells it; see `dicom_files.patient_of`."""
    if not _is_dicom(path):
        return ""
    from pipeline.convert.formats.dicom import patient_of

    return patient_of(path)


def read_picture(raw: Path, record: Record, intensity: Intensity) -> Picture:
    """Decode the image file of `record`, DICOM by the recipe `intensity`.

    Raises
    ------
    Unreadable
        As `read_ordinary` or `dicom_files.read_dicom`.
    """
    if is_slide(raw / record.path):
        return Picture(whole_slides.read_region(raw / record.path, None), record.boxes)
    if not _is_dicom(raw / record.path):
        return read_ordinary(raw, record)
    from pipeline.convert.formats.dicom import read_dicom

    return read_dicom(raw, record, intensity)


def read_ordinary(raw: Path, record: Record) -> Picture:
    """Decode the ordinary image file of `record`; its boxes follow an EXIF orientation.

    Raises
    ------
    Unreadable
        When the file is missing, is not a complete image, or has another size than the
        annotation declares.
    """
    try:
        image = read_image(raw / record.path)
    except FileNotFoundError as error:
        raise Unreadable("image missing") from error
    except ImageError as error:
        raise Unreadable("corrupt image", str(error)) from error
    boxes, notes = in_displayed_frame(record.boxes, record.size, image)
    return Picture(image.pixels, boxes, image.verbatim, image.notes + notes)


def _is_dicom(path: Path) -> bool:
    return path.suffix.lower() in dicom.EXTENSIONS


AMBIGUOUS = "EXIF orientation: the annotation's size does not tell its frame, taken as displayed"
TURNED = "EXIF orientation: boxes turned with the image"

Rectangle = tuple[float, float, float, float]  # x, y, width, height

# By orientation: the displayed rectangle of a stored one in stored pixels of width W, height H.
_DISPLAYED: dict[int, Callable[[float, float, float, float, int, int], Rectangle]] = {
    2: lambda x, y, w, h, W, H: (W - x - w, y, w, h),
    3: lambda x, y, w, h, W, H: (W - x - w, H - y - h, w, h),
    4: lambda x, y, w, h, W, H: (x, H - y - h, w, h),
    5: lambda x, y, w, h, W, H: (y, x, h, w),
    6: lambda x, y, w, h, W, H: (H - y - h, x, h, w),
    7: lambda x, y, w, h, W, H: (H - y - h, W - x - w, h, w),
    8: lambda x, y, w, h, W, H: (y, W - x - w, h, w),
}


def turn(box: Box, orientation: int, stored: tuple[int, int]) -> Box:
    """Box in displayed pixels of a `box` in stored pixels (`stored`: width and height)."""
    if orientation not in _DISPLAYED:
        return box
    x, y, w, h = _DISPLAYED[orientation](box.x, box.y, box.width, box.height, *stored)
    mask = turned(box.mask, orientation, stored)
    return replace(box, x=x, y=y, width=w, height=h, mask=mask)


def in_displayed_frame(
    boxes: tuple[Box, ...], declared: tuple[int, int] | None, image: DecodedImage
) -> tuple[tuple[Box, ...], tuple[str, ...]]:
    """Boxes in the frame of the decoded pixels, and notes.

    The size that the annotation declares tells which frame its boxes are of. Without one, or
    where both frames have the same size (squares, half turns, mirrors), they count as displayed,
    which is what annotation tools show, and a note says so.

    Raises
    ------
    Unreadable
        When the declared size is that of neither frame: the boxes are of another image.
    """
    height, width = image.pixels.shape[:2]
    check_size(declared, (width, height), image.stored_size)
    if image.orientation not in _DISPLAYED or not boxes:
        return boxes, ()
    if declared is None or (width, height) == image.stored_size:
        return boxes, (AMBIGUOUS,)
    if declared == (width, height):
        return boxes, ()
    return tuple(turn(b, image.orientation, image.stored_size) for b in boxes), (TURNED,)


def check_size(declared: tuple[int, int] | None, *actual: tuple[int, int]) -> None:
    """Refuse an annotation that declares none of the sizes (width, height) that the file has.

    Raises
    ------
    Unreadable
        Its boxes are of another image.
    """
    if declared is not None and declared not in actual:
        (width, height), (w, h) = actual[0], declared
        detail = f"declared {w} x {h}, the file has {width} x {height}"
        raise Unreadable("image size differs from the annotation", detail)


def files_by_name(
    raw: Path, folders: Iterable[Path], suffix: str, ledger: Ledger
) -> dict[str, str]:
    """Map file name -> path relative to `raw`, of the files that end in `suffix` in any case.

    A name that occurs twice is dropped at its second place.
    """
    found: dict[str, str] = {}
    for path in sorted(path for folder in folders for path in files_below(folder, {suffix})):
        relative = path.relative_to(raw).as_posix()
        if path.name in found:
            ledger.drop("file", relative, "same file name in two folders", found[path.name])
        else:
            found[path.name] = relative
    return found


def files_below(folder: Path, suffixes: Collection[str] = ()) -> list[Path]:
    """Files below a folder whose extension, in small letters, is one of `suffixes`, if any; sorted.

    Links to folders are followed (large data is often linked), each real folder once; hidden
    files and the resource forks of macOS are skipped.
    """
    found, seen = [], set()
    for place, inner, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith((".", "__MACOSX")))
        here = [Path(place, name) for name in files if not name.startswith(".")]
        found += [path for path in here if not suffixes or path.suffix.lower() in suffixes]
    return sorted(found)

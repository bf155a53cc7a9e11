"""One image file of a folder, ordinary or DICOM: its size, its patient, its pixels.

What reads DICOM is imported where there is some: conversion of ordinary images does without.
"""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from pipeline import dicom
from pipeline.convert.formats.orient import in_displayed_frame
from pipeline.convert.records import Picture, Record, Unreadable
from pipeline.data.images import EXTENSIONS, ImageError, read_image
from pipeline.data.intensity import Intensity

SUFFIXES = EXTENSIONS | dicom.EXTENSIONS
_ORIENTATION = 0x0112


def displayed_size(path: Path) -> tuple[int, int] | None:
    """Width and height after the EXIF orientation, from the header alone; None if unreadable."""
    if _is_dicom(path):
        from pipeline.convert.formats.dicom_files import size_of

        return size_of(path)
    try:
        with Image.open(path) as image:
            width, height = image.size
            return (height, width) if _orientation(image) >= 5 else (width, height)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def is_turned(path: Path) -> bool:
    """Whether the file asks to be shown turned or mirrored (EXIF orientation 2 to 8)."""
    try:
        with Image.open(path) as image:
            return _orientation(image) != 1
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _orientation(image: Image.Image) -> int:
    """EXIF orientation; a PNG without an early eXIf chunk is not decoded to look for one."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    value = int(image.getexif().get(_ORIENTATION, 1) or 1)
    return value if 1 <= value <= 8 else 1


def patient_of(path: Path) -> str:
    """A name for the patient, if the file is DICOM and tells it; see `dicom_files.patient_of`."""
    if not _is_dicom(path):
        return ""
    from pipeline.convert.formats.dicom_files import patient_of

    return patient_of(path)


def read_picture(raw: Path, record: Record, intensity: Intensity) -> Picture:
    """Decode the image file of `record`, DICOM by the recipe `intensity`.

    Raises
    ------
    Unreadable
        As `read_ordinary` or `dicom_files.read_dicom`.
    """
    if not _is_dicom(raw / record.path):
        return read_ordinary(raw, record)
    from pipeline.convert.formats.dicom_files import read_dicom

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

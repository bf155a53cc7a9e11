"""One image file of a folder, ordinary or DICOM: its size, its patient, its pixels."""

import hashlib
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from pipeline import dicom
from pipeline.convert.formats.header import IMPLAUSIBLE_AGE, describe
from pipeline.convert.formats.orient import check_size, in_displayed_frame
from pipeline.convert.records import Picture, Record, Unreadable
from pipeline.data.images import EXTENSIONS, ImageError, read_image
from pipeline.data.intensity import Intensity
from pipeline.dicom.errors import DicomError
from pipeline.dicom.header import read_header
from pipeline.dicom.pixels import read_frame

SUFFIXES = EXTENSIONS | dicom.EXTENSIONS
_ORIENTATION = 0x0112
_PATIENT = ("PatientID", "IssuerOfPatientID")


def is_dicom(path: Path | str) -> bool:
    """Whether a file counts as DICOM, by its name."""
    return Path(path).suffix.lower() in dicom.EXTENSIONS


def displayed_size(path: Path) -> tuple[int, int] | None:
    """Width and height after the EXIF orientation, from the header alone; None if unreadable."""
    try:
        if is_dicom(path):
            header = read_header(path)
            return header.number("Columns"), header.number("Rows")
        with Image.open(path) as image:
            width, height = image.size
            return (height, width) if _orientation(image) >= 5 else (width, height)
    except (
        DicomError,
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ):
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
    """A name for the patient of a DICOM file that is none: a digest of the ID and who issued it.

    Empty where the header has no ID or cannot be read. Files that share it are of one patient
    (PS3.3 C.7.1.1); whoever has a list of IDs can find out which.
    """
    try:
        header = read_header(path, also=_PATIENT)
    except (DicomError, OSError):
        return ""
    identity, issuer = (header.text(keyword) for keyword in _PATIENT)
    if not identity:
        return ""
    return hashlib.blake2b(f"{identity}\0{issuer}".encode(), digest_size=8).hexdigest()


def read_picture(raw: Path, record: Record, intensity: Intensity) -> Picture:
    """Decode the image file of `record`, DICOM by the recipe `intensity`.

    Raises
    ------
    Unreadable
        As `read_ordinary`; also for DICOM of several frames, of which the boxes name none.
    """
    if not is_dicom(record.path):
        return read_ordinary(raw, record)
    path = raw / record.path
    try:
        header = read_header(path)
        if header.frame_count > 1:
            raise Unreadable("several frames in one file", f"{header.frame_count} frames")
        frame = read_frame(header, intensity)
    except FileNotFoundError as error:
        raise Unreadable("image missing") from error
    except (DicomError, OSError) as error:
        raise Unreadable("corrupt image", str(error)) from error
    height, width = frame.pixels.shape[:2]
    check_size(record.size, (width, height))
    found = describe(path)  # here and not while scanning: many processes read
    notes = (*frame.notes, *([IMPLAUSIBLE_AGE] if found.odd_age else []))
    return Picture(frame.pixels, record.boxes, notes=notes, attributes=found.attributes)


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

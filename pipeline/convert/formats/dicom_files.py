"""One DICOM file of a folder: its size, its patient, its pixels."""

import hashlib
from pathlib import Path

from pipeline.convert.formats.header import IMPLAUSIBLE_AGE, describe
from pipeline.convert.formats.orient import check_size
from pipeline.convert.records import Picture, Record, Unreadable
from pipeline.data.intensity import Intensity
from pipeline.dicom.errors import DicomError
from pipeline.dicom.header import read_header
from pipeline.dicom.pixels import read_frame

_PATIENT = ("PatientID", "IssuerOfPatientID")


def size_of(path: Path) -> tuple[int, int] | None:
    """Width and height, from the header alone; None if unreadable."""
    try:
        header = read_header(path)
        return header.number("Columns"), header.number("Rows")
    except (DicomError, OSError):
        return None


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


def read_dicom(raw: Path, record: Record, intensity: Intensity) -> Picture:
    """Decode the file of `record` by the recipe `intensity`; its header adds attributes.

    Raises
    ------
    Unreadable
        When the file is missing, cannot be decoded, has another size than the annotation declares,
        or several frames, of which the boxes name none.
    """
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

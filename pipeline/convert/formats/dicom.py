"""One DICOM file of a folder: its size, its patient, its pixels."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from pipeline.convert.formats.pictures import check_size
from pipeline.convert.formats.tables import age_in_years
from pipeline.convert.records import Picture, Record, Unreadable
from pipeline.data.intensity import Intensity
from pipeline.dicom.errors import DicomError
from pipeline.dicom.read.header import quiet, read_header
from pipeline.dicom.read.pixels import read_frame
from pipeline.dicom.read.stored import frame_count

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

    Files that share it are of one patient (PS3.3 C.7.1.1); whoever has a list of IDs can find out
    which. Without an ID, of the study, whose images are of one patient, too. Empty where the header
    has neither or cannot be read.
    """
    try:
        header = read_header(path, also=_PATIENT)
    except (DicomError, OSError):
        return ""
    identity, issuer = (header.text(keyword) for keyword in _PATIENT)
    study = header.text("StudyInstanceUID")
    if not identity and not study:
        return ""
    name = f"{identity}\0{issuer}" if identity else f"study {study}"
    return hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def read_dicom(raw: Path, record: Record, intensity: Intensity) -> Picture:
    """Decode the file of `record` by the recipe `intensity`; its header adds attributes.

    Raises
    ------
    Unreadable
        When the file is missing, cannot be decoded, has another size than the annotation declares,
        or several frames, of which the record (its attribute ``frame``, from 1) names none.
    """
    path = raw / record.path
    try:
        header = read_header(path)
        number = record.attributes.get("frame")
        if number is None and (count := frame_count(header)) > 1:
            raise Unreadable("several frames in one file", f"{count} frames")
        frame = read_frame(header, intensity, int(str(number or 1)) - 1)
    except FileNotFoundError as error:
        raise Unreadable("image missing") from error
    except (DicomError, OSError) as error:
        raise Unreadable("corrupt image", str(error)) from error
    height, width = frame.pixels.shape[:2]
    check_size(record.size, (width, height))
    found = describe(path)  # here and not while scanning: many processes read
    notes = (*frame.notes, *([IMPLAUSIBLE_AGE] if found.odd_age else []))
    return Picture(frame.pixels, record.boxes, notes=notes, attributes=found.attributes)


IMPLAUSIBLE_AGE = "implausible age left out"
_KEYWORDS = ["PatientAge", "PatientSex", "ViewPosition", "PixelSpacing"]


@dataclass(frozen=True, slots=True)
class HeaderAttributes:
    """Attributes of one image, and what kept some of them out.

    Attributes
    ----------
    attributes : dict
        ``view_position``, ``sex``, ``age`` (years) and ``original_pixel_spacing_mm`` (x, y), as
        far as they are known.
    odd_age : bool
        There is an age that no patient can have (155 occurs in RSNA's files).
    """

    attributes: dict[str, object] = field(default_factory=dict)
    odd_age: bool = False


def describe(path: Path) -> HeaderAttributes:
    """Read the header of one file without its pixels.

    A damaged file gives no attributes here; reading its pixels reports it.
    """
    try:
        with quiet():  # an age of "32" has no unit, of which pydicom would warn for every file
            dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_KEYWORDS)
            texts = {keyword: _text(dataset, keyword) for keyword in _KEYWORDS}
    except Exception:  # pydicom has no common base for what damaged headers raise
        return HeaderAttributes()
    age = age_in_years(texts["PatientAge"])
    found: dict[str, object] = {"view_position": texts["ViewPosition"], "sex": texts["PatientSex"]}
    found = {name: value for name, value in found.items() if value}
    if age is not None:
        found["age"] = age
    spacing = _spacing(texts["PixelSpacing"])
    if spacing:
        found["original_pixel_spacing_mm"] = spacing
    return HeaderAttributes(found, odd_age=bool(texts["PatientAge"]) and age is None)


def _text(dataset: Dataset, keyword: str) -> str:
    """An element as text, several values with backslashes between; empty where absent."""
    value = dataset.get(keyword)
    values = value if isinstance(value, list | pydicom.multival.MultiValue) else [value]
    return "\\".join(str(item).strip() for item in values if item is not None)


def _spacing(text: str) -> list[float]:
    """Spacing along x and y in mm; the header gives y (between rows) first (PS3.3 10.7.1.3)."""
    try:
        y, x = (float(part) for part in text.split("\\"))
    except ValueError:
        return []
    return [x, y] if x > 0 and y > 0 else []

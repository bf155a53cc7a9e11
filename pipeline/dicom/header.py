"""The header of a DICOM file: only the elements that detection needs, never a patient's data.

Everything before the pixels is walked over, but only the elements in `elements.KEPT` are kept, so a
`Header` cannot leak a name. Values that come from the file never enter an error message, except
transfer syntax and SOP class, which identify no one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from pipeline.dicom.errors import DicomError, quiet
from pipeline.dicom.parse import PixelElement, inflated, looks_like_dicom, parse, pixel_element

# Storage classes that hold no picture to look at, although some (segmentations, dose grids,
# parametric maps) carry pixel data. A trailing dot stands for the whole family (PS3.4 B.5).
_S = "1.2.840.10008.5.1.4.1.1."
_NOT_IMAGES = (
    "1.2.840.10008.1.3.10",  # DICOMDIR
    _S + "9.",  # waveforms
    _S + "11.",  # presentation states
    _S + "30",  # parametric map
    _S + "66",  # raw data
    _S + "66.",  # registrations, fiducials, segmentations
    _S + "67",  # real world value mapping
    _S + "68.",  # surface scans
    _S + "88.",  # structured reports, key objects
    _S + "104.",  # encapsulated documents
    *(_S + f"481.{n}" for n in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11)),  # radiotherapy, not RT Image
)


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a DICOM file before its pixels are touched.

    Attributes
    ----------
    path : Path
    dataset : Dataset
        The elements in `KEPT` that the file has, and nothing else.
    syntax : UID
        Transfer syntax; for files without meta information the one found by sniffing.
    sop_class : str
        SOP Class UID of the data set, or else of the meta information; may be empty.
    element : PixelElement or None
        None for objects without pixel data. For deflated files the offset counts in the
        inflated stream.
    """

    path: Path
    dataset: Dataset
    syntax: UID
    sop_class: str
    element: PixelElement | None

    def text(self, keyword: str) -> str:
        """Return an element as text, empty where absent or unreadable."""
        try:
            with quiet():
                value = self.dataset.get(keyword)
        except Exception:  # a malformed value of a descriptive element does not matter
            return ""
        return "" if value is None else str(value).strip()

    def number(self, keyword: str, default: int | None = None) -> int:
        """Return an element as an integer.

        Raises
        ------
        DicomError
            "cannot decode" where it is absent (and there is no default) or not a number.
        """
        try:
            with quiet():
                value = self.dataset.get(keyword)
                if value is not None and value != "":
                    return int(value)
        except Exception as error:
            raise DicomError("cannot decode", f"{keyword} is not a whole number") from error
        if default is None:
            raise DicomError("cannot decode", f"{keyword} is missing")
        return default

    @property
    def frame_count(self) -> int:
        """Number of Frames; absent or 0 means 1."""
        return self.number("NumberOfFrames", 1) or 1

    @property
    def syntax_name(self) -> str:
        """Name and UID of the transfer syntax, for messages."""
        name = self.syntax.name
        return str(self.syntax) if name == self.syntax else f"{name} ({self.syntax})"


def read_header(path: Path) -> Header:
    """Read a DICOM file up to its pixels.

    Files without preamble or without meta information are accepted when they begin with an
    element of group 0002 or 0008; anything else is not DICOM.

    Raises
    ------
    DicomError
        "not DICOM", "cannot decode" (damaged header), "too large" (a deflated file that would
        not fit into memory), "not an image object" or "no pixel data".
    OSError
        When the file cannot be opened.
    """
    with path.open("rb") as file:
        head = file.read(2048)
        if not looks_like_dicom(head):
            raise DicomError("not DICOM", "neither the DICM mark nor a leading DICOM element")
        try:
            with quiet():
                dataset, syntax, stream = parse(file, head)
                element = pixel_element(stream, syntax)
                meta = getattr(dataset, "file_meta", {}).get("MediaStorageSOPClassUID", "")
                sop_class = str(dataset.get("SOPClassUID") or meta)
        except DicomError:
            raise
        except Exception as error:  # pydicom has no common base for what broken headers raise
            detail = f"the header cannot be parsed ({type(error).__name__})"
            raise DicomError("cannot decode", detail) from error
    header = Header(path, dataset, syntax, sop_class, element)
    _require_image(header)
    return header


@contextmanager
def pixel_stream(header: Header) -> Iterator[BinaryIO]:
    """Open the stream that `PixelElement.offset` counts in, positioned at the pixel data."""
    assert header.element is not None
    with header.path.open("rb") as file:
        deflated = header.syntax == DeflatedExplicitVRLittleEndian
        stream: BinaryIO = inflated(file, file.read(2048)) if deflated else file
        stream.seek(header.element.offset)
        yield stream


def _require_image(header: Header) -> None:
    """Raise for objects that are no pictures, and for pictures without pixels."""
    sop_class = header.sop_class
    families = tuple(prefix for prefix in _NOT_IMAGES if prefix.endswith("."))
    if sop_class in _NOT_IMAGES or sop_class.startswith(families):
        raise DicomError("not an image object", UID(sop_class).name)
    if header.element is None and "Rows" not in header.dataset:
        known = UID(sop_class).name if sop_class in UID_dictionary else "unknown SOP class"
        if not sop_class or "Image" in known:
            raise DicomError("no pixel data", "neither Rows nor pixel data (absent or cut off)")
        raise DicomError("not an image object", known)
    if header.element is None:
        raise DicomError("no pixel data", "the file ends without it (absent or cut off)")

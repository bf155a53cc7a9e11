"""The header of a DICOM file: only the elements that detection needs, never a patient's data.

Everything before the pixels is walked over, but only the elements in `KEPT` are kept, so a
`Header` cannot leak a name. Values that come from the file never enter an error message, except
transfer syntax and SOP class, which identify no one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pydicom.uid import UID, MediaStorageDirectoryStorage

from pipeline.data.images import Openable, opened
from pipeline.dicom.errors import DicomError, quiet, syntax_name
from pipeline.dicom.read.parse import (
    PixelElement,
    deflated_from,
    inflated,
    looks_like_dicom,
    parse,
    pixel_element,
)
from pipeline.dicom.read.values import joined

# Elements that are kept of a header; all others are skipped unread. Nothing here names or dates a
# patient: whoever adds an element adds it to what may be shown.
_IDENTITY = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_SELECTION = (
    "Modality",
    "BodyPartExamined",
    "ViewPosition",
    "SeriesDescription",
    "BurnedInAnnotation",
    "PresentationIntentType",
)
_GEOMETRY = (
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "PixelSpacingCalibrationType",
    "EstimatedRadiographicMagnificationFactor",
    "PixelAspectRatio",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
)
_IMAGE_PIXEL = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
_GREY_SCALE = (
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PresentationLUTShape",
)
_FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_PALETTE = tuple(
    f"{prefix}{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue")
    for prefix, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
)
KEPT: tuple[str, ...] = (
    *_IDENTITY,
    *_SELECTION,
    *_GEOMETRY,
    *_IMAGE_PIXEL,
    *_GREY_SCALE,
    *_FUNCTIONAL_GROUPS,
    *_PALETTE,
)

# Storage classes that hold no picture to look at, although some (segmentations, dose grids,
# parametric maps) carry pixel data. A trailing dot stands for the whole family (PS3.4 B.5).
_S = "1.2.840.10008.5.1.4.1.1."
_NOT_IMAGES = (
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
    source : Openable
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

    source: Openable
    dataset: Dataset
    syntax: UID
    sop_class: str
    element: PixelElement | None

    def text(self, keyword: str) -> str:
        """Return an element as text, empty where absent or unreadable.

        For choices and messages; what is copied into an object is asked of `exact_text`.
        """
        try:
            with quiet():
                return joined(self.dataset.get(keyword))
        except Exception:  # a malformed value of a descriptive element does not matter
            return ""

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
    def for_processing(self) -> bool:
        """Whether it holds the detector's values, by its intent (PS3.3 C.8.11.1) or its class."""
        kind = UID(self.sop_class).name if self.sop_class in UID_dictionary else ""
        return "FOR PROCESSING" in (kind.upper() + self.text("PresentationIntentType").upper())

    @property
    def syntax_name(self) -> str:
        """Name and UID of the transfer syntax, for messages."""
        return syntax_name(self.syntax)


def read_header(source: Openable, also: Sequence[str] = ()) -> Header:
    """Read a DICOM file up to its pixels.

    Files without preamble or without meta information are accepted when they begin with an
    element of group 0002 or 0008; anything else is not DICOM.

    Parameters
    ----------
    source : Openable
    also : sequence of str
        Keywords of elements to keep beside those in `KEPT`. They may name the patient: whoever
        asks for them answers for what becomes of them.

    Raises
    ------
    DicomError
        "not DICOM", "cannot decode" (damaged header), "too large" (a deflated file that would
        not fit into memory), "not an image object" or "no pixel data".
    OSError
        When the file cannot be opened.
    """
    with opened(source) as file:
        head = file.read(2048)
        if not looks_like_dicom(head):
            raise DicomError("not DICOM", "neither the DICM mark nor a leading DICOM element")
        try:
            with quiet():
                dataset, syntax, stream = parse(file, head, (*KEPT, *also))
                element = pixel_element(stream, syntax)
                meta = getattr(dataset, "file_meta", {}).get("MediaStorageSOPClassUID", "")
                sop_class = joined(dataset.get("SOPClassUID") or meta)
        except DicomError:
            raise
        except Exception as error:  # pydicom has no common base for what broken headers raise
            detail = f"the header cannot be parsed ({type(error).__name__})"
            raise DicomError("cannot decode", detail) from error
    header = Header(source, dataset, syntax, sop_class, element)
    _require_image(header)
    return header


@contextmanager
def pixel_stream(header: Header) -> Iterator[BinaryIO]:
    """Open the stream that `PixelElement.offset` counts in, positioned at the pixel data."""
    assert header.element is not None
    with opened(header.source) as file:
        start = deflated_from(file, file.read(2048))
        stream: BinaryIO = file if start is None else inflated(file, start)
        stream.seek(header.element.offset)
        yield stream


def _require_image(header: Header) -> None:
    """Raise for objects that are no pictures, and for pictures without pixels."""
    sop_class = header.sop_class
    if sop_class == MediaStorageDirectoryStorage:
        raise DicomError("not an image object", "DICOMDIR: its files are found by themselves")
    families = tuple(prefix for prefix in _NOT_IMAGES if prefix.endswith("."))
    if sop_class in _NOT_IMAGES or sop_class.startswith(families):
        known = UID(sop_class).name if sop_class in UID_dictionary else "unknown SOP class"
        raise DicomError("not an image object", known)
    if header.element is None and "Rows" not in header.dataset:
        known = UID(sop_class).name if sop_class in UID_dictionary else "unknown SOP class"
        if not sop_class or "Image" in known:
            raise DicomError("no pixel data", "neither Rows nor pixel data (absent or cut off)")
        raise DicomError("not an image object", known)
    if header.element is None:
        raise DicomError("no pixel data", "the file ends without it (absent or cut off)")

"""The header of a DICOM file: only the elements that detection needs, never a patient's data.

Everything before the pixels is walked over, but only the elements in `elements.KEPT` are kept, so a
`Header` cannot leak a name. Values that come from the file never enter an error message, except
transfer syntax and SOP class, which identify no one.
"""

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from pipeline.dicom.elements import KEPT

_PIXEL_TAGS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData"}
_PIXEL_TAGS[0x7FE00010] = "PixelData"
_PIXEL_VRS = (b"OB", b"OW", b"OF", b"OD", b"UN")
_MAX_INFLATED = 2**30
UNDEFINED = 0xFFFFFFFF
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


class DicomError(Exception):
    """One file (or frame) cannot be used; the run goes on.

    Parameters
    ----------
    kind : str
        A short constant phrase to count by: "not DICOM", "not an image object",
        "no pixel data", "truncated", "too large", "cannot decode" or
        "unsupported photometric interpretation".
    detail : str
        What exactly, without any value that could identify a patient.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind


@dataclass(frozen=True, slots=True)
class PixelElement:
    """Where the pixel data element lies: `offset` of its value in the file, in bytes.

    `length` is `UNDEFINED` for encapsulated data; `vr` is empty in implicit VR files.
    """

    keyword: str
    vr: str
    offset: int
    length: int


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


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom and the codecs from printing or logging: their words quote header values."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "pylibjpeg", "openjpeg")]
    before = [logger.disabled for logger in loggers]
    try:
        for logger in loggers:
            logger.disabled = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, state in zip(loggers, before, strict=True):
            logger.disabled = state


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
                dataset, syntax, stream = _parse(file, head)
                element = _pixel_element(stream, syntax)
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
        stream: BinaryIO = _inflated(file, file.read(2048)) if deflated else file
        stream.seek(header.element.offset)
        yield stream


def looks_like_dicom(head: bytes) -> bool:
    """Say whether a file that begins with `head` (132 bytes or more) may be DICOM.

    True with ``DICM`` at byte 128, or when the file opens with an element of group 0002 or
    0008 in either byte order whose VR is two capitals or whose implicit length is small.
    """
    if head[128:132] == b"DICM":
        return True
    if len(head) < 16 or head[:2] not in (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08"):
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return explicit or head[6:8] == b"\0\0"


def _parse(file: BinaryIO, head: bytes) -> tuple[Dataset, UID, BinaryIO]:
    """Dataset, transfer syntax and the stream, positioned before the pixel data element."""
    if DeflatedExplicitVRLittleEndian.encode() in head[132:]:
        stream = _inflated(file, head)
        dataset = read_dataset(stream, False, True, stop_when=_at_pixels, specific_tags=list(KEPT))
        return dataset, DeflatedExplicitVRLittleEndian, stream
    file.seek(0)
    full = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=list(KEPT))
    declared = full.file_meta.get("TransferSyntaxUID")
    if declared:
        return full, UID(str(declared)), file
    implicit, little = full.original_encoding
    guessed = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    return full, ImplicitVRLittleEndian if implicit else guessed, file


def _at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    return int(tag) in _PIXEL_TAGS


def _inflated(file: BinaryIO, head: bytes) -> BinaryIO:
    """The data set of a deflated file, inflated with a limit (PS3.5 A.5)."""
    (group_length,) = struct.unpack("<I", head[140:144])
    file.seek(144 + group_length)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = inflater.decompress(file.read(), _MAX_INFLATED)
    if inflater.unconsumed_tail:
        raise DicomError("too large", f"inflates to more than {_MAX_INFLATED >> 20} MiB")
    return BytesIO(content)


def _pixel_element(stream: BinaryIO, syntax: UID) -> PixelElement | None:
    """The pixel data element whose tag comes next in `stream` (PS3.5 7.1.2).

    Explicit and implicit VR are told apart by the bytes and not by the transfer syntax, which
    some writers get wrong: read as an implicit length, a VR would be an odd number, and lengths
    are even.
    """
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    start = stream.read(8)
    if len(start) < 8:
        return None
    group, number = struct.unpack(order + "HH", start[:4])
    keyword = _PIXEL_TAGS.get(group << 16 | number)
    if keyword is None:
        return None
    explicit = start[4:6] in _PIXEL_VRS and start[6:8] == b"\0\0"
    raw = stream.read(4) if explicit else start[4:8]
    if len(raw) < 4:
        return None
    (length,) = struct.unpack(order + "I", raw)
    return PixelElement(keyword, start[4:6].decode() if explicit else "", stream.tell(), length)


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

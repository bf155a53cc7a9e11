"""Stored values of the frames of a DICOM file, one frame in memory at a time.

Rows, columns, frames and lengths come from the file and may be absurd: they are checked against
limits and against the bytes that are there before anything is allocated for them. Where the header
contradicts the pixel data in a way that can be seen, the data count and a note says so.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from pydicom import uid

from pipeline.dicom import WRONG_HEADER
from pipeline.dicom.errors import DicomError, quiet
from pipeline.dicom.read.decoders import decode_compressed, decoder_for
from pipeline.dicom.read.fragments import Frames, frame_fragments, joined_fragments
from pipeline.dicom.read.header import Header, pixel_stream
from pipeline.dicom.read.parse import UNDEFINED, PixelElement

MAX_PIXELS = 100_000_000  # per frame; a stitched whole-leg radiograph has about 40 million
_SIDE = 16  # of frames that are not announced: smaller ones come of a damaged Rows or Columns
_GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_FLOATS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}  # bits allocated (PS3.3 C.7.6.24, 25)
_NOT_OPTIONS = ("high_bit", "fragments", "notes")
_MORE_FRAMES = f"{WRONG_HEADER}more frames than announced"
Noted = tuple[np.ndarray, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Layout:
    """The Image Pixel module (PS3.3 C.7.6.3), checked; field names are pydicom's options.

    Attributes
    ----------
    number_of_frames : int
        That there are; the header may announce fewer.
    fragments : tuple
        Of each frame, where the pixel data are encapsulated.
    notes : tuple of str
        Where the header is not believed, constant phrases.
    """

    rows: int
    columns: int
    samples_per_pixel: int
    number_of_frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    pixel_representation: int
    planar_configuration: int
    photometric_interpretation: str
    fragments: Frames = ()
    notes: tuple[str, ...] = ()

    @property
    def frame_bits(self) -> int:
        """Length of an uncompressed frame; YBR_FULL_422 shares chroma between two pixels."""
        shared = self.photometric_interpretation == "YBR_FULL_422"
        samples = 2 if shared else self.samples_per_pixel
        return self.rows * self.columns * samples * self.bits_allocated

    def options(self) -> dict[str, Any]:
        """What pydicom's decoders are told."""
        return {key: value for key, value in asdict(self).items() if key not in _NOT_OPTIONS}


def pixel_layout(header: Header, stream: BinaryIO) -> Layout:
    """Read and check the Image Pixel module, and compare it with the pixel data.

    Parameters
    ----------
    stream : binary file
        As `pixel_stream` gives it; where it stands afterwards is not defined.

    Raises
    ------
    DicomError
        "cannot decode" for missing or contradictory values, "too large" for frames above
        `MAX_PIXELS`, "unsupported photometric interpretation", "truncated".
    """
    samples = header.number("SamplesPerPixel", 1)
    bits = header.number("BitsAllocated")
    stored = header.number("BitsStored", bits)
    layout = Layout(
        rows=header.number("Rows"),
        columns=header.number("Columns"),
        samples_per_pixel=samples,
        number_of_frames=header.frame_count,
        bits_allocated=bits,
        bits_stored=stored,
        high_bit=header.number("HighBit", stored - 1),
        pixel_representation=header.number("PixelRepresentation", 0),
        planar_configuration=header.number("PlanarConfiguration", 0),
        photometric_interpretation=header.text("PhotometricInterpretation").upper(),
    )
    element = header.element
    assert element is not None
    _check(header, layout, element)
    if decoder_for(header.syntax).is_encapsulated:
        return _encapsulated(header, layout, element, stream)
    return _native_layout(header, layout, element, _size(stream) - element.offset)


def frame_count(header: Header) -> int:
    """Number of frames that there are; the header may announce fewer.

    Raises
    ------
    DicomError
        As `pixel_layout`.
    """
    with pixel_stream(header) as stream:
        return pixel_layout(header, stream).number_of_frames


def _check(header: Header, layout: Layout, element: PixelElement) -> None:
    wanted = _FLOATS.get(element.keyword)
    for name, value, allowed in (
        ("Rows", layout.rows, range(1, 65536)),
        ("Columns", layout.columns, range(1, 65536)),
        ("Samples per Pixel", layout.samples_per_pixel, (1, 3) if wanted is None else (1,)),
        ("Number of Frames", layout.number_of_frames, range(1, 2**31)),
        ("Bits Allocated", layout.bits_allocated, (wanted,) if wanted else (1, 8, 16, 32)),
        ("Bits Stored", layout.bits_stored, range(1, layout.bits_allocated + 1)),
        ("High Bit", layout.high_bit, range(layout.bits_allocated)),
        ("Pixel Representation", layout.pixel_representation, (0, 1)),
        ("Planar Configuration", layout.planar_configuration, (0, 1)),
    ):
        if value not in allowed:
            raise DicomError("cannot decode", f"{name} is {value}")
    if layout.rows * layout.columns > MAX_PIXELS:
        raise DicomError("too large", f"{layout.rows} rows of {layout.columns} pixels")
    photometric = layout.photometric_interpretation
    if photometric not in (_GREY if layout.samples_per_pixel == 1 else _COLOUR):
        known = photometric if photometric in _GREY + _COLOUR else "an unknown one"
        detail = f"{known} with {layout.samples_per_pixel} samples per pixel"
        raise DicomError("unsupported photometric interpretation", detail)
    if photometric in ("YBR_ICT", "YBR_RCT") and header.syntax not in uid.JPEG2000TransferSyntaxes:
        detail = f"{photometric} in {header.syntax_name}"
        raise DicomError("unsupported photometric interpretation", detail)
    encapsulated = decoder_for(header.syntax).is_encapsulated
    if encapsulated != (element.length == UNDEFINED) or (encapsulated and wanted):
        way = "undefined" if element.length == UNDEFINED else "defined"
        detail = f"{header.syntax_name}: the pixel data has a length that is {way}"
        raise DicomError("cannot decode", detail)


def _encapsulated(
    header: Header, layout: Layout, element: PixelElement, stream: BinaryIO
) -> Layout:
    stream.seek(element.offset)
    extended = header.dataset.get("ExtendedOffsetTable") or b""
    frames, notes = frame_fragments(stream, layout.number_of_frames, extended, header.syntax_name)
    if len(frames) > layout.number_of_frames:
        notes += (_MORE_FRAMES,)
    return replace(layout, number_of_frames=len(frames), fragments=frames, notes=notes)


def _native_layout(header: Header, layout: Layout, element: PixelElement, available: int) -> Layout:
    """Compare the length of the data with the header's (PS3.5 8.1.1: even lengths)."""
    present = min(element.length, available)
    notes = []
    full = layout.rows * layout.columns * layout.bits_allocated // 8 * 3 * layout.number_of_frames
    if layout.photometric_interpretation == "YBR_FULL_422" and present - full in (0, 1):
        layout = replace(layout, photometric_interpretation="YBR_FULL")
        notes.append(f"{WRONG_HEADER}YBR_FULL_422 without shared chroma")
    needed = (layout.frame_bits * layout.number_of_frames + 7) // 8
    if present < needed:
        raise DicomError("truncated", f"{header.syntax_name}: {present} of {needed} bytes")
    count = present * 8 // layout.frame_bits
    rest = present - (count * layout.frame_bits + 7) // 8
    whole = rest <= 1 and layout.bits_allocated > 1 and min(layout.rows, layout.columns) >= _SIDE
    if present > needed + needed % 2 and whole:
        layout = replace(layout, number_of_frames=count)
        notes.append(_MORE_FRAMES)
    return replace(layout, notes=tuple(notes))


def stored_frames(
    header: Header, layout: Layout, stream: BinaryIO, only: int | None = None
) -> Iterator[Noted]:
    """Yield stored values, frame by frame, and notes on them; YBR is converted to RGB.

    Parameters
    ----------
    stream : binary file
        As `pixel_stream` gives it.
    only : int, optional
        Yield this frame alone.

    Raises
    ------
    DicomError
        "truncated" or "cannot decode".
    """
    indices = range(layout.number_of_frames) if only is None else range(only, only + 1)
    if layout.fragments:
        options = layout.options() | {"number_of_frames": 1}
        for index in indices:
            frame = joined_fragments(stream, layout.fragments[index])
            yield decode_compressed(frame, header.syntax, options)
    else:
        yield from _native(header, layout, stream, indices)


def _native(header: Header, layout: Layout, stream: BinaryIO, indices: range) -> Iterator[Noted]:
    element, decoder = header.element, decoder_for(header.syntax)
    assert element is not None
    stream.seek(element.offset)
    options = layout.options()
    options |= {"pixel_keyword": element.keyword, "pixel_vr": element.vr or "OW"}
    odd = layout.high_bit != layout.bits_stored - 1 and element.keyword not in _FLOATS
    if odd:
        options["bits_stored"] = layout.bits_allocated  # all bits are wanted
    for index in indices:
        try:
            with quiet():
                pixels, _ = decoder.as_array(stream, index=index, **options)
        except Exception as error:  # the decoder has no common base for its errors
            detail = f"{header.syntax_name} ({type(error).__name__})"
            raise DicomError("cannot decode", detail) from error
        yield _by_high_bit(pixels, layout) if odd else (pixels, ())


def _by_high_bit(pixels: np.ndarray, layout: Layout) -> Noted:
    """Values whose High Bit is not the last of Bits Stored.

    Either they lie higher up, and the bits below are 0 (PS3.5 8.1.1 once allowed that), or the
    header is wrong; what a frame holds tells one from the other.
    """
    shift, unused = (
        layout.high_bit - layout.bits_stored + 1,
        layout.bits_allocated - layout.bits_stored,
    )
    if shift > 0 and not (pixels & ((1 << shift) - 1)).any():
        return pixels >> shift, ("values moved down by High Bit",)
    return (pixels << unused) >> unused, (f"{WRONG_HEADER}High Bit ignored",)


def _size(stream: BinaryIO) -> int:
    """Length of the stream in bytes; the position is kept."""
    place = stream.tell()
    size = stream.seek(0, 2)
    stream.seek(place)
    return size

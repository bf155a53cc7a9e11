"""Stored values of the frames of a DICOM file, one frame in memory at a time.

Rows, columns, frames and lengths come from the file and may be absurd: they are checked against
limits and against the bytes that are there before anything is allocated for them.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import numpy as np
from pydicom import uid
from pydicom.encaps import generate_frames, get_frame, parse_basic_offsets, parse_fragments

from pipeline.dicom.errors import DicomError, quiet
from pipeline.dicom.read.decoders import decode_compressed, decoder_for
from pipeline.dicom.read.header import Header
from pipeline.dicom.read.parse import UNDEFINED

MAX_PIXELS = 100_000_000  # per frame; a stitched whole-leg radiograph has about 40 million
_GREY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


@dataclass(frozen=True, slots=True)
class Layout:
    """The Image Pixel module (PS3.3 C.7.6.3), checked; field names are pydicom's options."""

    rows: int
    columns: int
    samples_per_pixel: int
    number_of_frames: int
    bits_allocated: int
    bits_stored: int
    pixel_representation: int
    planar_configuration: int
    photometric_interpretation: str

    @property
    def frame_bits(self) -> int:
        """Length of an uncompressed frame; YBR_FULL_422 shares chroma between two pixels."""
        shared = self.photometric_interpretation == "YBR_FULL_422"
        samples = 2 if shared else self.samples_per_pixel
        return self.rows * self.columns * samples * self.bits_allocated


def pixel_layout(header: Header) -> Layout:
    """Read and check the Image Pixel module.

    Raises
    ------
    DicomError
        "cannot decode" for missing or contradictory values, "too large" for frames above
        `MAX_PIXELS`, "unsupported photometric interpretation".
    """
    samples = header.number("SamplesPerPixel", 1)
    bits = header.number("BitsAllocated")
    layout = Layout(
        rows=header.number("Rows"),
        columns=header.number("Columns"),
        samples_per_pixel=samples,
        number_of_frames=header.frame_count,
        bits_allocated=bits,
        bits_stored=header.number("BitsStored", bits),
        pixel_representation=header.number("PixelRepresentation", 0),
        planar_configuration=header.number("PlanarConfiguration", 0),
        photometric_interpretation=header.text("PhotometricInterpretation"),
    )
    _check(header, layout)
    return layout


def _check(header: Header, layout: Layout) -> None:
    for name, value, allowed in (
        ("Rows", layout.rows, range(1, 65536)),
        ("Columns", layout.columns, range(1, 65536)),
        ("Samples per Pixel", layout.samples_per_pixel, (1, 3)),
        ("Number of Frames", layout.number_of_frames, range(1, 2**31)),
        ("Bits Allocated", layout.bits_allocated, (1, 8, 16, 32)),
        ("Bits Stored", layout.bits_stored, range(1, layout.bits_allocated + 1)),
        ("High Bit", header.number("HighBit", layout.bits_stored - 1), (layout.bits_stored - 1,)),
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


def stored_frames(
    header: Header, layout: Layout, stream: BinaryIO, only: int | None = None
) -> Iterator[np.ndarray]:
    """Yield stored values, frame by frame; YBR is converted to RGB.

    Parameters
    ----------
    stream : binary file
        Positioned at the value of the pixel data element; seekable.
    only : int, optional
        Yield this frame alone.

    Raises
    ------
    DicomError
        "truncated" or "cannot decode".
    """
    element = header.element
    assert element is not None
    if element.keyword != "PixelData":
        raise DicomError("cannot decode", "floating-point pixel data")
    compressed = decoder_for(header.syntax).is_encapsulated
    if compressed != (element.length == UNDEFINED):
        way = "undefined" if element.length == UNDEFINED else "defined"
        detail = f"{header.syntax_name}: the pixel data has a length that is {way}"
        raise DicomError("cannot decode", detail)
    indices = range(layout.number_of_frames) if only is None else range(only, only + 1)
    yield from (_compressed if compressed else _native)(header, layout, stream, indices)


def _native(
    header: Header, layout: Layout, stream: BinaryIO, indices: range
) -> Iterator[np.ndarray]:
    element, decoder = header.element, decoder_for(header.syntax)
    assert element is not None
    needed = (layout.frame_bits * layout.number_of_frames + 7) // 8
    present = min(element.length, _size(stream) - element.offset)
    if present < needed:
        raise DicomError("truncated", f"{header.syntax_name}: {present} of {needed} bytes")
    options = asdict(layout) | {"pixel_keyword": "PixelData", "pixel_vr": element.vr or "OW"}
    for index in indices:
        try:
            with quiet():
                pixels, _ = decoder.as_array(stream, index=index, **options)
        except Exception as error:  # the decoder has no common base for its errors
            detail = f"{header.syntax_name} ({type(error).__name__})"
            raise DicomError("cannot decode", detail) from error
        yield pixels


def _compressed(
    header: Header, layout: Layout, stream: BinaryIO, indices: range
) -> Iterator[np.ndarray]:
    options = asdict(layout) | {"number_of_frames": 1}
    with quiet():
        encoded = _encoded(header, layout, stream, indices)
    for index in indices:
        try:
            with quiet():
                frame = next(encoded, None)
        except Exception as error:  # damaged item structure
            detail = f"{header.syntax_name}: frame {index + 1} ({type(error).__name__})"
            raise DicomError("cannot decode", detail) from error
        if frame is None:
            detail = f"{header.syntax_name}: {index} of {layout.number_of_frames} frames"
            raise DicomError("truncated", detail)
        yield decode_compressed(frame, header.syntax, options)


def _encoded(header: Header, layout: Layout, stream: BinaryIO, indices: range) -> Iterator[bytes]:
    """Codestreams of the wanted frames, after a check that all fragments are there."""
    start = stream.tell()
    _require_fragments(header, layout, stream)
    stream.seek(start)
    offsets: dict[str, Any] = {"number_of_frames": layout.number_of_frames}
    tables = [header.dataset.get(f"ExtendedOffsetTable{end}") for end in ("", "Lengths")]
    if all(tables):
        offsets["extended_offsets"] = tuple(tables)
    if len(indices) == layout.number_of_frames:
        return generate_frames(stream, **offsets)
    return iter([get_frame(stream, index, **offsets) for index in indices])


def _require_fragments(header: Header, layout: Layout, stream: BinaryIO) -> None:
    try:
        parse_basic_offsets(stream)
        count, places = parse_fragments(stream)
    except Exception as error:  # struct, EOF and value errors all mean a damaged structure
        detail = f"{header.syntax_name}: damaged fragments ({type(error).__name__})"
        raise DicomError("cannot decode", detail) from error
    if count < layout.number_of_frames and not (count and layout.number_of_frames == 1):
        detail = f"{header.syntax_name}: {count} fragments, {layout.number_of_frames} frames"
        raise DicomError("truncated", detail)
    stream.seek(places[-1] + 4)
    length = int.from_bytes(stream.read(4), "little")
    if places[-1] + 8 + length > _size(stream):
        raise DicomError("truncated", f"{header.syntax_name}: the last fragment is cut off")


def _size(stream: BinaryIO) -> int:
    """Length of the stream in bytes; the position is kept."""
    place = stream.tell()
    size = stream.seek(0, 2)
    stream.seek(place)
    return size

"""From a DICOM file to 8-bit pictures, one frame at a time.

decode -> modality LUT or rescale -> VOI LUT or window -> [0, 1] -> invert at most once -> uint8.

Memory holds one frame, whatever the number of frames.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels import apply_color_lut

from pipeline.data.intensity import Intensity, every_value, histogram, look_up, to_uint8
from pipeline.dicom import WRONG_HEADER
from pipeline.dicom.errors import DicomError, quiet
from pipeline.dicom.read.header import Header, Openable, pixel_stream, read_header
from pipeline.dicom.read.lut import GreyScale, apply, display_range, grey_scale
from pipeline.dicom.read.stored import Layout, Noted, pixel_layout, stored_frames


@dataclass(slots=True)
class Frame:
    """One frame, ready for a model.

    Attributes
    ----------
    pixels : array (H, W) or (H, W, 3), uint8
        Grey with black as lowest, or RGB.
    index : int
        Place in the file, from 0.
    notes : tuple of str
        Constant phrases on what was chosen on the way ("first of several windows", ...).
    limits : (low, high) or None
        Modality values shown as black and white where neither VOI LUT nor window applies; None
        for colour.
    """

    pixels: NDArray[np.uint8]
    index: int
    notes: tuple[str, ...]
    limits: tuple[float, float] | None = None


@dataclass(slots=True)
class Depth:
    """One frame with all its values, for people who look at it with windows of their own.

    Attributes
    ----------
    stored : array (H, W) or (H, W, 3)
        Grey: integers of at most 16 bits. Colour: as shown.
    shown : array like `stored`, uint8
        What a model sees; of grey pictures a function of `stored`.
    slope, intercept : float
        ``slope * stored + intercept`` is the modality value.
    inverted : bool
        High values are black.
    hounsfield : bool
        Modality values are Hounsfield units.
    window : (centre, width) or None
        Modality values behind `shown`, where a linear window says so.
    """

    stored: np.ndarray
    shown: NDArray[np.uint8]
    slope: float = 1.0
    intercept: float = 0.0
    inverted: bool = False
    hounsfield: bool = False
    window: tuple[float, float] | None = None


def frames(source: Openable | Header, intensity: Intensity) -> Iterator[Frame]:
    """Yield the frames of a DICOM file in order.

    Parameters
    ----------
    source : Openable or Header
        A path; a header that was read before saves reading it again.
    intensity : Intensity
        The recipe of the model.

    Raises
    ------
    DicomError
        With its `kind`; earlier frames may have been yielded already.
    OSError
        When the file cannot be read.
    """
    header = source if isinstance(source, Header) else read_header(source)
    with pixel_stream(header) as stream:
        layout = pixel_layout(header, stream)
        for index, stored in enumerate(stored_frames(header, layout, stream)):
            yield _finish(header, layout, stored, index, intensity)


def read_frame(source: Openable | Header, intensity: Intensity, index: int = 0) -> Frame:
    """Read one frame without decoding any other.

    Raises
    ------
    DicomError, OSError
        As `frames`.
    IndexError
        When there is no such frame.
    """
    header = source if isinstance(source, Header) else read_header(source)
    with pixel_stream(header) as stream:
        layout = pixel_layout(header, stream)
        if not 0 <= index < layout.number_of_frames:
            raise IndexError(f"frame {index} of {layout.number_of_frames}")
        stored = next(stored_frames(header, layout, stream, only=index))
    return _finish(header, layout, stored, index, intensity)


def read_depth(source: Openable | Header, intensity: Intensity, index: int = 0) -> Depth:
    """Read one frame with the values behind what is shown of it.

    Values of more than 16 bits, floating-point ones and palettes are given as they are shown.

    Raises
    ------
    DicomError, OSError, IndexError
        As `read_frame`.
    """
    header = source if isinstance(source, Header) else read_header(source)
    with pixel_stream(header) as stream:
        layout = pixel_layout(header, stream)
        if not 0 <= index < layout.number_of_frames:
            raise IndexError(f"frame {index} of {layout.number_of_frames}")
        pixels, notes = next(stored_frames(header, layout, stream, only=index))
    frame = _finish(header, layout, (pixels, notes), index, intensity)
    shown, window = frame.pixels, None
    if shown.ndim == 3 or pixels.dtype.kind == "f" or pixels.dtype.itemsize > 2:
        return Depth(shown, shown)
    grey = grey_scale(header, index, intensity)
    hounsfield = grey.modality is None and header.text("Modality").upper() == "CT"
    if frame.limits is not None:
        low, high = frame.limits
        window = (low + high) / 2, high - low
    elif grey.voi is None and grey.window is not None:
        window = grey.window[:2]
    return Depth(pixels, shown, grey.slope, grey.intercept, grey.inverted, hounsfield, window)


def same_pixels(one: Openable, other: Openable) -> bool:
    """Say whether two files hold the same stored values, in whatever transfer syntax.

    Raises
    ------
    OSError
        When a file cannot be read.
    """
    try:
        headers = read_header(one), read_header(other)
        with pixel_stream(headers[0]) as first, pixel_stream(headers[1]) as second:
            streams = first, second
            layouts = [pixel_layout(h, s) for h, s in zip(headers, streams, strict=True)]
            if layouts[0].number_of_frames != layouts[1].number_of_frames:
                return False
            pairs = zip(*map(stored_frames, headers, layouts, streams), strict=True)
            return all(np.array_equal(a, b) for (a, _), (b, _) in pairs)
    except DicomError:
        return False


def _finish(
    header: Header, layout: Layout, stored: Noted, index: int, intensity: Intensity
) -> Frame:
    """Stored values to display values."""
    pixels, notes = stored
    notes = layout.notes + notes
    if pixels.dtype.byteorder == ">":
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    if layout.photometric_interpretation == "PALETTE COLOR":
        shown, more = _palette(header, pixels)
        return Frame(shown, index, notes + more)
    if layout.samples_per_pixel == 3:
        return Frame(np.ascontiguousarray(to_uint8(pixels, intensity)), index, notes)
    grey = grey_scale(header, index, intensity)
    if pixels.dtype.kind == "f":
        shown, limits = _real(grey, layout, pixels, intensity)
    else:
        shown, limits = _grey(grey, layout, pixels, intensity)
    return Frame(shown, index, notes + grey.notes, limits)


def _real(
    grey: GreyScale, layout: Layout, pixels: np.ndarray, intensity: Intensity
) -> tuple[NDArray[np.uint8], tuple[float, float] | None]:
    """As `_grey`, of floating-point pixel data; what is not a finite number is black."""
    finite = np.isfinite(pixels)
    if not finite.any():
        raise DicomError("cannot decode", "no pixel is a finite number")
    known = np.where(finite, pixels, pixels[finite].min())
    shown, limits = _grey(grey, layout, known, intensity)
    return np.where(finite, shown, 0).astype(np.uint8), limits


def _grey(
    grey: GreyScale, layout: Layout, pixels: np.ndarray, intensity: Intensity
) -> tuple[NDArray[np.uint8], tuple[float, float] | None]:
    """Display values and the range that is displayed (see `display_range`)."""
    # A codestream may hold fewer bits than the header says.
    bits = min(layout.bits_stored, 8 * pixels.dtype.itemsize)
    signed = layout.pixel_representation == 1
    if pixels.dtype.itemsize > 2:
        stored, places, counts = np.unique(pixels, return_inverse=True, return_counts=True)
        limits = display_range(grey, stored, lambda: counts, bits, signed, intensity)
        return apply(grey, stored, limits)[places], limits
    stored = every_value(pixels.dtype)
    limits = display_range(grey, stored, lambda: histogram(pixels), bits, signed, intensity)
    if pixels.dtype == np.uint8 and bits == 8 and _is_identity(grey):
        return (~pixels if grey.inverted else pixels), limits
    return look_up(apply(grey, stored, limits), pixels), limits


def _is_identity(grey: GreyScale) -> bool:
    """Say whether 8-bit values are displayed over their full range: unchanged, or inverted."""
    tables = (grey.modality, grey.voi, grey.window, grey.padding)
    return grey.slope > 0 and all(table is None for table in tables)


def _palette(header: Header, pixels: np.ndarray) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """RGB by the palette of the header (PS3.3 C.7.9), and notes; an alpha channel is left out."""
    if pixels.dtype.itemsize > 2:
        raise DicomError("cannot decode", "a colour palette with more than 16 bits per pixel")
    try:
        with quiet():
            colours = apply_color_lut(every_value(pixels.dtype), header.dataset)[..., :3]
    except Exception as error:  # malformed tables surface as many types
        detail = f"the colour palette is malformed ({type(error).__name__})"
        raise DicomError("cannot decode", detail) from error
    notes: tuple[str, ...] = ("palette applied",)
    if colours.dtype.itemsize == 2:
        # Some writers declare 16 bits and fill in 8: that is said of the whole table. A frame may
        # well show its dark colours only.
        narrow = int(colours.max()) <= 255
        notes += (f"{WRONG_HEADER}palette declares 16 bits and holds 8",) if narrow else ()
        colours = colours if narrow else colours >> 8
    table = np.ascontiguousarray(colours).astype(np.uint8)
    return table[pixels.view(f"u{pixels.dtype.itemsize}")], notes

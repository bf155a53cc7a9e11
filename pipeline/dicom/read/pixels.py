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
from pipeline.dicom.errors import DicomError, quiet
from pipeline.dicom.read.header import Header, Openable, pixel_stream, read_header
from pipeline.dicom.read.lut import GreyScale, apply, display_range, grey_scale
from pipeline.dicom.read.stored import Layout, pixel_layout, stored_frames


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
    layout = pixel_layout(header)
    with pixel_stream(header) as stream:
        for index, pixels in enumerate(stored_frames(header, layout, stream)):
            yield _finish(header, layout, pixels, index, intensity)


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
    layout = pixel_layout(header)
    if not 0 <= index < layout.number_of_frames:
        raise IndexError(f"frame {index} of {layout.number_of_frames}")
    with pixel_stream(header) as stream:
        pixels = next(stored_frames(header, layout, stream, only=index))
    return _finish(header, layout, pixels, index, intensity)


def _finish(
    header: Header, layout: Layout, pixels: np.ndarray, index: int, intensity: Intensity
) -> Frame:
    """Stored values to display values."""
    if pixels.dtype.byteorder == ">":
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    if layout.photometric_interpretation == "PALETTE COLOR":
        return Frame(_palette(header, pixels), index, ("palette applied",))
    if layout.samples_per_pixel == 3:
        return Frame(np.ascontiguousarray(to_uint8(pixels, intensity)), index, ())
    grey = grey_scale(header, index, intensity)
    shown, limits = _grey(grey, layout, pixels, intensity)
    return Frame(shown, index, grey.notes, limits)


def _grey(
    grey: GreyScale, layout: Layout, pixels: np.ndarray, intensity: Intensity
) -> tuple[NDArray[np.uint8], tuple[float, float] | None]:
    """Display values and the range that is displayed (see `display_range`)."""
    bits, signed = layout.bits_stored, layout.pixel_representation == 1
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


def _palette(header: Header, pixels: np.ndarray) -> NDArray[np.uint8]:
    """RGB by the palette of the header (PS3.3 C.7.9); an alpha channel is left out."""
    try:
        with quiet():
            rgb = apply_color_lut(pixels, header.dataset)[..., :3]
    except Exception as error:  # malformed tables surface as many types
        detail = f"the colour palette is malformed ({type(error).__name__})"
        raise DicomError("cannot decode", detail) from error
    # Some writers declare 16 bits and fill in 8; the values decide.
    wide = rgb.dtype.itemsize == 2 and int(rgb.max()) > 255
    return np.ascontiguousarray(rgb >> 8 if wide else rgb).astype(np.uint8)

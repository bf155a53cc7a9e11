"""Grey-scale transformations of DICOM (PS3.3 C.11): modality, values of interest, presentation.

Each step acts on one value at a time, so the whole chain is computed once per value that can be
stored (256 or 65,536 of them) and the picture is a single table look-up.

Inversion: MONOCHROME1 says that the lowest value is white after the VOI step (C.7.6.3.1.2);
Presentation LUT Shape INVERSE says the same of the output (C.11.6.1.2), and the DX image module
demands both together (C.8.11.3.1.2). They are two ways to state one fact: either one inverts,
both together invert once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset

from pipeline.data.intensity import Intensity, quantise, scale, tail_limits
from pipeline.dicom import WRONG_HEADER
from pipeline.dicom.errors import DicomError
from pipeline.dicom.read.header import Header
from pipeline.dicom.read.tables import Floats, LookupTable, first_table
from pipeline.dicom.read.values import coded

_NOT_FOR_DISPLAY = (
    uid.XRayAngiographicImageStorage,
    uid.XRayRadiofluoroscopicImageStorage,
    "1.2.840.10008.5.1.4.1.1.12.3",  # X-Ray Angiographic Bi-Plane, retired
)


@dataclass(frozen=True, slots=True)
class GreyScale:
    """What one frame's header says about turning stored values into grey.

    Attributes
    ----------
    slope, intercept : float
        Rescale (1 and 0 where absent).
    modality : LookupTable or None
        Modality LUT; replaces the rescale.
    voi : LookupTable or None
        First VOI LUT.
    window : (centre, width, function) or None
        First valid window.
    inverted : bool
        MONOCHROME1 or Presentation LUT Shape INVERSE.
    padding : (low, high) or None
        Stored values that stand for "no pixel", inclusive.
    notes : tuple of str
        Constant phrases on choices taken.
    """

    slope: float
    intercept: float
    modality: LookupTable | None
    voi: LookupTable | None
    window: tuple[float, float, str] | None
    inverted: bool
    padding: tuple[int, int] | None
    notes: tuple[str, ...]


def grey_scale(header: Header, index: int, intensity: Intensity) -> GreyScale:
    """Collect the grey-scale transformations of frame `index` (from 0).

    Functional groups of the frame come before shared ones, and these before the top level.

    Raises
    ------
    DicomError
        "cannot decode" where a table or number is malformed.
    """
    dataset = header.dataset
    try:
        transform = functional_group(dataset, index, "PixelValueTransformationSequence")
        slope, intercept, rescale_notes = _rescale(transform if transform is not None else dataset)
        signed = dataset.get("PixelRepresentation") == 1
        modality, table_notes = _modality_table(header, signed)
        below_zero = modality is None and (signed or intercept < 0)
        voi, window, notes = _voi(dataset, index, intensity, below_zero)
        inverted, presentation_notes = _inversion(dataset)
        padding = _padding(dataset)
    except DicomError:
        raise
    except Exception as error:  # malformed values surface as many types from lazy conversion
        detail = f"a grey-scale element is malformed ({type(error).__name__})"
        raise DicomError("cannot decode", detail) from error
    if modality is not None:
        slope, intercept = 1.0, 0.0
    notes = (*table_notes, *rescale_notes, *notes, *presentation_notes)
    return GreyScale(slope, intercept, modality, voi, window, inverted, padding, notes)


def functional_group(dataset: Dataset, index: int, keyword: str) -> Dataset | None:
    """First item of the functional group macro `keyword` for a frame (PS3.3 C.7.6.16)."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for groups in (per_frame[index : index + 1], shared[:1]):
        for group in groups:
            items = group.get(keyword)
            if items:
                return items[0]
    return None


def display_range(
    grey: GreyScale,
    stored: np.ndarray,
    counted: Callable[[], NDArray[np.int64]],
    bits_stored: int,
    signed: bool,
    intensity: Intensity,
) -> tuple[float, float] | None:
    """Lowest and highest modality value to display; None where a VOI LUT or a window says so.

    Parameters
    ----------
    grey : GreyScale
    stored : array (n,)
        Every value that may occur, in any order.
    counted : callable
        Counts how often each occurs in the frame, int64 (n,); asked for percentiles only.
    bits_stored : int
        Where it is 8 or less (or a modality LUT of that depth applies), the full range of the
        type is displayed, else the percentiles of `intensity`.
    """
    if grey.voi is not None or grey.window is not None:
        return None
    depth = grey.modality.bits if grey.modality else bits_stored
    if depth <= 8:
        return _full_range(grey, depth, signed)
    counts = np.where(_padded(grey, stored), 0, counted())
    return tail_limits(_modality(grey, stored), counts, intensity)


def apply(
    grey: GreyScale, stored: np.ndarray, limits: tuple[float, float] | None
) -> NDArray[np.uint8]:
    """Map stored values to display values.

    Parameters
    ----------
    grey : GreyScale
    stored : array (n,)
        Every value that may occur, in any order.
    limits : (low, high) or None
        As `display_range` gives them.

    Returns
    -------
    array of uint8 (n,)
        One entry per value of `stored`, inverted where the header says so, 0 for padding.
    """
    unit = values_of_interest(grey, _modality(grey, stored), limits)
    if grey.inverted:
        unit = 1.0 - unit
    unit[_padded(grey, stored)] = 0.0
    return quantise(unit)


def values_of_interest(
    grey: GreyScale, values: Floats, limits: tuple[float, float] | None
) -> Floats:
    """Modality values to [0, 1] by VOI LUT, window or `limits`, before any inversion."""
    if grey.voi is not None:
        return scale(grey.voi(values), 0.0, 2.0**grey.voi.bits - 1)
    if grey.window is not None:
        return windowed(values, *grey.window)
    assert limits is not None
    return scale(values, *limits)


def _padded(grey: GreyScale, stored: np.ndarray) -> NDArray[np.bool_]:
    """Which of the stored values stand for no pixel."""
    if grey.padding is None:
        return np.zeros(stored.shape, dtype=bool)
    return (stored >= grey.padding[0]) & (stored <= grey.padding[1])


def windowed(values: Floats, centre: float, width: float, function: str) -> Floats:
    """Apply a window; the output spans [0, 1] (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    if function == "SIGMOID":
        exponent = np.clip(-4.0 * (values - centre) / width, -700.0, 700.0)
        return 1.0 / (1.0 + np.exp(exponent))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1.0
    if width == 0:
        return (values > centre).astype(np.float64)
    return np.clip((values - centre) / width + 0.5, 0.0, 1.0)


def _modality(grey: GreyScale, stored: np.ndarray) -> Floats:
    values = stored.astype(np.float64)
    if grey.modality is not None:
        return grey.modality(values)
    return values * grey.slope + grey.intercept


def _full_range(grey: GreyScale, depth: int, signed: bool) -> tuple[float, float]:
    """Lowest and highest modality value that the stored type can hold."""
    if grey.modality is not None:
        return 0.0, 2.0**depth - 1
    low = -(2.0 ** (depth - 1)) if signed else 0.0
    ends = [grey.slope * v + grey.intercept for v in (low, low + 2.0**depth - 1)]
    return min(ends), max(ends)


def _modality_table(header: Header, signed: bool) -> tuple[LookupTable | None, tuple[str, ...]]:
    """The modality LUT and a note.

    That of XA and XRF leads back to the intensity of the beam; it is not meant for display
    (PS3.3 C.8.7.1.1.2).
    """
    if not header.dataset.get("ModalityLUTSequence"):
        return None, ()
    if header.sop_class in _NOT_FOR_DISPLAY:
        return None, ("modality LUT of angiography not applied",)
    found = first_table(header.dataset, "ModalityLUTSequence", negative=signed)
    return found, ("modality LUT applied",)


def _rescale(source: Dataset) -> tuple[float, float, tuple[str, ...]]:
    """Slope, intercept and a note; a slope of 0, which would leave nothing, is ignored."""
    slope, intercept = source.get("RescaleSlope"), source.get("RescaleIntercept")
    slope = 1.0 if slope in (None, "") else float(slope)
    intercept = 0.0 if intercept in (None, "") else float(intercept)
    if not np.isfinite([slope, intercept]).all():
        raise DicomError("cannot decode", "rescale is not finite")
    if slope == 0:
        return 1.0, 0.0, (f"{WRONG_HEADER}Rescale Slope 0 ignored",)
    return slope, intercept, ()


def _voi(
    dataset: Dataset, index: int, intensity: Intensity, negative: bool
) -> tuple[LookupTable | None, tuple[float, float, str] | None, tuple[str, ...]]:
    """VOI LUT, window and notes; a VOI LUT goes before a window where a file has both."""
    if intensity.window == "none":
        return None, None, ()
    item = functional_group(dataset, index, "FrameVOILUTSequence")
    source = item if item is not None else dataset
    voi, notes = _voi_table(source, negative)
    if voi is not None:
        return voi, None, notes
    window, more = _window(source)
    return None, window, notes + more


def _voi_table(source: Dataset, negative: bool) -> tuple[LookupTable | None, tuple[str, ...]]:
    """The first VOI LUT and a note; one that is empty or malformed is ignored."""
    items = source.get("VOILUTSequence")
    if not items:
        return None, ()
    try:
        voi = first_table(source, "VOILUTSequence", negative=negative)
    except (AttributeError, DicomError, KeyError, TypeError, ValueError):
        return None, ("invalid VOI LUT ignored",)
    notes = ["first of several VOI LUTs" if len(items) > 1 else "VOI LUT applied"]
    if voi is not None and voi.bits < items[0].LUTDescriptor[2] <= 16:
        notes.append(f"{WRONG_HEADER}VOI LUT holds fewer bits than it declares")
    return voi, tuple(notes)


def _window(source: Dataset) -> tuple[tuple[float, float, str] | None, tuple[str, ...]]:
    """The first window and a note; one that is malformed or not allowed is ignored."""
    try:
        centres, widths = _floats(source.get("WindowCenter")), _floats(source.get("WindowWidth"))
    except (TypeError, ValueError, OverflowError):  # a decimal comma, an empty first value
        return None, ("invalid window ignored",)
    if not centres or not widths:
        return None, ()
    function = coded(source, "VOILUTFunction") or "LINEAR"
    if not _valid(centres[0], widths[0], function):
        return None, ("invalid window ignored",)
    notes = ("first of several windows",) if len(centres) > 1 else ("window applied",)
    return (centres[0], widths[0], function), notes


def _valid(centre: float, width: float, function: str) -> bool:
    """PS3.3 C.11.2.1.2.1: LINEAR needs a width of 1 or more, the others more than 0."""
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        return False
    return bool(np.isfinite([centre, width]).all()) and (
        width >= 1 if function == "LINEAR" else width > 0
    )


def _floats(value: Any) -> list[float]:
    if value is None or value == "":
        return []
    many = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return [float(v) for v in many]


def _inversion(dataset: Dataset) -> tuple[bool, tuple[str, ...]]:
    inverse = coded(dataset, "PresentationLUTShape") == "INVERSE"
    if coded(dataset, "PhotometricInterpretation") == "MONOCHROME1":
        return True, ("inverted (MONOCHROME1)",)
    return inverse, ("inverted (Presentation LUT Shape INVERSE)",) if inverse else ()


def _padding(dataset: Dataset) -> tuple[int, int] | None:
    """Pixel Padding Value, with Range Limit where present, as a range (PS3.3 C.7.5.1.1.2)."""
    value = dataset.get("PixelPaddingValue")
    if value is None or value == "":
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = [_signed(dataset, int(v)) for v in (value, value if limit in (None, "") else limit)]
    return min(ends), max(ends)


def _signed(dataset: Dataset, value: int) -> int:
    """Undo a negative value that was written with an unsigned VR, or the reverse."""
    signed, bits = dataset.get("PixelRepresentation") == 1, int(dataset.get("BitsAllocated"))
    if signed and value >= 1 << (bits - 1):
        return value - (1 << bits)
    return value + (1 << bits) if value < 0 and not signed else value

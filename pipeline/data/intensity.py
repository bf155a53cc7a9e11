"""The intensity recipe: how stored numbers become the 8 bits that a model sees.

One frozen value, stored in every checkpoint and used by training and inference alike. Eight-bit
pixels are never changed. Deeper pixels are mapped linearly between two percentiles, where the
percentiles are exact order statistics and not interpolated: an image and its negative then get
limits that are exact mirror images of each other, which a MONOCHROME1 file and its MONOCHROME2
twin need.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DescryError

WINDOW_POLICIES = ("first", "none")
# Equal rationals reach `quantise` with different rounding errors (1 - t and its mirror image
# differ in the last bit). This much, far above those errors and far below 1/65536 of a step,
# makes exact halves round up in both.
_TIE = 1e-9


@dataclass(frozen=True, slots=True)
class Intensity:
    """Recipe from stored values to uint8.

    Attributes
    ----------
    low_percentile, high_percentile : float
        The values that become 0 and 255 where no window says so, in percent of the pixels
        (0 <= low < high <= 100). Ignored for 8-bit images.
    window : str
        ``"first"``: a DICOM file's first VOI LUT or, where it has none, its first window is
        applied. ``"none"``: both are ignored and percentiles are used. Ordinary image files
        have neither.
    """

    low_percentile: float = 0.5
    high_percentile: float = 99.5
    window: str = "first"

    def __post_init__(self) -> None:
        low, high = self.low_percentile, self.high_percentile
        if not 0 <= low < high <= 100:
            raise DescryError(
                f"intensity.low_percentile={low!r}, intensity.high_percentile={high!r}: "
                "need 0 <= low < high <= 100"
            )
        if self.window not in WINDOW_POLICIES:
            raise DescryError(
                f"intensity.window={self.window!r}: allowed are {', '.join(WINDOW_POLICIES)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON values, for a checkpoint or a report."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Intensity":
        """Rebuild a recipe from `to_dict`; unknown keys are an error, missing ones too."""
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            raise DescryError(
                f"intensity recipe has the keys {sorted(values)}, expected {sorted(known)}: "
                "the checkpoint was written by another version"
            )
        return cls(**values)


def to_uint8(pixels: np.ndarray, intensity: Intensity) -> NDArray[np.uint8]:
    """Map the pixels of an ordinary image to uint8.

    Parameters
    ----------
    pixels : array (H, W) or (H, W, 3)
        uint8 is returned as it is (the same object). Any other integer or finite float type is
        scaled linearly between its percentiles, jointly over channels so that colours keep
        their balance.
    intensity : Intensity
        The recipe.

    Returns
    -------
    array of uint8, of the same shape
        A constant image becomes 0 everywhere.

    Raises
    ------
    TypeError
        For pixels that are neither integer nor float.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind not in "iuf":
        raise TypeError(f"pixels of type {pixels.dtype} cannot be scaled to 8 bits")
    if pixels.dtype.kind == "f" or pixels.dtype.itemsize > 2:
        values = pixels.astype(np.float64)
        distinct, counts = np.unique(values, return_counts=True)
        low, high = tail_limits(distinct, counts, intensity)
        return quantise(scale(values, low, high))
    stored = every_value(pixels.dtype)
    low, high = tail_limits(stored, histogram(pixels), intensity)
    return look_up(quantise(scale(stored.astype(np.float64), low, high)), pixels)


def every_value(kind: np.dtype) -> np.ndarray:
    """All values of an 8- or 16-bit integer type, (256,) or (65536,).

    They are in the order of their bit patterns read as unsigned numbers, which is the order of
    `histogram` and the one that `look_up` expects of a table.
    """
    return np.arange(256**kind.itemsize, dtype=f"u{kind.itemsize}").view(kind)


def histogram(pixels: np.ndarray) -> NDArray[np.int64]:
    """How often each of `every_value` occurs, (256,) or (65536,)."""
    bits = pixels.view(f"u{pixels.dtype.itemsize}")
    return np.bincount(bits.ravel(), minlength=256**pixels.dtype.itemsize)


def look_up(table: NDArray[np.uint8], pixels: np.ndarray) -> NDArray[np.uint8]:
    """Replace every pixel by the entry of `table` at its bit pattern (see `every_value`)."""
    return table.take(pixels.view(f"u{pixels.dtype.itemsize}"))


def tail_limits(
    values: np.ndarray, counts: NDArray[np.int64], intensity: Intensity
) -> tuple[float, float]:
    """Values at the low and high percentile, as order statistics counted from either end.

    Parameters
    ----------
    values, counts : arrays (n,)
        A histogram in any order; entries with a count of 0 do not matter.

    Returns
    -------
    low, high : float
        With N pixels sorted ascending, the values at places floor(N * low / 100) from the
        bottom and floor(N * (100 - high) / 100) from the top. (0, 0) if N is 0.
    """
    present = np.flatnonzero(counts)
    if present.size == 0:
        return 0.0, 0.0
    order = present[np.argsort(values[present], kind="stable")]
    ordered, cumulative = values[order], np.cumsum(counts[order])
    total = int(cumulative[-1])
    below = int(total * intensity.low_percentile / 100 + _TIE)
    above = int(total * (100 - intensity.high_percentile) / 100 + _TIE)
    low = ordered[np.searchsorted(cumulative, min(below, total - 1), side="right")]
    high = ordered[np.searchsorted(cumulative, max(total - 1 - above, 0), side="right")]
    return float(low), float(high)


def scale(values: np.ndarray, low: float, high: float) -> NDArray[np.float64]:
    """Map [low, high] linearly to [0, 1] and clip; all 0 where the range is empty."""
    if not high > low:
        return np.zeros(values.shape, dtype=np.float64)
    return np.clip((values - low) / (high - low), 0.0, 1.0)


def quantise(unit: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Round [0, 1] to 0..255, exact halves upwards."""
    return np.floor(unit * 255.0 + (0.5 + _TIE)).astype(np.uint8)

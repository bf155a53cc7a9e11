"""Millimetres per pixel, and which element of the header says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from pydicom.dataset import Dataset

from pipeline.dicom.errors import quiet
from pipeline.dicom.header import Header
from pipeline.dicom.lut import functional_group

AT_DETECTOR = "ImagerPixelSpacing (at the detector)"


@dataclass(frozen=True, slots=True)
class Spacing:
    """Distance between pixel centres.

    Attributes
    ----------
    row, column : float
        mm from row to row (down) and from column to column (to the right).
    source : str
        The element it came from. Imager Pixel Spacing is measured at the detector: in the
        patient, lengths are smaller by the magnification (PS3.3 10.7.1.3).
    """

    row: float
    column: float
    source: str


def spacing(header: Header, index: int = 0) -> Spacing | None:
    """Return the pixel spacing of a frame, or None where the header has none that makes sense.

    Pixel Spacing goes before Imager Pixel Spacing, and this before Nominal Scanned Pixel
    Spacing; in multi-frame objects the frame's Pixel Measures go before all.
    """
    with quiet():
        measures = functional_group(header.dataset, index, "PixelMeasuresSequence")
        candidates = [
            (measures, "PixelSpacing", "PixelSpacing"),
            (header.dataset, "PixelSpacing", "PixelSpacing"),
            (header.dataset, "ImagerPixelSpacing", AT_DETECTOR),
            (header.dataset, "NominalScannedPixelSpacing", "NominalScannedPixelSpacing"),
        ]
        for dataset, keyword, name in candidates:
            found = _pair(dataset, keyword)
            if found:
                return Spacing(*found, name)
    return None


def _pair(dataset: Dataset | None, keyword: str) -> tuple[float, float] | None:
    """Two positive numbers, or None for anything else."""
    try:
        value = None if dataset is None else dataset.get(keyword)
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
            return None
        row, column = (float(v) for v in value)
    except Exception:  # malformed numbers surface as many types; then there is no spacing
        return None
    return (row, column) if 0 < row < 1e6 and 0 < column < 1e6 and isfinite(row) else None

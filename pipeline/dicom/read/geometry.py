"""Millimetres per pixel, which element of the header says so, and where a slice lies."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from pipeline.dicom.errors import quiet
from pipeline.dicom.read.header import Header
from pipeline.dicom.read.lut import functional_group

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


def slice_position(header: Header) -> float | None:
    """Distance of a slice's first pixel from the origin along the slice's normal, in mm.

    Image Position (Patient) times the cross product of the row's and the column's direction
    (PS3.3 C.7.6.2.1.1). None where the header does not give both, or gives nonsense.
    """
    with quiet():
        directions = _numbers(header.dataset, "ImageOrientationPatient", 6)
        origin = _numbers(header.dataset, "ImagePositionPatient", 3)
    if directions is None or origin is None:
        return None
    normal = np.cross(directions[:3], directions[3:])
    length = float(np.linalg.norm(normal))
    return float(np.dot(normal, origin)) / length if length > 1e-3 else None


def _pair(dataset: Dataset | None, keyword: str) -> tuple[float, float] | None:
    """Two positive numbers, or None for anything else."""
    values = _numbers(dataset, keyword, 2)
    return (values[0], values[1]) if values and min(values) > 0 else None


def _numbers(dataset: Dataset | None, keyword: str, count: int) -> list[float] | None:
    """So many numbers of a reasonable size, or None for anything else."""
    try:
        value = None if dataset is None else dataset.get(keyword)
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != count:
            return None
        numbers = [float(v) for v in value]
    except Exception:  # malformed numbers surface as many types; then there are none
        return None
    return numbers if all(abs(v) < 1e6 for v in numbers) else None

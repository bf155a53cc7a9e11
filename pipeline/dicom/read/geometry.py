"""Millimetres per pixel, which element of the header says so, and where a slice lies."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from pipeline.dicom.errors import quiet
from pipeline.dicom.read.header import Header
from pipeline.dicom.read.lut import functional_group

PIXEL, IMAGER, NOMINAL = "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"
AT_DETECTOR = f"{IMAGER} (at the detector)"
REPEATED = f"{PIXEL} = {IMAGER} (at the detector)"
ESTIMATED = f"{IMAGER} / EstimatedRadiographicMagnificationFactor"

Vectors = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spacing:
    """Distance between pixel centres.

    Attributes
    ----------
    row, column : float
        mm from row to row (down) and from column to column (to the right).
    source : str
        The element it came from. Imager Pixel Spacing is measured at the detector: in the
        patient, lengths are smaller by the magnification (PS3.3 10.7.1.3), which the header may
        estimate.
    """

    row: float
    column: float
    source: str


def spacing(header: Header, index: int = 0) -> Spacing | None:
    """Return the pixel spacing of a frame, or None where the header has none that makes sense.

    Pixel Spacing goes before Imager Pixel Spacing, and this before Nominal Scanned Pixel
    Spacing; in multi-frame objects the frame's Pixel Measures go before all. A Pixel Spacing that
    only repeats Imager Pixel Spacing, without a word on calibration, is one at the detector
    (PS3.3 10.7.1.1).
    """
    with quiet():
        measures = functional_group(header.dataset, index, "PixelMeasuresSequence")
        dataset = header.dataset
        found = _pair(measures, PIXEL)
        if found:
            return Spacing(*found, PIXEL)
        pixel, imager = _pair(dataset, PIXEL), _pair(dataset, IMAGER)
        repeated = pixel == imager and not header.text("PixelSpacingCalibrationType")
        if pixel and not repeated:
            return Spacing(*pixel, PIXEL)
        if imager:
            return _in_patient(header, imager) or Spacing(
                *imager, REPEATED if pixel else AT_DETECTOR
            )
        nominal = _pair(dataset, NOMINAL)
    return Spacing(*nominal, NOMINAL) if nominal else None


def _in_patient(header: Header, imager: tuple[float, float]) -> Spacing | None:
    """Spacing at the depth that the magnification is estimated for (PS3.3 C.8.11.5)."""
    try:
        factor = float(header.text("EstimatedRadiographicMagnificationFactor"))
    except ValueError:  # absent, or no number
        return None
    row, column = imager
    return Spacing(row / factor, column / factor, ESTIMATED) if 1 <= factor < 10 else None


def pixel_shape(header: Header, index: int = 0) -> tuple[float, float]:
    """Height and width of a pixel, in any one unit; 1 and 1 where the header does not say.

    By the spacing, else by Pixel Aspect Ratio (PS3.3 C.7.6.3.1.7).
    """
    found = spacing(header, index)
    if found is not None:
        return found.row, found.column
    with quiet():
        return _pair(header.dataset, "PixelAspectRatio") or (1.0, 1.0)


def slice_position(header: Header) -> float | None:
    """Distance of a slice's first pixel from the origin along the slice's normal, in mm.

    Image Position (Patient) times the cross product of the row's and the column's direction
    (PS3.3 C.7.6.2.1.1). None where the header does not give both, or gives nonsense.
    """
    found = _plane(header)
    if found is None:
        return None
    origin, (*_, normal) = found
    return float(np.dot(normal, origin)) / float(np.linalg.norm(normal))


def to_pixels(header: Header, points: Vectors) -> tuple[Vectors, Vectors] | None:
    """Points of the patient as places in an image (PS3.3 C.7.6.2.1.1).

    Parameters
    ----------
    points : array (n, 3)
        In mm.

    Returns
    -------
    places : array (n, 2)
        Column and row; the top left corner of the top left pixel is 0, 0.
    distances : array (n,)
        In mm, from the plane of the image.
        None for both where the header does not say where the image lies.
    """
    found, pixel = _plane(header), spacing(header)
    if found is None or pixel is None:
        return None
    origin, axes = found
    across, down, distances = (axes / np.linalg.norm(axes, axis=1)[:, None]) @ (points - origin).T
    return np.stack([across / pixel.column, down / pixel.row], axis=1) + 0.5, distances


def _plane(header: Header) -> tuple[Vectors, Vectors] | None:
    """Centre of the first pixel in mm; directions of rows, columns and the normal, (3, 3)."""
    with quiet():
        directions = _numbers(header.dataset, "ImageOrientationPatient", 6)
        origin = _numbers(header.dataset, "ImagePositionPatient", 3)
    if directions is None or origin is None:
        return None
    normal = np.cross(directions[:3], directions[3:])
    axes = np.array([directions[:3], directions[3:], normal])
    return (np.array(origin), axes) if float(np.linalg.norm(normal)) > 1e-3 else None


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

"""Regions that people or programs have marked on images, from three kinds of DICOM objects.

Structured reports (TID 1500 and whatever else has spatial coordinates, PS3.3 C.18.6), contours of
radiotherapy structure sets (C.8.8.6) and segmentations (C.8.20). Of the objects nothing else is
returned: they name patients and readers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.pixels import iter_pixels

from pipeline.dicom.errors import DicomError, quiet
from pipeline.dicom.read.geometry import to_pixels
from pipeline.dicom.read.header import Header
from pipeline.dicom.read.values import coded, joined

_SEGMENTATIONS = (uid.SegmentationStorage, "1.2.840.10008.5.1.4.1.1.66.7")  # the latter: label maps
_REPORTS = "1.2.840.10008.5.1.4.1.1.88."
_FINDING = "121071"  # DCM, PS3.16 TID 1419
_SIDES = 64  # of the polygon that stands for a circle
_NEAR_MM = 0.5  # of a contour from the plane of its image


@dataclass(frozen=True, slots=True)
class Annotation:
    """A region of one frame.

    Attributes
    ----------
    instance : str
        SOP Instance UID of the image.
    frame : int
        From 0.
    label : str
        Meaning of the finding's code, name of the ROI or label of the segment; may be empty.
    points : array (n, 2) or None
        Corners as (column, row) in pixels; the top left corner of the top left pixel is 0, 0.
    mask : array (H, W), bool, or None
        There is either a polygon or a mask.
    """

    instance: str
    frame: int
    label: str
    points: NDArray[np.float64] | None = None
    mask: NDArray[np.bool_] | None = None

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Extent as (x, y, width, height) in pixels."""
        if self.mask is not None:
            rows, columns = np.nonzero(self.mask)
            corners = np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]])
        else:
            assert self.points is not None
            corners = np.array([self.points.min(axis=0), self.points.max(axis=0)])
        (left, top), (width, height) = corners[0].tolist(), (corners[1] - corners[0]).tolist()
        return left, top, width, height


def read_annotations(path: Path, images: Mapping[str, Header]) -> Iterator[Annotation]:
    """Yield the regions in a structured report, a structure set or a segmentation.

    Parameters
    ----------
    images : mapping
        SOP Instance UID -> header of the images that contours may lie on; contours are in mm of
        the patient, and need their geometry. Reports and segmentations need none.

    Raises
    ------
    DicomError
        "not DICOM"; "no annotations" for another kind of object; "cannot decode" where an element
        is missing or a contour lies on none of `images`.
    OSError
        When the file cannot be read.
    """
    try:
        with quiet():
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
    except pydicom.errors.InvalidDicomError as error:
        raise DicomError("not DICOM") from error
    kind = joined(dataset.get("SOPClassUID"))
    try:
        with quiet():
            if kind.startswith(_REPORTS):
                yield from _of_report(dataset, "")
            elif kind == uid.RTStructureSetStorage:
                yield from _of_structure_set(dataset, images)
            elif kind in _SEGMENTATIONS:
                yield from _of_segmentation(path, dataset)
            else:
                raise DicomError("no annotations", "neither a report, contours nor a segmentation")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        detail = f"an element is missing or malformed ({type(error).__name__})"
        raise DicomError("cannot decode", detail) from error


def references(path: Path) -> tuple[set[str], bool]:
    """SOP Instance UIDs of all instances that an object names, and whether it is of whole series.

    Structure sets and segmentations are: who draws them has seen every slice. A report is of the
    images that it lists, as evidence or with a region.

    Raises
    ------
    OSError, pydicom.errors.InvalidDicomError
        When the file cannot be read.
    """
    with quiet():
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        found = {
            str(element.value)
            for element in dataset.iterall()
            if element.keyword == "ReferencedSOPInstanceUID"
        }
        return found, not joined(dataset.get("SOPClassUID")).startswith(_REPORTS)


def _of_report(item: Dataset, label: str) -> Iterator[Annotation]:
    """All SCOORD items below an item, labelled by the finding beside them or above."""
    children = item.get("ContentSequence") or []
    for child in children:
        if coded(child, "ValueType") == "CODE" and _concept(child, "ConceptName") == _FINDING:
            label = child.ConceptCodeSequence[0].CodeMeaning
    for child in children:
        if coded(child, "ValueType") == "SCOORD":
            yield from _of_coordinates(child, label)
        else:
            yield from _of_report(child, label)


def _concept(item: Dataset, name: str) -> str:
    codes = item.get(f"{name}CodeSequence")
    return str(codes[0].get("CodeValue", "")) if codes else ""


def _of_coordinates(item: Dataset, label: str) -> Iterator[Annotation]:
    points = _polygon(coded(item, "GraphicType"), np.reshape(item.GraphicData, (-1, 2)))
    for image in item.ContentSequence:
        for reference in image.get("ReferencedSOPSequence") or []:
            for frame in _frames(reference):
                name = str(reference.ReferencedSOPInstanceUID)
                yield Annotation(name, frame, label, points.astype(np.float64))


def _polygon(kind: str, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Corners of a shape (PS3.3 C.18.6.1.2); a closed polyline comes without its last point."""
    if kind == "CIRCLE":  # its centre, and a point on it
        axes = np.array([[1, 0], [0, 1]]) * np.linalg.norm(points[1] - points[0])
        return _ellipse(points[0], *axes)
    if kind == "ELLIPSE":  # the ends of one axis, then of the other
        return _ellipse(
            points.mean(axis=0), (points[1] - points[0]) / 2, (points[3] - points[2]) / 2
        )
    return points[:-1] if len(points) > 1 and (points[0] == points[-1]).all() else points


def _ellipse(
    centre: NDArray[np.float64], first: NDArray[np.float64], second: NDArray[np.float64]
) -> NDArray[np.float64]:
    turn = 2 * np.pi * np.arange(_SIDES)[:, None] / _SIDES
    return centre + np.cos(turn) * first + np.sin(turn) * second


def _frames(reference: Dataset) -> list[int]:
    """Frames that a reference names, from 0; without a name the only one there is."""
    numbers = reference.get("ReferencedFrameNumber")
    if numbers is None or numbers == "":
        return [0]
    return [int(n) - 1 for n in ([numbers] if isinstance(numbers, int | str) else numbers)]


def _of_structure_set(dataset: Dataset, images: Mapping[str, Header]) -> Iterator[Annotation]:
    names = {roi.ROINumber: str(roi.get("ROIName", "")) for roi in dataset.StructureSetROISequence}
    for roi in dataset.get("ROIContourSequence") or []:
        for contour in roi.get("ContourSequence") or []:
            if coded(contour, "ContourGeometricType") == "POINT":
                continue
            corners = np.reshape(np.array(contour.ContourData, dtype=np.float64), (-1, 3))
            name, points = _on_image(contour, corners, images)
            yield Annotation(name, 0, names[roi.ReferencedROINumber], points)


def _on_image(
    contour: Dataset, corners: NDArray[np.float64], images: Mapping[str, Header]
) -> tuple[str, NDArray[np.float64]]:
    """The image on whose plane a contour lies, and the contour in its pixels."""
    named = [str(one.ReferencedSOPInstanceUID) for one in contour.get("ContourImageSequence") or []]
    for name in named or images:
        found = to_pixels(images[name], corners) if name in images else None
        if found is not None and np.abs(found[1]).max() <= _NEAR_MM:
            return name, found[0]
    raise DicomError("cannot decode", "a contour lies on none of the images")


def _of_segmentation(path: Path, dataset: Dataset) -> Iterator[Annotation]:
    labels = {one.SegmentNumber: str(one.SegmentLabel) for one in dataset.SegmentSequence}
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    groups = dataset.PerFrameFunctionalGroupsSequence
    for group, pixels in zip(groups, iter_pixels(path), strict=True):
        origin = group.get("DerivationImageSequence") or shared.DerivationImageSequence
        reference = origin[0].SourceImageSequence[0]
        for number, mask in _segments(dataset, group, shared, pixels):
            for frame in _frames(reference) if mask.any() else []:
                name = str(reference.ReferencedSOPInstanceUID)
                yield Annotation(name, frame, labels[number], mask=mask)


def _segments(
    dataset: Dataset, group: Dataset, shared: Dataset, pixels: NDArray[np.uint8]
) -> list[tuple[int, NDArray[np.bool_]]]:
    """The segments of a frame: one, or in a label map all that occur; 0 is no segment."""
    if coded(dataset, "SegmentationType") == "LABELMAP":
        return [(int(number), pixels == number) for number in np.unique(pixels) if number]
    about = group.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence
    # A probability or an occupancy of more than one half; binary values are 0 and 1.
    half = int(dataset.get("MaximumFractionalValue") or 1) / 2
    return [(about[0].ReferencedSegmentNumber, pixels > half)]

"""Segmentation (PS3.3 A.51) of one SOP instance: the pixels of what was found in it.

Binary, on the very grid of the source, to which every frame refers. Of a single image each object
is a segment; of an image with several frames each class is one, since frames show the same object
again. Position, orientation and frame of reference are the source's, if it has them all: else
pixels correspond to the pixels of the source and to nothing more (a radiograph).
"""

from collections.abc import Iterator
from pathlib import Path

import highdicom
import numpy as np
from highdicom.seg import Segmentation, SegmentDescription
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from pipeline.data.masks import decode
from pipeline.dicom.errors import DicomError
from pipeline.dicom.read.geometry import PIXEL, spacing
from pipeline.dicom.read.lut import functional_group
from pipeline.dicom.write import codes as ours
from pipeline.dicom.write.maker import (
    Findings,
    Maker,
    Region,
    derived_uid,
    new_object,
    silent,
    store,
    tracking_uid,
)
from pipeline.dicom.write.source import CANNOT_REFER, SourceImage

_SINGLE = ("ImagePositionPatient", "ImageOrientationPatient")
_Segment = tuple[str, str, list[Region]]  # label, tracking UID, regions


def write_segmentation(path: Path, source: SourceImage, findings: Findings, maker: Maker) -> None:
    """Write the masks of an image.

    Parameters
    ----------
    findings : Findings
        At least one region; all have masks.

    Raises
    ------
    DicomError
        For several frames of which the header does not say where they lie.
    """
    with silent():
        segments = list(_segments(source, findings, maker))
        image = _placed(source)
        if source.multi_frame and "FrameOfReferenceUID" not in image:
            raise DicomError(
                CANNOT_REFER, "it has several frames, and its header does not place them all"
            )
        shared = new_object(maker, source.reference, "seg", source.number)
        made = Segmentation(
            source_images=[image],
            pixel_array=_pixels(source, [regions for *_, regions in segments]),
            segmentation_type="BINARY",
            segment_descriptions=[
                _description(number, label, uid, regions[0].name, maker)
                for number, (label, uid, regions) in enumerate(segments, start=1)
            ],
            content_label="DESCRY",
            content_description=maker.mark,
            **shared,
        )
        _complete(made, source)
        store(made, path, maker)


def _segments(source: SourceImage, findings: Findings, maker: Maker) -> Iterator[_Segment]:
    """Objects, or of several frames classes, in the order in which they are found first."""
    numbered = list(enumerate(findings.regions, start=1))
    if not source.multi_frame:
        for number, region in numbered:
            uid = tracking_uid(source.reference, number, region, maker)
            yield f"{region.name} {number}", uid, [region]
        return
    for name in dict.fromkeys(region.name for region in findings.regions):
        uid = derived_uid(maker.sha256, source.reference.SOPInstanceUID, name, "all frames")
        yield name, uid, [region for _, region in numbered if region.name == name]


def _pixels(source: SourceImage, segments: list[list[Region]]) -> NDArray[np.uint8]:
    """Masks (frames, rows, columns, segments), 0 or 1."""
    rows, columns = source.reference.Rows, source.reference.Columns
    shape = (source.header.frame_count, rows, columns, len(segments))
    pixels = np.zeros(shape, dtype=np.uint8)
    for place, regions in enumerate(segments):
        for region in regions:
            pixels[region.frame, :, :, place] |= decode(region.mask, rows, columns)
    return pixels


def _description(number: int, label: str, uid: str, name: str, maker: Maker) -> SegmentDescription:
    return SegmentDescription(
        segment_number=number,
        segment_label=label[:64],
        segmented_property_category=ours.ABNORMAL,
        segmented_property_type=ours.concept_of(name),
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="descry",
            family=codes.cid7162.ArtificialIntelligence,
            version=maker.version,
            parameters={
                "checkpoint sha256": maker.sha256,
                "lowest scores": maker.lowest_scores,
                "use": maker.mark,
            },
        ),
        tracking_uid=uid,
        tracking_id=label,
    )


def _placed(source: SourceImage) -> Dataset:
    """The reference to the source with what its header says of where it lies."""
    image = Dataset()
    image.update(source.reference)
    if source.header.text("LossyImageCompression") == "01":
        image.LossyImageCompression = "01"  # once lossy, always lossy (C.7.6.1.1.5)
    measures = _measures(source)
    if not source.multi_frame:
        if measures is not None:
            image.update(measures)
        place = {keyword: source.header.dataset.get(keyword) for keyword in _SINGLE}
        if source.frame_of_reference and measures is not None and all(place.values()):
            image.FrameOfReferenceUID = source.frame_of_reference
            for keyword, value in place.items():
                setattr(image, keyword, value)
        return image
    _place_frames(image, source, measures)
    return image


def _place_frames(image: Dataset, source: SourceImage, measures: Dataset | None) -> None:
    """Copy the functional groups that place frames, if all of them are placed."""
    shared, frames = Dataset(), []
    orientation = functional_group(source.header.dataset, 0, "PlaneOrientationSequence")
    if orientation is None or measures is None:
        return
    for index in range(source.header.frame_count):
        position = functional_group(source.header.dataset, index, "PlanePositionSequence")
        turned = functional_group(source.header.dataset, index, "PlaneOrientationSequence")
        if position is None or turned is None:
            return
        if turned.get("ImageOrientationPatient") != orientation.get("ImageOrientationPatient"):
            return
        frame, item = Dataset(), Dataset()
        item.ImagePositionPatient = position.ImagePositionPatient
        frame.PlanePositionSequence = [item]
        frames.append(frame)
    item = Dataset()
    item.ImageOrientationPatient = orientation.ImageOrientationPatient
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [item], [measures]
    image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence = [shared], frames
    if source.frame_of_reference:
        image.FrameOfReferenceUID = source.frame_of_reference


def _measures(source: SourceImage) -> Dataset | None:
    """Spacing and thickness where the header gives them in the patient, not at a detector."""
    found, header = spacing(source.header), source.header.dataset
    if found is None or found.source != PIXEL:
        return None
    measures = Dataset()
    measures.PixelSpacing = [found.row, found.column]
    group = functional_group(header, 0, "PixelMeasuresSequence") or header
    thickness = group.get("SliceThickness")
    if thickness not in (None, ""):
        measures.SliceThickness = thickness
    return measures


def _complete(made: Dataset, source: SourceImage) -> None:
    """What highdicom draws, guesses or leaves out: equal objects have equal bytes."""
    if "FrameOfReferenceUID" not in made:
        made.PatientOrientation = ""  # Type 2C in General Image (C.7.6.1)
    for item in made.SharedFunctionalGroupsSequence[0].get("PixelMeasuresSequence") or []:
        if not source.multi_frame and "SpacingBetweenSlices" in item:
            del item.SpacingBetweenSlices  # of one slice there is none
    uid = derived_uid("dimensions", made.SeriesInstanceUID, made.InstanceNumber)
    items = [*made.DimensionOrganizationSequence, *made.DimensionIndexSequence]
    for item in items:
        item.DimensionOrganizationUID = uid

"""Structured report of one SOP instance: TID 1500 "Measurement Report" (PS3.16).

One measurement group per box, with its region as a closed polyline (SCOORD) on the image that was
looked at, and on its frame where there are several. Comprehensive SR is enough for that: the 3D
form would put the region into the patient's coordinates and lose the pixels that it was found in.
Where nothing is found, a group for each class says so, since a report needs at least one.
"""

from pathlib import Path

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from pipeline.dicom.write import codes as ours
from pipeline.dicom.write.maker import (
    Findings,
    Maker,
    Region,
    derived_uid,
    new_object,
    outline,
    silent,
    store,
    tracking_uid,
)
from pipeline.dicom.write.source import SourceImage

_Group = (
    sr.PlanarROIMeasurementsAndQualitativeEvaluations | sr.MeasurementsAndQualitativeEvaluations
)


def write_report(path: Path, source: SourceImage, findings: Findings, maker: Maker) -> None:
    """Write a Comprehensive SR that says what was found in an image, or that nothing was.

    It is complete (all frames were looked at), preliminary and unverified.
    """
    with silent():
        store(_document(source, findings, maker), path, maker)


def _document(source: SourceImage, findings: Findings, maker: Maker) -> Dataset:
    groups: list[_Group]
    groups = [_found(source, region, n, maker) for n, region in enumerate(findings.regions, 1)]
    groups = groups or [_absent(source, name, maker) for name, _ in maker.thresholds]
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=_observer(maker)),
        procedure_reported=ours.IMAGING_PROCEDURE,
        imaging_measurements=groups,
    )
    content[0].ContentSequence.append(_mark(maker))
    return sr.ComprehensiveSR(
        evidence=[source.reference],
        content=content[0],
        is_complete=True,
        coding_schemes=[ours.SCHEME],
        **new_object(maker, source.reference, "sr", source.number),
    )


def _found(
    source: SourceImage, region: Region, number: int, maker: Maker
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """TID 1410 for one box."""
    reference = source.reference
    frames = [region.frame + 1] if source.multi_frame else None
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            tracking_uid(reference, number, region, maker), f"{region.name} {number}"
        ),
        referenced_region=sr.ImageRegion(
            graphic_type=sr.GraphicTypeValues.POLYLINE,
            graphic_data=outline(region, reference.Rows, reference.Columns),
            source_image=sr.SourceImageForRegion(
                reference.SOPClassUID, reference.SOPInstanceUID, frames
            ),
        ),
        finding_type=ours.concept_of(region.name),
        algorithm_id=_algorithm(maker),
        measurements=[
            sr.Measurement(
                name=ours.CERTAINTY, value=round(100 * region.score, 3), unit=ours.PERCENT
            )
        ],
    )


def _absent(
    source: SourceImage, name: str, maker: Maker
) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501 on the whole image: no box of this class."""
    reference = source.reference
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            derived_uid(maker.sha256, reference.SOPInstanceUID, name, 0), f"no {name}"
        ),
        finding_type=ours.concept_of(name),
        algorithm_id=_algorithm(maker),
        qualitative_evaluations=[sr.QualitativeEvaluation(ours.PRESENCE, ours.ABSENT)],
        source_images=[
            sr.SourceImageForMeasurementGroup(reference.SOPClassUID, reference.SOPInstanceUID)
        ],
    )


def _algorithm(maker: Maker) -> sr.AlgorithmIdentification:
    """TID 4019."""
    scores = f"lowest scores: {maker.lowest_scores}"
    parameters = [f"checkpoint sha256 {maker.sha256}", scores, maker.mark]
    return sr.AlgorithmIdentification("descry", maker.version, parameters)


def _observer(maker: Maker) -> sr.ObserverContext:
    """TID 1004: the device that observed is the program with this model."""
    equipment = maker.equipment()
    return sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=derived_uid("device", maker.version, maker.sha256),
            name="descry",
            manufacturer_name=equipment["manufacturer"],
            model_name=equipment["manufacturer_model_name"],
            serial_number=equipment["device_serial_number"],
        ),
    )


def _mark(maker: Maker) -> sr.TextContentItem:
    """A row of our own; TID 1500 may be extended."""
    return sr.TextContentItem(
        name=ours.COMMENT,
        value=maker.mark,
        relationship_type=sr.RelationshipTypeValues.CONTAINS,
    )

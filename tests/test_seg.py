"""DICOM segmentations: pixels, segments, geometry, and what the tools say of them."""

import json

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_factory import ROOT, write
from object_factory import MAKER, MARK, errors_of, source
from predict_factory import BrightSpots, spot
from pydicom import uid
from pydicom.dataset import Dataset
from test_dicom_sr import MULTI_FRAME

from pipeline.data.masks import decode, encode
from pipeline.dicom.errors import DicomError
from pipeline.dicom.pseudonym import Pseudonyms
from pipeline.dicom.read.annotations import read_annotations
from pipeline.dicom.write.maker import Findings, Region
from pipeline.dicom.write.seg import write_segmentation
from pipeline.dicom.write.sr import write_report
from pipeline.errors import DescryError
from pipeline.predict.options import Objects, Options
from pipeline.predict.run import predict_folder
from pipeline.stages.predict import check_masks

ONE, TWO = (np.zeros((40, 50), dtype=bool) for _ in range(2))
ONE[5:20, 10:30] = True
TWO[15:25, 20:40] = TWO[30, 2] = True
FOUND = Findings(
    (
        Region(0, (10.0, 5.0, 20.0, 15.0), "Lung Opacity", 0.9, encode(ONE)),
        Region(0, (2.0, 15.0, 38.0, 16.0), "glioma", 0.5, encode(TWO)),
    )
)
SLICE = {
    "SOPClassUID": uid.MRImageStorage,
    "Modality": "MR",
    "FrameOfReferenceUID": ROOT + "77",
    "ImagePositionPatient": [-100.5, 20, 3],
    "ImageOrientationPatient": [1, 0, 0, 0, 0, -1],
    "PixelSpacing": [0.5, 0.75],
    "SliceThickness": 5,
}


def written(folder, findings=FOUND, *, name="seg.dcm", pixels=None, frames=None, **elements):
    image = source(folder / "image", pixels, frames, **elements)
    write_segmentation(folder / name, image, findings, MAKER)
    assert errors_of(folder / name) == []
    return pydicom.dcmread(folder / name)


def test_pixels_segments_and_codes_come_back(tmp_path) -> None:
    seg = hd.seg.Segmentation.from_dataset(written(tmp_path), copy=False)
    assert (seg.Modality, seg.ContentDescription, seg.SegmentsOverlap) == ("SEG", MARK, "YES")
    first, second = seg.SegmentSequence
    assert [one.SegmentLabel for one in (first, second)] == ["Lung Opacity 1", "glioma 2"]
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeValue == "112001"
    assert second.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99DESCRY"
    assert first.SegmentAlgorithmType == "AUTOMATIC"
    pixels = seg.get_pixels_by_source_instance([ROOT + "1"])  # (1, rows, columns, segments)
    np.testing.assert_array_equal(pixels[0, :, :, 0], ONE)
    np.testing.assert_array_equal(pixels[0, :, :, 1], TWO)
    found = list(read_annotations(tmp_path / "seg.dcm", {}))  # by our own reader
    assert [(a.instance, a.frame, a.label) for a in found] == [
        (ROOT + "1", 0, "Lung Opacity 1"),
        (ROOT + "1", 0, "glioma 2"),
    ]
    assert "FrameOfReferenceUID" not in seg  # a radiograph lies nowhere


def test_a_slice_lies_where_its_source_lies(tmp_path) -> None:
    seg = written(tmp_path, **SLICE)
    assert seg.FrameOfReferenceUID == ROOT + "77"
    (shared,) = seg.SharedFunctionalGroupsSequence
    (measures,) = shared.PixelMeasuresSequence
    assert (measures.PixelSpacing, measures.SliceThickness) == ([0.5, 0.75], 5)
    assert "SpacingBetweenSlices" not in measures
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    assert orientation == [1, 0, 0, 0, 0, -1]
    for frame in seg.PerFrameFunctionalGroupsSequence:
        assert frame.PlanePositionSequence[0].ImagePositionPatient == [-100.5, 20, 3]
        (origin,) = frame.DerivationImageSequence[0].SourceImageSequence
        assert origin.ReferencedSOPInstanceUID == ROOT + "1"
        assert origin.SpatialLocationsPreserved == "YES"


def groups(**values) -> Dataset:
    group = Dataset()
    for keyword, inner in values.items():
        item = Dataset()
        for name, value in inner.items():
            setattr(item, name, value)
        setattr(group, keyword, [item])
    return group


STACK = np.stack([spot(), spot(0), spot(), spot()])
PLACED = MULTI_FRAME | {
    "SOPClassUID": uid.EnhancedMRImageStorage,
    "FrameOfReferenceUID": ROOT + "77",
    "SharedFunctionalGroupsSequence": [
        groups(
            PixelMeasuresSequence={"PixelSpacing": [1, 1], "SliceThickness": 2},
            PlaneOrientationSequence={"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
        )
    ],
    "PerFrameFunctionalGroupsSequence": [
        groups(PlanePositionSequence={"ImagePositionPatient": [0, 0, 2 * i]}) for i in range(4)
    ],
}


def test_frames_are_named_and_placed_and_a_class_is_one_segment(tmp_path) -> None:
    regions = (
        Region(0, (10, 5, 20, 15), "glioma", 0.9, encode(ONE)),
        Region(3, (2, 15, 38, 16), "glioma", 0.5, encode(TWO)),
        Region(3, (10, 5, 20, 15), "Lung Opacity", 0.5, encode(ONE)),
    )
    seg = written(tmp_path, Findings(regions), pixels=STACK, frames=4, **PLACED)
    assert [one.SegmentLabel for one in seg.SegmentSequence] == ["glioma", "Lung Opacity"]
    assert seg.NumberOfFrames == 3  # empty ones are left out
    rows = []
    for group in seg.PerFrameFunctionalGroupsSequence:
        origin = group.DerivationImageSequence[0].SourceImageSequence[0]
        z = group.PlanePositionSequence[0].ImagePositionPatient[2]
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        rows.append((number, int(origin.ReferencedFrameNumber), int(z)))
    assert sorted(rows) == [(1, 1, 0), (1, 4, 6), (2, 4, 6)]
    np.testing.assert_array_equal(seg.pixel_array[rows.index((1, 4, 6))], TWO)


def test_frames_that_lie_nowhere_have_no_segmentation(tmp_path) -> None:
    image = source(tmp_path / "image", STACK, 4, **MULTI_FRAME)
    with pytest.raises(DicomError, match="its header does not place them all"):
        write_segmentation(tmp_path / "a.dcm", image, FOUND, MAKER)


def test_equal_findings_give_equal_bytes_and_the_tracking_of_the_report(tmp_path) -> None:
    written(tmp_path, name="a.dcm", **SLICE)
    seg = written(tmp_path, name="b.dcm", **SLICE)
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    write_report(tmp_path / "sr.dcm", source(tmp_path / "image", **SLICE), FOUND, MAKER)
    report = hd.sr.srread(tmp_path / "sr.dcm")
    tracking = [g.tracking_uid for g in report.content.get_planar_roi_measurement_groups()]
    assert [one.TrackingUID for one in seg.SegmentSequence] == tracking


def test_a_pseudonym_stands_for_the_frame_of_reference(tmp_path) -> None:
    image = source(tmp_path / "image", pseudonyms=Pseudonyms(b"k" * 16), **SLICE)
    write_segmentation(tmp_path / "a.dcm", image, FOUND, MAKER)
    assert ROOT + "77" not in (tmp_path / "a.dcm").read_bytes().decode("latin-1")
    assert pydicom.dcmread(tmp_path / "a.dcm").FrameOfReferenceUID != ""


def test_predict_writes_masks_into_every_output(tmp_path) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in/a.dcm", spot(), **SLICE)
    write(tmp_path / "in/b.dcm", spot(0), **SLICE | {"SOPInstanceUID": ROOT + "9"})
    options = Options(workers=0, objects=Objects(kinds=("seg",)))
    summary = predict_folder(tmp_path / "in", tmp_path / "out", BrightSpots(masked=True),
                             options=options)  # fmt: skip
    assert summary.counts["dicom_objects"]["seg"] == 1  # nothing is found in the other
    coco = json.loads((tmp_path / "out/detections.coco.json").read_text())
    (row,) = coco["annotations"]
    assert (row["bbox"], row["area"]) == ([10, 20, 5, 8], 40)
    mask = decode(row["segmentation"]["counts"], *row["segmentation"]["size"])
    assert mask.sum() == mask[20:28, 10:15].sum() == 40
    (path,) = (tmp_path / "out/seg").iterdir()
    assert errors_of(path) == []
    np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, mask)


def test_a_model_without_masks_is_refused_before_it_runs() -> None:
    options = Options(objects=Objects(kinds=("seg",)))
    with pytest.raises(DescryError, match="--seg: this model finds boxes without masks"):
        check_masks("detect", options)
    check_masks("semantic", options)
    check_masks("detect", Options())

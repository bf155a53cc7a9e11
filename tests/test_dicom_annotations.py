"""Reports, contours and segmentations become regions in pixels of the images they were made on."""

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_factory import ROOT, image_dataset, save, write
from object_factory import FOUND, MAKER, source
from predict_factory import spot
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes

from pipeline.dicom.errors import DicomError
from pipeline.dicom.read.annotations import read_annotations
from pipeline.dicom.read.header import read_header
from pipeline.dicom.write.sr import write_report


def item(**elements):
    one = Dataset()
    for keyword, value in elements.items():
        setattr(one, keyword, value)
    return one


def test_our_own_reports_come_back(tmp_path):
    write_report(tmp_path / "sr", source(tmp_path / "image"), FOUND, MAKER)
    found = list(read_annotations(tmp_path / "sr", {}))
    assert [(one.instance, one.frame, one.label) for one in found] == [
        (ROOT + "1", 0, "Opacity"),
        (ROOT + "1", 0, "glioma"),
    ]
    assert found[0].box == pytest.approx((10.25, 2.5, 30.5, 20.07), abs=1e-5)
    assert found[1].points.tolist() == [[0, 0], [50, 0], [50, 40], [0, 40]]


@pytest.mark.parametrize(
    ("kind", "data", "box"),
    [
        ("POINT", [3, 4], (3, 4, 0, 0)),
        ("POLYLINE", [1, 2, 5, 2, 5, 8, 1, 2], (1, 2, 4, 6)),
        ("CIRCLE", [10, 20, 13, 24], (5, 15, 10, 10)),  # a radius of 5
        ("ELLIPSE", [2, 10, 12, 10, 7, 7, 7, 13], (2, 7, 10, 6)),
    ],
)
@pytest.mark.parametrize("frames", [None, 3, [2, 4]])
def test_shapes_of_reports(tmp_path, kind, data, box, frames):
    reference = item(ReferencedSOPClassUID=uid.CTImageStorage, ReferencedSOPInstanceUID=ROOT + "8")
    if frames:
        reference.ReferencedFrameNumber = frames
    image = item(ValueType="IMAGE", ReferencedSOPSequence=[reference])
    region = item(ValueType="SCOORD", GraphicType=kind, GraphicData=data, ContentSequence=[image])
    name, value = item(CodeValue="121071"), item(CodeValue="x", CodeMeaning="Nodule")
    finding = item(ValueType="CODE", ConceptNameCodeSequence=[name], ConceptCodeSequence=[value])
    group = item(ValueType="CONTAINER", ContentSequence=[finding, region])
    report = image_dataset(spot(), SOPClassUID=uid.EnhancedSRStorage)
    del report.PixelData
    report.ContentSequence = Sequence([group, region])
    found = list(read_annotations(save(report, tmp_path / "sr"), {}))
    numbers = {None: [0], 3: [2]}.get(frames if isinstance(frames, int | None) else 0, [1, 3])
    assert [one.label for one in found] == ["Nodule"] * len(numbers) + [""] * len(numbers)
    assert [one.frame for one in found] == numbers * 2
    assert found[0].box == pytest.approx(box)


def slices(folder):
    """Headers of two sagittal slices: rows run to the back, columns down."""
    place = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "PixelSpacing": [2, 0.5]}
    for number, x in enumerate((-30.0, -25.0)):
        more = {"SOPInstanceUID": f"{ROOT}9.{number}", "ImagePositionPatient": [x, 100.0, 50.0]}
        write(folder / f"{number}.dcm", spot(), **place, **more)
    return {f"{ROOT}9.{n}": read_header(folder / f"{n}.dcm") for n in range(2)}


def structure_set(path, contours):
    dataset = image_dataset(spot(), SOPClassUID=uid.RTStructureSetStorage)
    del dataset.PixelData
    dataset.StructureSetROISequence = Sequence([item(ROINumber=7, ROIName="GTV")])
    roi = item(ReferencedROINumber=7, ContourSequence=Sequence(contours))
    dataset.ROIContourSequence = Sequence([roi])
    return save(dataset, path)


def contour(data, named=None, kind="CLOSED_PLANAR"):
    one = item(ContourGeometricType=kind, NumberOfContourPoints=len(data) // 3, ContourData=data)
    if named:
        image = item(ReferencedSOPClassUID="1.2.3", ReferencedSOPInstanceUID=f"{ROOT}9.{named}")
        one.ContourImageSequence = Sequence([image])
    return one


@pytest.mark.parametrize("named", [None, "1"])
def test_contours(tmp_path, named):
    # y = 100 + 0.5 (column - 0.5), z = 50 - 2 (row - 0.5): the centre of pixel 0, 0 is 0.5, 0.5.
    square = [-25.0, 101.0, 46.0, -25.0, 103.0, 46.0, -25.0, 103.0, 40.0, -25.0, 101.0, 40.0]
    point = contour([1.0, 2.0, 3.0], kind="POINT")
    path = structure_set(tmp_path / "rs", [contour(square, named), point])
    (found,) = read_annotations(path, slices(tmp_path))
    assert (found.instance, found.frame, found.label) == (f"{ROOT}9.1", 0, "GTV")
    np.testing.assert_allclose(found.points, [[2.5, 2.5], [6.5, 2.5], [6.5, 5.5], [2.5, 5.5]])


@pytest.mark.parametrize("named", [None, "0", "5"])
def test_a_contour_between_slices_or_on_another_image(tmp_path, named):
    path = structure_set(tmp_path / "rs", [contour([-27.0, 101.0, 46.0] * 3, named)])
    with pytest.raises(DicomError, match="a contour lies on none of the images"):
        list(read_annotations(path, slices(tmp_path)))


def segment(number, label):
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_segmentations(tmp_path, kind):
    images = [pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))]
    mask = np.zeros((1, 128, 128, 2), bool)
    mask[0, 10:20, 30:50, 0] = mask[0, 60:64, 5:7, 1] = True
    pixels = {"FRACTIONAL": mask * 0.75, "BINARY": mask}.get(
        kind, (mask * np.array([1, 2])).max(axis=-1).astype(np.uint8)
    )
    made = hd.seg.Segmentation(
        source_images=images, pixel_array=pixels, segmentation_type=kind,
        segment_descriptions=[segment(1, "tumour"), segment(2, "node")],
        series_instance_uid=ROOT + "5", series_number=1, sop_instance_uid=ROOT + "6",
        instance_number=1, manufacturer="x", manufacturer_model_name="x", software_versions="1",
        device_serial_number="1",
    )  # fmt: skip
    made.save_as(tmp_path / "seg")
    found = list(read_annotations(tmp_path / "seg", {}))
    assert {one.instance for one in found} == {images[0].SOPInstanceUID}
    assert [(one.label, one.box) for one in found] == [
        ("tumour", (30, 10, 20, 10)),
        ("node", (5, 60, 2, 4)),
    ]
    for number, one in enumerate(found):
        np.testing.assert_array_equal(one.mask, mask[0, ..., number])


def test_other_objects_and_damaged_ones(tmp_path):
    with pytest.raises(DicomError, match="no annotations"):
        list(read_annotations(write(tmp_path / "a", spot()), {}))
    (tmp_path / "b").write_bytes(b"text" * 99)
    with pytest.raises(DicomError, match="not DICOM"):
        list(read_annotations(tmp_path / "b", {}))
    dataset = image_dataset(spot(), SOPClassUID=uid.SegmentationStorage)
    with pytest.raises(DicomError, match="an element is missing or malformed"):
        list(read_annotations(save(dataset, tmp_path / "c"), {}))

"""Folders of DICOM with segmentations, structure sets and reports: which images, which boxes."""

from pathlib import Path

import dicom_factory
import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_factory import ROOT
from object_factory import FOUND, MAKER, source
from pydicom import uid
from test_dicom_annotations import contour, segment, structure_set
from test_reader_volumes import converted
from test_readers import reasons
from toy_source import opened

from pipeline.convert.formats.dicom import patient_of
from pipeline.convert.records import Ledger
from pipeline.dicom.write.sr import write_report
from pipeline.errors import DescryError

SIDE = (24, 32)  # rows, columns


def series(folder: Path, patient: str, slices: int = 4) -> list[pydicom.Dataset]:
    """Axial CT slices of one patient, 5 mm apart, without extensions, as PACS export them."""
    folder.mkdir(parents=True, exist_ok=True)
    made, drawn = [], np.random.default_rng(len(patient) + ord(patient[-1]))
    base = f"{ROOT}{ord(patient[-1])}"
    for number in range(slices):
        path = dicom_factory.write(
            folder / f"IM{number:04d}",
            drawn.integers(0, 200, SIDE, dtype=np.uint8).astype(np.uint16),
            SOPClassUID=uid.CTImageStorage, Modality="CT", PatientID=patient, PatientName="X^Y",
            SOPInstanceUID=f"{base}.1.{number}", SeriesInstanceUID=f"{base}.2",
            StudyInstanceUID=f"{base}.3", FrameOfReferenceUID=f"{base}.4", InstanceNumber=number,
            ImagePositionPatient=[0, 0, 5 * number], ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            PixelSpacing=[1, 1], SliceThickness=5, PatientBirthDate="", PatientSex="", StudyID="1",
            StudyDate="", StudyTime="", AccessionNumber="", ReferringPhysicianName="",
            SeriesNumber=1, PositionReferenceIndicator="", Manufacturer="x",
        )  # fmt: skip
        made.append(pydicom.dcmread(path))
    return made


def segmentation(path: Path, images: list[pydicom.Dataset]) -> None:
    """Two parts of a tumour in the second slice, a node in the third."""
    mask = np.zeros((len(images), *SIDE, 2), bool)
    mask[1, 2:6, 3:9, 0] = mask[1, 10:12, 20:30, 0] = mask[2, 5:9, 5:7, 1] = True
    made = hd.seg.Segmentation(
        source_images=images, pixel_array=mask, segmentation_type="BINARY",
        segment_descriptions=[segment(1, "tumour"), segment(2, "node")],
        series_instance_uid=images[0].SeriesInstanceUID + ".9", series_number=9,
        sop_instance_uid=images[0].SOPInstanceUID + ".9", instance_number=1, manufacturer="x",
        manufacturer_model_name="x", software_versions="1", device_serial_number="1",
    )  # fmt: skip
    made.save_as(path)


def test_segmentations_of_series(tmp_path):
    raw = tmp_path / "raw"
    for name in "ABCDE":
        images = series(raw / f"CASE{name}", f"P{name}")
        segmentation(raw / f"CASE{name}/SEG", images)
    series(raw / "OTHER", "PZ", 2)
    report, found, split_of = converted(raw, tmp_path / "out")
    assert report["images"] == {"in": 22, "out": 20, "dropped": {"image without annotation": 2}}
    assert report["files"]["used as annotations"] == 5
    assert report["boxes"] == {"in": 15, "out": 15, "clipped": 0, "dropped": {}}
    assert len(split_of) == 5 and all(len(splits) == 1 for splits in split_of.values())
    by_source = {image["source"]: boxes for image, boxes in found}
    assert by_source["CASEA/IM0000"] == by_source["CASEA/IM0003"] == []
    assert sorted(by_source["CASEC/IM0001"]) == [(3, 2, 6, 4, "tumour"), (20, 10, 10, 2, "tumour")]
    assert by_source["CASEE/IM0002"] == [(5, 5, 2, 4, "node")]
    written = b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert b"X^Y" not in written and b'"PA"' not in written


def test_contours_of_a_structure_set(tmp_path):
    raw = tmp_path / "raw"
    images = series(raw / "ct", "PA")
    # The centre of the first pixel is 0, 0 mm and 0.5, 0.5 in pixels.
    square = [2.5, 3.5, 5.0, 8.5, 3.5, 5.0, 8.5, 5.5, 5.0, 2.5, 5.5, 5.0]
    one = contour(square)
    reference = pydicom.Dataset()
    reference.ReferencedSOPInstanceUID = images[1].SOPInstanceUID
    one.ContourImageSequence = [reference]
    structure_set(raw / "rs.dcm", [one, contour([1.0, 2.0, 5.0], kind="POINT")])
    source, ledger = opened("spots", raw), Ledger()
    records = {record.path: record for record in source.scan(ledger)}
    assert len(records) == 4 and ledger.drops == []
    (box,) = records["ct/IM0001"].boxes
    assert (box.x, box.y, box.width, box.height, box.label) == (3, 4, 6, 2, "GTV")
    assert [name for name, _ in source.categories()] == ["GTV"]


def test_our_own_report_makes_a_dataset(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    write_report(raw / "report.dcm", source(raw / "image.dcm"), FOUND, MAKER)
    dicom_factory.write(raw / "unread.dcm", np.zeros(SIDE, np.uint8), SOPInstanceUID=ROOT + "77")
    ledger = Ledger()
    (record,) = opened("spots", raw).scan(ledger)
    assert record.path == "image.dcm" and {box.label for box in record.boxes} == {
        "Opacity",
        "glioma",
    }
    assert reasons(ledger) == {("unread.dcm", "image without annotation")}


def test_regions_that_are_none_and_files_that_are_broken(tmp_path):
    raw = tmp_path / "raw"
    images = series(raw, "PA")
    segmentation(raw / "SEG", images)
    gone = series(tmp_path / "elsewhere", "PB")
    segmentation(raw / "SEG_OF_ANOTHER", gone)
    structure_set(raw / "RS_BETWEEN", [contour([1.0, 1.0, 2.5] * 3)])
    (raw / "IM0009").write_bytes((raw / "IM0000").read_bytes())
    (raw / "notes.txt").write_text("x")
    ledger = Ledger()
    records = list(opened("spots", raw, layout="dicom", classes=("tumour",)).scan(ledger))
    assert len(records) == 4 and sum(len(record.boxes) for record in records) == 2
    dropped = {(where.split(":")[0], reason) for where, reason in reasons(ledger)}
    assert dropped == {
        ("SEG", "class not selected"),
        ("SEG_OF_ANOTHER", "image missing"),
        ("RS_BETWEEN", "cannot decode"),
        ("IM0009", "another file has the same SOP Instance UID"),
    }


def test_frames_of_one_file(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    frames = np.stack([np.full(SIDE, tone, np.uint8) for tone in (10, 60, 200)])
    frames[:, :12] = 0
    path = dicom_factory.write(raw / "cine.dcm", frames, frames=3, PatientID="P")
    image = pydicom.dcmread(path)
    reference = pydicom.Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedFrameNumber = image.SOPClassUID, 2
    reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
    shown = pydicom.Dataset()
    shown.ValueType, shown.ReferencedSOPSequence = "IMAGE", [reference]
    region = pydicom.Dataset()
    region.ValueType, region.GraphicType = "SCOORD", "POLYLINE"
    region.GraphicData, region.ContentSequence = [1.0, 2, 5, 2, 5, 8], [shown]
    report = dicom_factory.image_dataset(frames[0], SOPClassUID=uid.EnhancedSRStorage)
    del report.PixelData
    report.SOPInstanceUID, report.ContentSequence = ROOT + "8", [region]
    dicom_factory.save(report, raw / "sr.dcm")
    source = opened("spots", raw)
    records = list(source.scan(Ledger()))
    assert [r.key for r in records] == [f"cine/frame_{n:04d}" for n in (1, 2, 3)]
    assert [len(r.boxes) for r in records] == [0, 1, 0] and len({r.group for r in records}) == 1
    assert [int(source.read(r).pixels[-1, -1]) for r in records] == [10, 60, 200]


def test_a_folder_without_any_region_says_what_is_missing(tmp_path):
    series(tmp_path / "raw", "PA")
    with pytest.raises(DescryError, match="no report, structure set or segmentation has a region"):
        list(opened("spots", tmp_path / "raw", layout="dicom").scan(Ledger()))


def test_without_a_patient_id_a_study_keeps_its_slices_together(tmp_path):
    told = [{}, {"InstanceNumber": 2}, {"StudyInstanceUID": ROOT + "99"}, {"PatientID": "P"}]
    paths = [
        dicom_factory.write(tmp_path / f"{n}.dcm", np.zeros(SIDE, np.uint8), **more)
        for n, more in enumerate(told)
    ]
    first, second, other_study, named = map(patient_of, paths)
    assert first == second and len({first, other_study, named}) == 3

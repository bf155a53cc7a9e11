import subprocess
from dataclasses import replace

import highdicom as hd
import numpy as np
import pydicom
import pytest
from object_factory import FOUND, MAKER, MARK, ROOT, errors_of, program, source
from predict_factory import spot
from pydicom import uid
from pydicom.sr._concepts_dict import concepts
from pydicom.uid import UID

from pipeline.dicom.errors import DicomError
from pipeline.dicom.write import codes
from pipeline.dicom.write.maker import Findings, Region, outline
from pipeline.dicom.write.sr import write_report

STACK = np.stack([spot()] * 3)
MULTI_FRAME = {"SOPClassUID": uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sr")
    write_report(folder / "a.dcm", source(folder / "image", PixelSpacing=[1, 1]), FOUND, MAKER)
    return folder / "a.dcm"


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sr")
    write_report(folder / "a.dcm", source(folder / "image"), Findings(()), MAKER)
    return folder / "a.dcm"


def groups_of(path):
    return hd.sr.srread(path).content.get_planar_roi_measurement_groups()


def test_highdicom_reads_the_boxes_back(report):
    groups = groups_of(report)
    corners = [group.roi.value.tolist() for group in groups]
    left, top, right, bottom = 10.25, 2.5, 40.75, 22.57
    np.testing.assert_allclose(
        corners[0],
        [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]],
        atol=1e-5,  # coordinates are stored with 32 bits
    )
    assert corners[1] == [[0, 0], [50, 0], [50, 40], [0, 40], [0, 0]]
    assert [g.tracking_identifier for g in groups] == ["Lung Opacity 1", "glioma 2"]
    assert [g.finding_type.meaning for g in groups] == ["Opacity", "glioma"]
    assert [g.get_measurements()[0].value for g in groups] == [97.302, 50]
    assert len({g.tracking_uid for g in groups}) == 2


def test_rows_that_tid_1500_requires(report):
    """PS3.16 TID 1500, 1001, 1501, 1410, 4019, read without the library that wrote them."""
    root = pydicom.dcmread(report)
    (template,) = root.ContentTemplateSequence
    assert (template.MappingResource, template.TemplateIdentifier) == ("DCMR", "1500")
    assert (root.ValueType, _name(root)) == ("CONTAINER", "126000")
    rows = {_name(item): item for item in root.ContentSequence}
    assert _code(rows["121049"]) == "en-US"  # language
    assert _code(rows["121005"]) == "121007"  # observer type: device
    assert UID(rows["121012"].UID).is_valid and rows["121013"].TextValue == "descry"
    assert _code(rows["121058"]) == "363679005"  # procedure reported
    groups = rows["126010"].ContentSequence  # imaging measurements
    assert [_name(group) for group in groups] == ["125007", "125007"]
    first = {_name(item): item for item in groups[0].ContentSequence}
    assert first["112039"].TextValue == "Lung Opacity 1"  # tracking identifier and its UID
    assert UID(first["112040"].UID).is_valid
    assert _code(first["121071"]) == "112001"  # finding
    assert (first["111001"].TextValue, first["111003"].TextValue) == ("descry", "1.2")
    region = first["111030"]
    assert (region.ValueType, region.GraphicType, region.RelationshipType) == (
        "SCOORD", "POLYLINE", "CONTAINS",
    )  # fmt: skip
    (image,) = region.ContentSequence
    assert (image.ValueType, image.RelationshipType) == ("IMAGE", "SELECTED FROM")
    (reference,) = image.ReferencedSOPSequence
    assert reference.ReferencedSOPInstanceUID == ROOT + "1"
    assert "ReferencedFrameNumber" not in reference
    (value,) = first["111012"].MeasuredValueSequence
    assert (str(value.NumericValue), value.MeasurementUnitsCodeSequence[0].CodeValue) == (
        "97.302", "%",
    )  # fmt: skip


def _name(item):
    return item.ConceptNameCodeSequence[0].CodeValue


def _code(item):
    return item.ConceptCodeSequence[0].CodeValue


def test_what_the_document_is(report):
    document = pydicom.dcmread(report)
    assert document.SOPClassUID == uid.ComprehensiveSRStorage
    assert (document.CompletionFlag, document.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert document.PreliminaryFlag == "PRELIMINARY"
    assert document.SeriesDescription == MARK
    assert [i.TextValue for i in document.ContentSequence if _name(i) == "121106"] == [MARK]
    parameters = [
        item.TextValue
        for item in document.ContentSequence[-2].ContentSequence[0].ContentSequence
        if _name(item) == "111002"
    ]
    assert f"checkpoint sha256 {'ab' * 32}" in parameters
    assert "lowest scores: Lung Opacity 0.25, glioma 0.5" in parameters
    (study,) = document.CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == document.StudyInstanceUID == ROOT + "2"
    assert study.ReferencedSeriesSequence[0].SeriesInstanceUID == ROOT + "3"
    assert (document.PatientID, document.StudyDate) == ("", "")
    assert document.PatientName == "Anonymous"
    assert (document.ContentDate, document.ContentTime) == ("19000101", "000000")


def test_nothing_found_says_so_for_each_class(empty):
    content = hd.sr.srread(empty).content
    groups = content.get_image_measurement_groups()
    assert [g.tracking_identifier for g in groups] == ["no Lung Opacity", "no glioma"]
    for group in groups:
        (evaluation,) = group.get_qualitative_evaluations()
        assert (evaluation.name.value, evaluation.value.value) == ("121052", "121054")  # absent
        (image,) = group.source_images
        assert image.referenced_sop_instance_uid == ROOT + "1"
    assert groups_of(empty) == []


def test_a_region_names_the_frame_of_a_multi_frame_image(tmp_path):
    findings = Findings((Region(2, (1, 2, 3, 4), "glioma", 0.75),))
    image = source(tmp_path / "image", STACK, 3, **MULTI_FRAME)
    write_report(tmp_path / "a.dcm", image, findings, MAKER)
    (group,) = groups_of(tmp_path / "a.dcm")
    (region,) = (i for i in group[0].ContentSequence if i.ValueType == "SCOORD")
    assert region.ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber == 3
    assert errors_of(tmp_path / "a.dcm") == []


def test_other_programs_accept_the_documents(report, empty):
    dump = program("dsrdump", "dcmtk")
    for path in (report, empty):
        said = subprocess.run([dump, path], capture_output=True, text=True)
        # dcmtk holds no tables to check the letters of UTF-8 by, and says so.
        complaints = [x for x in said.stderr.splitlines() if "ISO_IR 192" not in x]
        assert (said.returncode, complaints) == (0, [])
        assert '"Measurement Group"' in said.stdout
        assert errors_of(path) == []


def test_uids_follow_the_content(tmp_path):
    image = source(tmp_path / "image")

    def written(findings, maker):
        write_report(tmp_path / "a.dcm", image, findings, maker)
        document = pydicom.dcmread(tmp_path / "a.dcm")
        tracking = [group.tracking_uid for group in groups_of(tmp_path / "a.dcm")]
        bits = (tmp_path / "a.dcm").read_bytes()
        return bits, document.SOPInstanceUID, document.SeriesInstanceUID, tracking

    first, again = written(FOUND, MAKER), written(FOUND, MAKER)
    assert first == again
    fewer = written(Findings(FOUND.regions[:1]), MAKER)
    assert fewer[1] != first[1] and fewer[2:] == (first[2], first[3][:1])
    other = written(FOUND, replace(MAKER, sha256="cd" * 32))
    assert not {other[1], other[2], *other[3]} & {first[1], first[2], *first[3]}


def test_boxes_never_reach_beyond_the_image():
    # Rounded, 10.01 + 39.995 may be 50.01 in an image of 50 columns.
    corners = outline(Region(0, (10.01, 0.0, 40.0, 40.01), "x", 0.5), 40, 50)
    assert corners.max(axis=0).tolist() == [50, 40]


def test_codes_are_those_of_the_standard():
    known = [*codes._CLASSES.values(), codes.IMAGING_PROCEDURE, codes.CERTAINTY, codes.COMMENT]
    for code in (*known, codes.PRESENCE, codes.ABSENT, codes.SOURCE_IMAGE, codes.PERCENT):
        listed = [
            entry[code.value][0]
            for entry in concepts[code.scheme_designator].values()
            if code.value in entry
        ]
        assert code.meaning in listed, code
    private = codes.concept_of("a class with a long name")
    assert (private.scheme_designator, private.meaning) == ("99DESCRY", "a class with a long name")
    assert len(private.value) <= 16
    assert private.value != codes.concept_of("a class with a long nose").value


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"StudyInstanceUID": ""}, "StudyInstanceUID is missing"),
        ({"SeriesInstanceUID": "9.9.1"}, "SeriesInstanceUID is not a valid UID"),
        ({"SOPClassUID": "1.2.3"}, "the SOP class is missing or unknown"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.6"}, "is a retired SOP class"),
        ({"SOPClassUID": uid.CTImageStorage, "frames": 3}, "it has several frames"),
    ],
)
def test_what_cannot_be_referred_to_has_a_reason(tmp_path, elements, reason):
    frames = elements.pop("frames", None)
    with pytest.raises(DicomError, match=reason):
        source(tmp_path / "a", STACK if frames else None, frames, **elements)

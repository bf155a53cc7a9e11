"""What is copied out of a header is exact, or it is left out and that is told."""

import json
from pathlib import Path

import highdicom as hd
import pydicom
import pytest
from dicom_factory import image_dataset, save
from hypothesis import given
from hypothesis import strategies as st
from predict_factory import BrightSpots, rows_of, spot
from pydicom.data import get_testdata_file
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from pipeline.dicom.pseudonym import Pseudonyms
from pipeline.dicom.read.header import read_header
from pipeline.dicom.read.values import exact_text
from pipeline.dicom.write import codes
from pipeline.dicom.write.source import COPIED, describe, wanted_elements
from pipeline.predict.options import Objects, Options
from pipeline.predict.run import predict_folder

KEY = b"a key of sixteen bytes or more"
# An element of each text representation, and what its multiplicity allows at most.
OF_EACH = {
    "AE": "RetrieveAETitle", "AS": "PatientAge", "CS": "Modality", "DA": "StudyDate",
    "DS": "PatientWeight", "DT": "AcquisitionDateTime", "IS": "InstanceNumber",
    "LO": "PatientID", "LT": "AdditionalPatientHistory", "PN": "PatientName",
    "SH": "AccessionNumber", "ST": "InstitutionAddress", "TM": "StudyTime",
    "UC": "LongCodeValue", "UI": "StudyInstanceUID", "UR": "RetrieveURL", "UT": "LabelText",
}  # fmt: skip
UNDIVIDED = ("LT", "ST", "UR", "UT")


def holding(keyword, content, charset=None):
    """A data set with an element of these bytes, as a file would give it."""
    dataset = Dataset()
    if charset is not None:
        dataset.SpecificCharacterSet = charset
    tag = Tag(tag_for_keyword(keyword))
    dataset[tag] = RawDataElement(tag, None, len(content), content, 0, True, True)
    return dataset


@given(
    vr=st.sampled_from(sorted(OF_EACH)),
    parts=st.lists(st.text(st.characters(max_codepoint=0x2FF, codec="utf-8"), max_size=9)),
    charset=st.sampled_from([None, "ISO_IR 6", "ISO_IR 100", "ISO_IR 192", "ISO_IR 9"]),
    stored=st.sampled_from(["ascii", "latin_1", "utf-8"]),
)
def test_a_text_is_exact_or_left_out(vr, parts, charset, stored):
    content = "\\".join(parts).encode(stored, "ignore")
    found = exact_text(holding(OF_EACH[vr], content, charset), OF_EACH[vr])
    if found is None:
        return
    assert vr in UNDIVIDED or "\\" not in found
    codec = {"ISO_IR 100": "latin_1", "ISO_IR 192": "utf-8"}.get(charset, "ascii")
    assert found.encode(codec) == content.rstrip(b"\0 ")
    assert codec == stored or found.isascii()


@given(
    vr=st.sampled_from(["LO", "LT", "PN", "SH", "ST", "UC", "UT"]),
    text=st.text(st.characters(categories=["L", "N"]), max_size=16),
)
def test_what_is_well_formed_is_kept(vr, text):
    content = text.encode()
    assert exact_text(holding(OF_EACH[vr], content, "ISO_IR 192"), OF_EACH[vr]) == text


@pytest.mark.parametrize(
    ("charset", "stored", "text"),
    [
        (None, b"Ada", "Ada"),
        (None, "Müller".encode(), None),  # UTF-8 without a character set
        (None, "Müller".encode("latin_1"), None),  # and Latin-1
        ("", "Müller".encode("latin_1"), None),
        ("ISO_IR 100", "Müller".encode("latin_1"), "Müller"),
        ("ISO_IR 100", "Müller".encode(), None),  # UTF-8 under another name
        ("ISO_IR 144", "Люкceмбypг".encode("iso8859_5"), "Люкceмбypг"),
        ("ISO_IR 144", "Люкceмбypг".encode(), None),
        ("ISO_IR 192", "Müller^Ærik".encode(), "Müller^Ærik"),
        ("ISO_IR 192", "Müller".encode("latin_1"), None),
        ("GB18030", "王^小东".encode("gb18030"), "王^小东"),
        ("GB18030", "王^小东".encode(), None),
        ("ISO_IR 999", b"Ada", "Ada"),  # letters of ASCII are the same in all of them
        ("ISO_IR 999", "Müller".encode(), None),
        # PS3.5 H.3.1 and I.2: character sets that are changed within the name
        (
            ["", "ISO 2022 IR 87"],
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B",
            "Yamada^Tarou=山田^太郎",
        ),
        (
            ["", "ISO 2022 IR 149"],
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7",
            "Hong^Gildong=洪^吉洞",
        ),
        (["", "ISO 2022 IR 87"], b"\x1b$B;", None),
        ("ISO_IR 100", b"Ada\x07", None),
        ("ISO_IR 100", b"Ada\x92s", None),  # a quotation mark of Windows
        ("ISO_IR 100", b"Ada\\Eva", None),
        (None, b"A=B=C=D", None),  # one more than the component groups that there are
        (None, b"  Ada^ \0 ", "  Ada^"),
    ],
)
def test_names_by_character_set(charset, stored, text):
    assert exact_text(holding("PatientName", stored, charset), "PatientName") == text


def test_what_is_absent_or_empty_is_empty(tmp_path):
    """pydicom converts empty elements at once, when it skips others."""
    bundled = get_testdata_file("MR_small_implicit.dcm", download=False)
    dataset = read_header(Path(bundled), COPIED).dataset
    found = {keyword: exact_text(dataset, keyword) for keyword in COPIED}
    assert found["PatientName"] == "CompressedSamples^MR1"
    assert found["PatientBirthDate"] == found["AccessionNumber"] == found["StudyDescription"] == ""
    assert None not in found.values()


def test_what_was_looked_at_before_is_left_out(tmp_path):
    dataset = holding("PatientID", b"12\\34")
    assert dataset.PatientID == ["12", "34"]
    assert exact_text(dataset, "PatientID") is None


HEADERS = {
    "PatientID": (b"12\\34", ""),
    "PatientName": (b"Winter\\Green", ""),
    "AccessionNumber": (b"A\\1", ""),
    "StudyDescription": (b"Thorax\\pa", None),
    "StudyID": (b"S1", "S1"),
    "IssuerOfPatientID": (b"St. Else\\where", None),
    "ReferringPhysicianName": ("Lëa^Moß".encode(), ""),
}


def folder_of(folder):
    """One picture whose header holds `HEADERS`, without a character set."""
    folder.mkdir()
    dataset = image_dataset(spot())
    for keyword, (stored, _) in HEADERS.items():
        dataset.update(holding(keyword, stored))
    save(dataset, folder / "a")
    assert exact_text(read_header(folder / "a", ["StudyID"]).dataset, "StudyID") == "S1"
    return folder


@pytest.mark.parametrize("chosen", [{"copy_patient": True}, {"key": KEY}], ids=["copied", "keyed"])
def test_no_object_holds_a_value_that_the_header_does_not(tmp_path, chosen):
    copy = "copy_patient" in chosen
    objects = Objects(kinds=("sr", "gsps", "sc", "seg"), copy_patient=copy)
    options = Options(workers=0, objects=objects, key=chosen.get("key"))
    predict_folder(
        folder_of(tmp_path / "in"), tmp_path / "out", BrightSpots(masked=True), options=options
    )
    for kind in ("sr", "gsps", "sc", "seg"):
        (path,) = (tmp_path / "out" / kind).iterdir()
        written = pydicom.dcmread(path)
        found = {keyword: written.get(keyword) for keyword in HEADERS if keyword in written}
        if copy:
            assert found == {k: text for k, (_, text) in HEADERS.items() if text is not None}
        else:
            assert (found["PatientID"], found["PatientName"]) == ("", "Anonymous")
    (row,) = rows_of(tmp_path / "out" / "warnings.csv")
    left = [k for k in COPIED if k in HEADERS and not HEADERS[k][1]] if copy else ["PatientID"]
    assert row["message"] == f"the header gives no exact value: {', '.join(left)}"
    said = json.loads((tmp_path / "out" / "run.json").read_text())
    assert said["counts"]["warnings"] == {"patient not copied in full": 1}


def test_a_pseudonym_is_that_of_the_whole_patient_id(tmp_path):
    path = save(image_dataset(spot(), PatientID="12 34"), tmp_path / "a")
    header = read_header(path, wanted_elements(False, True))
    source = describe(header, copy_patient=False, pseudonyms=Pseudonyms(KEY))
    assert source.reference.PatientID == Pseudonyms(KEY).text("patient", "12 34")


def test_several_values_of_one_element_are_shown_apart(tmp_path):
    header = read_header(save(image_dataset(spot(), Modality=["CR", "DX"]), tmp_path / "a"))
    assert header.text("Modality") == "CR\\DX"


def test_a_class_name_with_a_backslash_is_one_value():
    concept = codes.concept_of("mass\\lump")
    assert isinstance(concept, hd.sr.CodedConcept)
    assert concept.meaning == "mass/lump" and "\\" not in concept.value

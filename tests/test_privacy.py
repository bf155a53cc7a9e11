"""Recognisable identifiers go in everywhere; they are looked for in every byte that comes out."""

import json
import logging
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from dicom_factory import image_dataset, save
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from predict_factory import BrightSpots, content, rows_of, spot
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.dicom.pseudonym import Pseudonyms
from pipeline.errors import DescryError
from pipeline.predict.options import Objects, Options, read_key
from pipeline.predict.run import predict_folder, survey
from pipeline.predict.select import Filters

SECRETS = {
    "PatientName": "Wintergreen^Ada",
    "PatientID": "QX4711",
    "PatientBirthDate": "19321105",
    "PatientSex": "O",
    "PatientAddress": "7 Larkspur Lane",
    "OtherPatientIDs": "ZZ889",
    "IssuerOfPatientID": "ISSUER77",
    "InstitutionName": "Saint Elsewhere",
    "ReferringPhysicianName": "Hyacinth^Bo",
    "OperatorsName": "Foxglove^Cy",
    "AccessionNumber": "ACC5566",
    "StudyDate": "20230714",
    "StudyTime": "134501",
    "AcquisitionDate": "20230714",
    "StudyDescription": "thorax of Wintergreen",
    "SeriesDescription": "Wintergreen pa",
    "ProtocolName": "QX4711 protocol",
    "ImageComments": "seen by Hyacinth",
    "PatientComments": "lives in Larkspur Lane",
    "DeviceSerialNumber": "SN12399",
    "StationName": "ROOM12",
    "StudyID": "ST-90210",
    "BodyPartExamined": "WINTERGREENCHEST",
    "ViewPosition": "QX4711",
    "InstanceNumber": 19321105,
}
WORDS = [
    "wintergreen", "qx4711", "19321105", "1932-11-05", "larkspur", "zz889", "issuer77",
    "elsewhere", "hyacinth", "foxglove", "acc5566", "20230714", "2023-07-14", "134501",
    "sn12399", "room12", "90210", "bellflower",
]  # fmt: skip
KEY = b"a key of sixteen bytes or more"
EVERYTHING = Objects(kinds=("sr", "gsps", "sc", "seg"))
UIDS = {"SOPInstanceUID": "1.2.840.4711.1", "StudyInstanceUID": "1.2.840.4711.2",
        "SeriesInstanceUID": "1.2.840.4711.3"}  # fmt: skip


def secret_dataset(pixels=None, **elements):
    """A picture whose header is full of identifiers, in private elements too."""
    values = {**SECRETS, **UIDS, "Modality": "CR", "PixelSpacing": [1, 1], **elements}
    dataset = image_dataset(spot() if pixels is None else pixels, **values)
    private = dataset.private_block(0x0011, "BELLFLOWER", create=True)
    private.add_new(1, "LO", "Bellflower QX4711")
    return dataset


def input_folder(folder):
    """Good, damaged and odd files, under names that say nothing."""
    folder.mkdir()
    save(secret_dataset(), folder / "good")
    save(secret_dataset(BurnedInAnnotation="YES"), folder / "text")
    cut = save(secret_dataset(), folder / "cut")
    cut.write_bytes(cut.read_bytes()[:-50])
    save(secret_dataset(PhotometricInterpretation="QX4711"), folder / "odd")
    swap = save(secret_dataset(SOPInstanceUID="1.2.3"), folder / "uid")
    swap.write_bytes(swap.read_bytes().replace(b"1.2.3\0", b"QX4711"))
    save(secret_dataset(Modality="QX4711", SOPInstanceUID="1.2.840.4711.9"), folder / "mod")
    info = PngInfo()
    info.add_text("Author", "Wintergreen")
    Image.fromarray(spot()).save(folder / "p.png", pnginfo=info)
    return folder


def found_in(folder, words):
    """Which words occur in a name or a byte of any file."""
    return [
        (word, path)
        for path, data in content(folder).items()
        for word in words
        if word.encode() in (path.encode() + b"\n" + data).lower()
    ]


@dataclass
class Stops(BrightSpots):
    """Is interrupted at its second batch, once something of the first is written."""

    partial: Path = Path()

    def detect(self, images):
        if self.calls:
            end = time.monotonic() + 60
            while not any(self.partial.glob("overlays/*")) and time.monotonic() < end:
                time.sleep(0.01)  # drawn by another thread
            raise KeyboardInterrupt
        return super().detect(images)


def test_no_identifier_leaves_the_headers(tmp_path, caplog, capfd):
    folder = input_folder(tmp_path / "in")
    caplog.set_level(logging.DEBUG)
    detector = BrightSpots(meta={"modality": "DX"}, masked=True)
    whole = Options(workers=1, overlays="all", objects=EVERYTHING)
    filtered = Options(workers=1, filters=Filters(view=("ap",)))
    for name, options in (("all", whole), ("few", filtered)):
        predict_folder(folder, tmp_path / name, detector, options=options)
        list(survey(folder, tmp_path / name, detector, options))
        assert found_in(tmp_path / name, WORDS) == []
    seen = (caplog.text + "".join(capfd.readouterr())).lower()
    assert not [word for word in WORDS if word in seen]
    counts = json.loads((tmp_path / "all" / "run.json").read_text())["counts"]
    assert (counts["processed"], counts["failed"]) == (5, 2)
    assert counts["dicom_objects"] == {"sr": 3, "gsps": 3, "sc": 3, "seg": 3}
    warned = {row["path"]: row["message"] for row in rows_of(tmp_path / "all" / "warnings.csv")}
    assert warned["uid"] == "SOPInstanceUID is not a valid UID"
    assert warned["p.png"] == "an ordinary image has no UIDs to refer to"
    assert counts["warnings"]["burned-in annotation"] == 1


def test_a_run_that_was_stopped_leaves_nothing_either(tmp_path):
    folder = input_folder(tmp_path / "in")
    options = Options(workers=0, batch_size=2, objects=EVERYTHING, key=KEY)
    partial = tmp_path / "out.partial"
    with pytest.raises(KeyboardInterrupt):
        predict_folder(
            folder, tmp_path / "out", Stops(masked=True, partial=partial), options=options
        )
    assert list((partial / "overlays").iterdir())
    assert found_in(partial, [*WORDS, "1.2.840.4711", '"good"', KEY.decode()]) == []


def named_folder(folder):
    """Identifiers in names of folders, files and members of archives, too."""
    (folder / "Wintergreen_Ada").mkdir(parents=True)
    save(secret_dataset(), folder / "Wintergreen_Ada" / "QX4711.dcm")
    text = secret_dataset(BurnedInAnnotation="YES", SOPInstanceUID="1.2.840.4711.8")
    save(text, folder / "Hyacinth.dcm")
    (folder / "larkspur.dcm").write_bytes(b"broken")
    (folder / "foxglove.txt").write_bytes(b"none")
    Image.fromarray(spot()).save(folder / "bellflower.png")
    with zipfile.ZipFile(folder / "elsewhere.zip", "w") as archive:
        archive.write(folder / "bellflower.png", "room12/hyacinth.png")
    return folder


def test_under_pseudonyms_neither_paths_nor_uids_come_out(tmp_path, caplog, capfd):
    folder = named_folder(tmp_path / "in")
    caplog.set_level(logging.DEBUG)
    options = Options(workers=1, objects=EVERYTHING, key=KEY)
    predict_folder(folder, tmp_path / "out", BrightSpots(masked=True), options=options)
    assert found_in(tmp_path / "out", [*WORDS, "1.2.840.4711", "hyacinth", KEY.decode()]) == []
    seen = (caplog.text + "".join(capfd.readouterr())).lower()
    assert not [word for word in [*WORDS, "1.2.840.4711"] if word in seen]
    counts = json.loads((tmp_path / "out" / "run.json").read_text())["counts"]
    assert (counts["processed"], counts["detections"]) == (4, 4)


def test_pseudonyms_are_the_same_everywhere_and_under_the_same_key(tmp_path):
    folder = named_folder(tmp_path / "in")

    def run(name, key):
        options = Options(workers=0, objects=EVERYTHING, key=key)
        predict_folder(folder, tmp_path / name, BrightSpots(masked=True), options=options)
        return content(tmp_path / name)

    assert run("one", KEY) == run("two", KEY)
    names = Pseudonyms(KEY)
    rows = {row["path"]: row for row in rows_of(tmp_path / "one" / "detections.csv")}
    row = rows[names.text("path", "Wintergreen_Ada/QX4711.dcm")]
    assert row["study_instance_uid"] == names.uid("1.2.840.4711.2")
    assert row["study_instance_uid"].startswith("2.25.")
    assert row["overlay"].endswith(f"-{row['sop_instance_uid']}.png")
    (report,) = (tmp_path / "one" / "sr").glob(f"*-{row['sop_instance_uid']}.dcm")
    document = pydicom.dcmread(report)
    assert document.StudyInstanceUID == row["study_instance_uid"]
    assert document.PatientID == names.text("patient", "QX4711")
    assert document.StudyDate == ""
    run("other", b"another key of sixteen bytes")
    shared = {"path", "study_instance_uid", "series_instance_uid", "sop_instance_uid"}
    known = {row[key] for row in rows.values() for key in shared} - {""}
    others = rows_of(tmp_path / "other" / "detections.csv")
    assert not known & {row[key] for row in others for key in shared}


def test_no_picture_of_text_is_shown_under_pseudonyms(tmp_path):
    folder = named_folder(tmp_path / "in")
    options = Options(workers=0, overlays="all", objects=EVERYTHING, key=KEY)
    predict_folder(folder, tmp_path / "out", BrightSpots(masked=True), options=options)
    hidden = Pseudonyms(KEY).text("path", "Hyacinth.dcm")
    (row,) = (r for r in rows_of(tmp_path / "out" / "detections.csv") if r["path"] == hidden)
    assert row["overlay"] == ""
    drawn = {p.stem for p in (tmp_path / "out" / "overlays").iterdir()}
    assert len(drawn) == 3
    assert {p.stem for p in (tmp_path / "out" / "report" / "thumbnails").iterdir()} == drawn
    assert len(list((tmp_path / "out" / "sc").iterdir())) == 1


def test_the_patient_is_copied_only_when_asked_for_and_only_into_dicom(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    name = "Wintergrün^Ada"
    extra = {"PatientName": name, "SpecificCharacterSet": "ISO_IR 100"}
    save(secret_dataset(**extra), folder / "a")
    copy = Objects(kinds=("sr", "gsps", "sc"), copy_patient=True, content_date="20261121")
    options = Options(workers=0, objects=copy)
    predict_folder(folder, tmp_path / "out", BrightSpots(masked=True), options=options)
    for kind in ("sr", "gsps", "sc"):
        (path,) = (tmp_path / "out" / kind).iterdir()
        dataset = pydicom.dcmread(path)
        assert (dataset.PatientName, dataset.PatientID) == (name, "QX4711")
        assert (dataset.AccessionNumber, dataset.StudyDate) == ("ACC5566", "20230714")
        assert dataset.PatientBirthDate == "19321105"
        date = "PresentationCreationDate" if kind == "gsps" else "ContentDate"
        assert dataset[date].value == "20261121"
        path.unlink()
    assert found_in(tmp_path / "out", [*WORDS, "wintergr"]) == []


def test_malformed_patient_data_is_left_out_and_told(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    path = save(secret_dataset(PatientSex="F"), folder / "a")
    data = path.read_bytes().replace(b"19321105", b"5/11/32 ").replace(b"CS\x02\0F ", b"CS\x02\0f?")
    path.write_bytes(data)
    options = Options(workers=0, objects=Objects(kinds=("sr",), copy_patient=True))
    predict_folder(folder, tmp_path / "out", BrightSpots(masked=True), options=options)
    (row,) = rows_of(tmp_path / "out" / "warnings.csv")
    assert row["message"] == "the header gives no exact value: PatientBirthDate, PatientSex"
    (report,) = (tmp_path / "out" / "sr").iterdir()
    dataset = pydicom.dcmread(report)
    assert (dataset.PatientBirthDate, dataset.PatientSex) == ("", "")
    assert dataset.PatientName == "Wintergreen^Ada"


def test_where_the_key_comes_from(tmp_path, monkeypatch):
    monkeypatch.delenv("DESCRY_PSEUDONYM_KEY", raising=False)
    with pytest.raises(DescryError, match="DESCRY_PSEUDONYM_KEY holds none; give --key-file"):
        read_key(None)
    monkeypatch.setenv("DESCRY_PSEUDONYM_KEY", "too short")
    with pytest.raises(DescryError, match="the key has 9 bytes, 16 are needed"):
        read_key(None)
    monkeypatch.setenv("DESCRY_PSEUDONYM_KEY", " a key of sixteen bytes or more\n")
    assert read_key(None) == KEY
    (tmp_path / "key").write_bytes(b"0123456789abcdef\n")
    assert read_key(tmp_path / "key") == b"0123456789abcdef"  # goes before the environment
    with pytest.raises(DescryError, match="No such file"):
        read_key(tmp_path / "nowhere")
    assert "sixteen" not in repr(Options(key=KEY))


def test_the_command_line_makes_the_options(tmp_path, monkeypatch):
    made = []

    def predict(source, out, checkpoint, options, *rest):
        made.append(options)
        return dict.fromkeys(("files", "processed", "skipped", "failed", "frames", "detections")), 0

    monkeypatch.setattr("pipeline.stages.predict.predict", predict)
    monkeypatch.chdir(tmp_path)
    Path("key").write_bytes(KEY)
    Path("in").mkdir()
    Path("model.safetensors").touch()
    call = ["predict", "in", "-o", "out", "--checkpoint", "model.safetensors", "--sr", "--sc"]
    hidden = [*call, "--pseudonymise", "--key-file", "key"]
    named = [*call, "--gsps", "--copy-patient", "--content-date", "20261121"]
    for arguments in (call, hidden, named):
        assert CliRunner().invoke(app, arguments).exit_code == 0
    assert [(o.objects, o.key) for o in made] == [
        (Objects(kinds=("sr", "sc")), None),
        (Objects(kinds=("sr", "sc")), KEY),
        (Objects(kinds=("sr", "gsps", "sc"), copy_patient=True, content_date="20261121"), None),
    ]


def test_options_that_contradict_each_other():
    for wrong, message in (
        ({"objects": Objects(kinds=("sr",), copy_patient=True), "key": KEY}, "exclude each other"),
        ({"objects": Objects(kinds=("sc",)), "overlays": "none"}, "--sc stores the overlays"),
        ({"objects": Objects(copy_patient=True)}, "--copy-patient: goes with"),
        ({"objects": Objects(content_date="20261332")}, "a day as YYYYMMDD"),
    ):
        with pytest.raises(DescryError, match=message):
            Options(**wrong)


def test_pseudonyms_by_hand():
    names = Pseudonyms(b"k" * 16)
    # echo -n path:a/b | openssl dgst -sha256 -hmac kkkkkkkkkkkkkkkk
    assert names.text("path", "a/b") == "9ddde03d9419cb551ce2878c053f3038"
    assert names.text("path", "") == names.uid("") == ""
    assert names.text("patient", "a/b") != names.text("path", "a/b")
    assert len(names.uid("1.2.3")) <= 64 and names.uid("1.2.3").is_valid

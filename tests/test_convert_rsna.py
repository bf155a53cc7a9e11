"""RSNA Pneumonia 2018: the committed sample literally, then each quirk and each wrong input."""

import json
import shutil
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from convert_factory import reasons, run, scan_tables, tree
from dicom_factory import image_dataset, save
from PIL import Image
from toy_source import opened

from pipeline.convert.formats.dicom import IMPLAUSIBLE_AGE, describe
from pipeline.convert.records import Ledger, Record, Unreadable
from pipeline.errors import DescryError

DATASETS = Path(__file__).parent.parent / "datasets"
SAMPLE = DATASETS / "rsna" / "sample"
LABELS = "stage_2_train_labels.csv"
INFO = "stage_2_detailed_class_info.csv"
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
HEADER = "patientId,x,y,width,height,Target"
A, B, C = "aaaa-1", "bbbb-2", "cccc-3"


def dicom(path: Path, **elements: object) -> None:
    """An 8 x 8 image; values may break the rules of their VR, as RSNA's ages do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    elements = {"PatientAge": "32", "PatientSex": "F", "ViewPosition": "PA"} | elements
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(image_dataset(pixels, PixelSpacing=[0.2, 0.1], **elements), path)


def make(folder: Path, labels: list[str], info: list[str], images: list[str]) -> Path:
    for name in images:
        dicom(folder / "stage_2_train_images" / f"{name}.dcm")
    (folder / LABELS).write_text("\n".join([HEADER, *labels]) + "\n")
    (folder / INFO).write_text("\n".join(["patientId,class", *info]) + "\n")
    return folder


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """One image with a box, one negative."""
    labels = [f"{A},1.0,2.0,3.0,4.0,1", f"{B},,,,,0"]
    return make(tmp_path / "raw", labels, [f"{A},Lung Opacity", f"{B},Normal"], [A, B])


def append(path: Path, *rows: str) -> None:
    path.write_text(path.read_text() + "".join(f"{row}\n" for row in rows))


def scan(raw: Path, **parameters: object) -> tuple[list[Record], Ledger]:
    return scan_tables("rsna", raw, **parameters)


# --- the committed sample ---------------------------------------------------------------------


def test_sample_counts() -> None:
    records, ledger = scan(SAMPLE)
    assert len(records) == 16
    assert Counter(len(record.boxes) for record in records) == {0: 11, 2: 5}
    assert len({record.group for record in records}) == 16
    assert {box.label for record in records for box in record.boxes} == {"Lung Opacity"}
    assert Counter(record.attributes["finding"] for record in records) == {
        "Lung Opacity": 5,
        "Normal": 4,
        "No Lung Opacity / Not Normal": 7,
    }
    views = [describe(SAMPLE / record.path).attributes["view_position"] for record in records]
    assert Counter(views) == {"PA": 10, "AP": 6}
    assert ledger.rows_read == {LABELS: 21, INFO: 21}
    assert reasons(ledger) == {("row", "class repeated for a further box"): 5}
    assert any(f"{MAPPING} is missing" in note for note in ledger.notes)
    assert opened("rsna", SAMPLE).categories() == [("Lung Opacity", "finding")]


def test_sample_record() -> None:
    record = scan(SAMPLE)[0][4]
    assert record.key == record.group == "00436515-870c-4b36-a041-de91049b9ab4"
    assert record.path == f"stage_2_train_images/{record.key}.dcm"
    assert [(b.x, b.y, b.width, b.height, b.where) for b in record.boxes] == [
        (264.0, 152.0, 213.0, 379.0, f"{LABELS}:6"),
        (562.0, 152.0, 256.0, 453.0, f"{LABELS}:7"),
    ]
    assert record.attributes == {"finding": "Lung Opacity"}
    assert opened("rsna", SAMPLE).read(record).attributes == {
        "view_position": "AP",
        "sex": "F",
        "age": 32,
        "original_pixel_spacing_mm": [0.139, 0.139],
    }


def test_sample_pixels() -> None:
    source = opened("rsna", SAMPLE)
    record = list(source.scan(Ledger()))[4]
    picture = source.read(record)
    assert picture.pixels.shape == (1024, 1024) and picture.pixels.dtype == np.uint8
    assert picture.boxes == record.boxes and not picture.verbatim
    stored = pydicom.dcmread(SAMPLE / record.path).pixel_array  # JPEG Baseline, 8 bits, no window
    assert np.array_equal(picture.pixels, stored)


# --- spellings of the tables ------------------------------------------------------------------

LABEL_TABLES = {
    "original": f"{HEADER}\n{A},1.0,2.0,3.0,4.0,1\n{B},,,,,0\n",
    "semicolons": f"{HEADER}\n{A},1.0,2.0,3.0,4.0,1\n{B},,,,,0\n".replace(",", ";"),
    "decimal commas": f"patientId;x;y;width;height;Target\n{A};1,0;2,0;3,0;4,0;1\n{B};;;;;0\n",
    "crlf": f"{HEADER}\r\n{A},1.0,2.0,3.0,4.0,1\r\n{B},,,,,0\r\n",
    "byte order mark": f"\ufeff{HEADER}\n{A},1.0,2.0,3.0,4.0,1\n{B},,,,,0\n",
    "other order": f"Target,patientId,y,x,height,width\n1,{A},2,1,4,3\n0,{B},,,,\n",
    "further column": f",{HEADER}\n0,{A},1.0,2.0,3.0,4.0,1\n1,{B},,,,,0\n",
    "no newline at the end": f"{HEADER}\n{A},1.0,2.0,3.0,4.0,1\n{B},,,,,0",
    "fractional target": f"{HEADER}\n{A},1.0,2.0,3.0,4.0,1.0\n{B},,,,,0.0\n",
    "case of the header": f"{HEADER.lower()}\n{A},1.0,2.0,3.0,4.0,1\n{B},,,,,0\n",
}


@pytest.mark.parametrize("text", LABEL_TABLES.values(), ids=LABEL_TABLES.keys())
def test_every_spelling_of_the_label_table(two: Path, text: str) -> None:
    (two / LABELS).write_bytes(text.encode())
    records, ledger = scan(two)
    assert [record.key for record in records] == [A, B]
    (box,) = records[0].boxes
    assert (box.x, box.y, box.width, box.height) == (1.0, 2.0, 3.0, 4.0)
    assert records[1].boxes == () and not ledger.drops


def test_class_table_may_be_missing(two: Path) -> None:
    (two / INFO).unlink()
    records, ledger = scan(two)
    assert len(records) == 2 and "finding" not in records[0].attributes
    assert f"{INFO} is missing: images have no attribute 'finding'." in ledger.notes


def test_class_table_that_disagrees_is_noted(two: Path) -> None:
    (two / INFO).write_text(f"patientId,class\n{A},Normal\n{B},Normal\n")
    assert "1 images are 'Lung Opacity' by one table and not by the other." in scan(two)[1].notes


# --- patients ---------------------------------------------------------------------------------


def mapping(*pairs: tuple[str, str]) -> str:
    keys = ("subset_img_id", "img_id")
    return json.dumps([dict(zip(keys, pair, strict=True)) for pair in pairs])


def test_mapping_groups_by_nih_patient(two: Path) -> None:
    (two / MAPPING).write_text(mapping((A, "00000007_000.png"), (B, "00000007_012.png")))
    records, ledger = scan(two)
    assert [record.group for record in records] == ["nih-00000007", "nih-00000007"]
    assert records[1].attributes["nih_image"] == "00000007_012.png"
    assert any("0 images are not in it" in note for note in ledger.notes)


def test_mapping_elsewhere_and_incomplete(two: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(mapping((A, "00000007_000.png"), ("test-image", "00000008_000.png")))
    records, ledger = scan(two, mapping=str(path))
    assert [record.group for record in records] == ["nih-00000007", B]
    assert any("1 images are not in it" in note for note in ledger.notes)


def test_bad_entries_of_the_mapping_are_dropped(two: Path) -> None:
    good = mapping((A, "00000007_000.png"), (A, "00000008_000.png"))
    bad = ', {"img_id": "00000009_000.png"}, 3, {"subset_img_id": "x", "img_id": "y.png"}]'
    (two / MAPPING).write_text(good[:-1] + bad)
    records, ledger = scan(two)
    assert [record.group for record in records] == ["nih-00000007", B]
    assert reasons(ledger) == {
        ("row", "malformed row"): 3,
        ("row", "contradicts an earlier row"): 1,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as JSON"),
        ("patientId,class", "cannot be read as JSON"),
        ("{}", "must be a JSON list"),
        ("[]", "no entry with subset_img_id"),
        ('[{"a": 1}]', "no entry with subset_img_id"),
    ],
)
def test_unusable_mapping(two: Path, text: str, message: str) -> None:
    (two / MAPPING).write_text(text)
    with pytest.raises(DescryError, match=message):
        scan(two)


def test_missing_mapping_that_was_asked_for(two: Path) -> None:
    with pytest.raises(DescryError, match=r"no\.json: cannot be read"):
        scan(two, mapping=str(two / "no.json"))


# --- headers ----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("age", "expected", "odd"),
    [("32", 32, False), ("032Y", 32, False), ("155", None, True), ("", None, False)],
)
def test_ages_cause_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, age: str, expected: int | None, odd: bool
) -> None:
    dicom(tmp_path / "a.dcm", PatientAge=age)
    caplog.clear()  # writing such an age does warn
    found = describe(tmp_path / "a.dcm")
    assert (found.attributes.get("age"), found.odd_age) == (expected, odd)
    assert found.attributes["original_pixel_spacing_mm"] == [0.1, 0.2]  # the header: y, x
    assert not caplog.records


def test_impossible_ages_are_counted(two: Path) -> None:
    dicom(two / "stage_2_train_images" / f"{A}.dcm", PatientAge="155")
    records, _ = scan(two)
    pictures = [opened("rsna", two).read(record) for record in records]
    assert "age" not in pictures[0].attributes
    assert [IMPLAUSIBLE_AGE in picture.notes for picture in pictures] == [True, False]


# --- wrong input ------------------------------------------------------------------------------

BAD_ROWS = {
    "cut in the box": (f"{C},264.0,152.0", "malformed row"),
    "cut in the id": ("cc", "malformed row"),
    "cut before the target": (f"{C},1.0,2.0,3.0,4.0", "malformed row"),
    "empty target": (f"{C},1.0,2.0,3.0,4.0,", "unknown class"),
    "too long": (f"{C},1.0,2.0,3.0,4.0,1,9", "malformed row"),
    "text for a number": (f"{C},1.0,two,3.0,4.0,1", "malformed row"),
    "positive without a box": (f"{C},,,,,1", "malformed row"),
    "negative with a box": (f"{C},1.0,2.0,3.0,4.0,0", "malformed row"),
    "unknown class": (f"{C},1.0,2.0,3.0,4.0,2", "unknown class"),
    "no id": (",1.0,2.0,3.0,4.0,1", "malformed row"),
    "path for an id": ("../../etc/x,1.0,2.0,3.0,4.0,1", "malformed row"),
    "image missing": (f"{C},1.0,2.0,3.0,4.0,1", "annotation without image"),
    "negative, image missing": (f"{C},,,,,0", "annotation without image"),
    "repeated box": (f"{A},1,2,3,4.00,1", "repeated row"),
    "repeated negative": (f"{B},,,,,0", "repeated row"),
    "repeated negative, as pandas writes it": (f"{B},NaN,NaN,NaN,NaN,0", "repeated row"),
    "positive of NaN": (f"{C},NaN,NaN,NaN,NaN,1", "malformed row"),
    "negative beside a box": (f"{A},,,,,0", "row without a box contradicts another row"),
}


def test_a_negative_whose_empty_cells_pandas_wrote_as_nan(two: Path) -> None:
    text = (two / LABELS).read_text()
    (two / LABELS).write_text(text.replace(f"{B},,,,,0", f"{B},NaN,NaN,NaN,NaN,0"))
    records, ledger = scan(two)
    assert [len(record.boxes) for record in records] == [1, 0] and ledger.drops == []


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_bad_label_row_is_dropped_with_its_reason(two: Path, row: str, reason: str) -> None:
    append(two / LABELS, row)
    records, ledger = scan(two)
    assert [len(record.boxes) for record in records] == [1, 0]
    assert reasons(ledger) == {("row", reason): 1}
    assert ledger.drops[0].where == f"{LABELS}:4" and ledger.drops[0].detail


def test_image_of_which_a_row_is_refused_is_no_negative(two: Path) -> None:
    append(two / LABELS, f"{B},1.0,two,3.0,4.0,1")
    records, ledger = scan(two)
    assert [record.key for record in records] == [A]
    assert reasons(ledger) == {
        ("row", "malformed row"): 1,
        ("row", "row without a box contradicts another row"): 1,
        ("image", "all rows of the image were dropped"): 1,
        ("row", "class of an image that is not used"): 1,
    }


BAD_CLASSES = {
    "cut": (A, "malformed row"),
    "unknown class": (f"{A},Fracture", "unknown class"),
    "of no image": (f"{C},Normal", "class of an image that is not used"),
    "repeated": (f"{A},Lung Opacity", "class repeated for a further box"),
    "contradictory": (f"{A},Normal", "contradicts an earlier row"),
}


@pytest.mark.parametrize(("row", "reason"), BAD_CLASSES.values(), ids=BAD_CLASSES.keys())
def test_bad_class_row_is_dropped_with_its_reason(two: Path, row: str, reason: str) -> None:
    append(two / INFO, row)
    records, ledger = scan(two)
    assert [r.attributes["finding"] for r in records] == ["Lung Opacity", "Normal"]
    assert reasons(ledger) == {("row", reason): 1}
    assert ledger.drops[0].where == f"{INFO}:4"


def test_truncated_label_table_is_counted_and_named(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(SAMPLE, raw)
    text = (raw / LABELS).read_text()
    (raw / LABELS).write_text(text[: text.index("00c0b293") + 50])  # in the middle of a row
    records, ledger = scan(raw)
    assert len(records) == 13
    assert reasons(ledger) == {
        ("row", "malformed row"): 1,
        ("row", "class of an image that is not used"): 5,
        ("row", "class repeated for a further box"): 3,
        ("image", "image without annotation"): 2,
        ("image", "all rows of the image were dropped"): 1,
    }
    assert any("has 17 rows, the complete table 30227" in note for note in ledger.notes)


def test_test_images_are_listed_and_not_converted(two: Path) -> None:
    dicom(two / "stage_2_test_images" / f"{C}.dcm")
    (two / "stage_2_sample_submission.csv").write_text(f"patientId,PredictionString\n{C},\n")
    records, ledger = scan(two)
    assert [record.key for record in records] == [A, B]
    assert [(drop.kind, drop.where, drop.reason) for drop in ledger.drops] == [
        ("file", f"stage_2_test_images/{C}.dcm", "test image without labels"),
        ("file", "stage_2_sample_submission.csv", "sample submission, holds no labels"),
    ]


def test_nested_folder_and_other_case(two: Path) -> None:
    images = two / "stage_2_train_images"
    (images / "stage_2_train_images").mkdir()
    (images / f"{B}.dcm").rename(images / "stage_2_train_images" / f"{B}.DCM")
    records, _ = scan(two)
    assert records[1].path == f"stage_2_train_images/stage_2_train_images/{B}.DCM"


@pytest.mark.parametrize("content", [b"", b"<html></html>", None], ids=["empty", "text", "cut"])
def test_corrupt_image(two: Path, content: bytes | None) -> None:
    image = two / "stage_2_train_images" / f"{A}.dcm"
    image.write_bytes(image.read_bytes()[:-40] if content is None else content)
    source = opened("rsna", two)
    records = list(source.scan(Ledger()))  # the scan goes on without the header
    with pytest.raises(Unreadable) as caught:
        source.read(records[0])
    assert caught.value.reason == "corrupt image"
    assert source.read(records[1]).pixels.shape == (8, 8)


def test_missing_images(two: Path) -> None:
    shutil.rmtree(two / "stage_2_train_images")
    with pytest.raises(DescryError, match=r"no \.dcm file in there"):
        scan(two)
    (two / "stage_2_train_images.zip").touch()
    with pytest.raises(DescryError, match="still packed"):
        scan(two)


BROKEN_TABLES = {
    "empty": (b"", "the file is empty"),
    "header only": (HEADER.encode() + b"\n", "it has no row"),
    "no header": (f"{A},1.0,2.0,3.0,4.0,1\n".encode(), "must be the header"),
    "binary": (b"DICM\xff\xfe\0\0", "not a UTF-8 text file"),
    "web page": (b"<!doctype html>\n<html>\n</html>\n", "must be the header"),
    "class table": (b"patientId,class\na,Normal\n", "missing x, y, width, height, Target"),
    "nothing usable": (f"{HEADER}\n{A},1,2,3\n".encode(), "none of its 1 rows can be used"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN_TABLES.values(), ids=BROKEN_TABLES.keys())
def test_unusable_label_table(two: Path, content: bytes, message: str) -> None:
    (two / LABELS).write_bytes(content)
    with pytest.raises(DescryError, match=message) as caught:
        scan(two)
    assert LABELS in str(caught.value)


# --- through the whole conversion -------------------------------------------------------------


def test_conversion_of_the_sample(tmp_path: Path) -> None:
    report = run("rsna", SAMPLE, tmp_path / "a")
    assert (report["images"]["out"], report["boxes"]["out"]) == (16, 10)
    assert [report["splits"][s]["negatives"] for s in ("train", "val", "test")] == [7, 2, 2]
    content = json.loads((tmp_path / "a" / "annotations" / "val.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "Lung Opacity", "supercategory": "finding"}]
    for image in content["images"]:
        with Image.open(tmp_path / "a" / "images" / image["file_name"]) as png:
            stored = pydicom.dcmread(SAMPLE / image["source"]).pixel_array
            assert png.mode == "L" and np.array_equal(np.asarray(png), stored)
    run("rsna", SAMPLE, tmp_path / "b", workers=2)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_conversion_counts_what_it_cannot_use(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(SAMPLE, raw)
    images = sorted((raw / "stage_2_train_images").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:5000])  # a negative
    images[4].write_bytes(b"no DICOM")  # two boxes
    images[5].unlink()  # a negative
    append(raw / LABELS, f"{images[6].stem},1,2,3,4,5", "cut,1")
    dicom(raw / "stage_2_train_images" / "unknown.dcm")
    dicom(raw / "stage_2_test_images" / "secret.dcm")
    report = run("rsna", raw, tmp_path / "out")
    assert report["rows"]["dropped"] == {
        "annotation without image": 1,
        "class of an image that is not used": 2,
        "class repeated for a further box": 5,
        "malformed row": 1,
        "row without a box contradicts another row": 1,
        "unknown class": 1,
    }
    assert report["boxes"]["dropped"] == {"image dropped": 2}
    assert report["images"]["dropped"] == {
        "all rows of the image were dropped": 1,
        "corrupt image": 2,
        "image without annotation": 1,
    }
    assert (report["images"]["in"], report["images"]["out"]) == (16, 12)
    dropped = (tmp_path / "out" / "dropped.csv").read_text()
    assert "file,stage_2_test_images/secret.dcm,test image without labels," in dropped

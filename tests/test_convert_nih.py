"""NIH ChestX-ray14: the committed sample literally, then each quirk and each wrong input."""

import json
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from convert_factory import reasons, run, scan_tables, tree
from PIL import Image
from toy_source import opened

from pipeline.convert.datasets.nih.rows import CLASSES
from pipeline.convert.formats.tables import age_in_years
from pipeline.convert.records import Ledger, Record, Unreadable
from pipeline.errors import DescryError

DATASETS = Path(__file__).parent.parent / "datasets"
SAMPLE = DATASETS / "nih" / "sample"
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
ENTRY_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
ONE = "00000001_000.png"
TWO = "00000002_000.png"
THREE = "00000003_000.png"


def entry(name: str, labels: str, age: str = "58") -> str:
    return f"{name},{labels},0,{int(name[:8])},{age},M,PA,2682,2749,0.143,0.143"


def make(
    folder: Path,
    boxes: list[str],
    entries: list[str],
    images: list[str],
    box_header: str = BOX_HEADER,
    entry_header: str = ENTRY_HEADER,
) -> Path:
    (folder / "images_001" / "images").mkdir(parents=True)
    for name in images:
        Image.new("L", (1024, 1024), int(name[:8])).save(folder / "images_001" / "images" / name)
    (folder / "BBox_List_2017.csv").write_text("\n".join([box_header, *boxes]) + "\n")
    (folder / "Data_Entry_2017_v2020.csv").write_text("\n".join([entry_header, *entries]) + "\n")
    return folder


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """One image with a box, one normal."""
    boxes = [f"{ONE},Infiltrate,10.5,20.25,30.0,40.0"]
    entries = [entry(ONE, "Infiltration"), entry(TWO, "No Finding")]
    return make(tmp_path / "raw", boxes, entries, [ONE, TWO])


def scan(raw: Path, **parameters: object) -> tuple[list[Record], Ledger]:
    return scan_tables("nih", raw, **parameters)


# --- the committed sample ---------------------------------------------------------------------


def test_sample_counts() -> None:
    records, ledger = scan(SAMPLE)
    boxed = [record for record in records if record.boxes]
    assert (len(records), len(boxed)) == (15, 14)
    assert [r.key for r in records if not r.boxes] == ["00009285_000"]
    assert len({record.group for record in records}) == 14
    assert Counter(box.label for record in records for box in record.boxes) == {
        "Atelectasis": 3,
        "Cardiomegaly": 3,
        "Effusion": 4,
        "Infiltration": 3,
        "Mass": 3,
        "Nodule": 1,
        "Pneumonia": 3,
        "Pneumothorax": 2,
    }
    assert ledger.rows_read == {"BBox_List_2017.csv": 22, "Data_Entry_2017_v2020.csv": 16}
    assert reasons(ledger) == {("image", "finding without a box: neither positive nor negative"): 1}
    assert ledger.drops[0].where == "images_001/images/00000013_002.png"


def test_sample_record() -> None:
    records = {record.key: record for record in scan(SAMPLE)[0]}
    record = records["00025368_018"]
    assert record.path == "images_011/images/00025368_018.png"
    assert (record.group, record.size, record.split) == ("00025368", (1024, 1024), None)
    (box,) = record.boxes
    assert (box.label, box.where) == ("Pneumothorax", "BBox_List_2017.csv:23")
    assert (box.x, box.y) == (151.703703703704, 122.446560846561)
    assert (box.width, box.height) == (318.577777777778, 271.983068783069)
    assert record.attributes == {
        "findings": ["Infiltration", "Nodule", "Pneumothorax"],
        "follow_up": 18,
        "age": 42,
        "sex": "M",
        "view_position": "PA",
        "original_size": [2992, 2991],
        "original_pixel_spacing_mm": [0.14300000000000002, 0.14300000000000002],
    }
    assert len(records["00010277_000"].boxes) == 4
    assert records["00025368_014"].group == record.group


def test_sample_pixels_of_grey_and_rgba_files() -> None:
    source = opened("nih", SAMPLE)
    records = {record.key: record for record in source.scan(Ledger())}
    grey = source.read(records["00001688_000"])
    assert grey.pixels.shape == (1024, 1024) and grey.pixels.dtype == np.uint8
    assert grey.verbatim and grey.notes == ()
    for key in ("00001369_000", "00011322_006"):
        reduced = source.read(records[key])
        assert reduced.pixels.shape == (1024, 1024)
        assert not reduced.verbatim and reduced.notes == ("mode RGBA reduced",)
        with Image.open(SAMPLE / records[key].path) as image:
            assert np.array_equal(np.asarray(image)[..., 1], reduced.pixels)


def test_official_lists_are_read_but_do_not_split() -> None:
    records, ledger = scan(SAMPLE)
    assert {"train_val_list.txt", "test_list.txt"} <= ledger.annotation_files
    assert any("train_val_list.txt holds 0 of the 14 boxed images" in n for n in ledger.notes)
    assert any("test_list.txt holds 14 of the 14 boxed images" in n for n in ledger.notes)
    assert all(record.split is None for record in records)


def test_categories_are_the_eight_boxed_findings() -> None:
    names = [name for name, _ in opened("nih", SAMPLE).categories()]
    assert names == [
        "Atelectasis",
        "Cardiomegaly",
        "Effusion",
        "Infiltration",
        "Mass",
        "Nodule",
        "Pneumonia",
        "Pneumothorax",
    ]


# --- spellings of the tables ------------------------------------------------------------------

ROW = f"{ONE},Infiltrate,10.5,20.25,30.0,40.0"
BOX_TABLES = {
    "original": f"{BOX_HEADER}\n{ROW}\n",
    "no trailing commas": f"Image Index,Finding Label,Bbox [x,y,w,h]\n{ROW}\n",
    "renamed": f"Image Index,Finding Label,Bbox x,Bbox y,Bbox w,Bbox h\n{ROW}\n",
    "headerless": f"{ROW}\n",
    "trailing commas in rows": f"{BOX_HEADER}\n{ROW},,,\n",
    "crlf": f"{BOX_HEADER}\r\n{ROW}\r\n",
    "byte order mark": f"\ufeff{BOX_HEADER}\n{ROW}\n",
    "byte order mark, headerless": f"\ufeff{ROW}\n",
    "no newline at the end": f"{BOX_HEADER}\n{ROW}",
    "blank lines": f"{BOX_HEADER}\n\n{ROW}\n\n\n",
    "short numbers": f"{BOX_HEADER}\n{ONE},Infiltrate,10.50,20.250,30,40\n",
    "quoted": f'{BOX_HEADER}\n"{ONE}","Infiltrate","10.5","20.25","30.0","40.0"\n',
    "semicolons": "Image Index;Finding Label;Bbox [x,y,w,h]\n" + ROW.replace(",", ";"),
    "decimal commas": "Image Index;Finding Label;Bbox [x;y;w;h];;;\n"
    + ROW.replace(",", ";").replace("10.5", "10,5").replace("20.25", "20,25"),
    "tabs": "Image Index\tFinding Label\tBbox [x,y,w,h]\n" + ROW.replace(",", "\t"),
    "modern label": f"{BOX_HEADER}\n{ROW.replace('Infiltrate', 'Infiltration')}\n",
    "blanks": f"{BOX_HEADER}\n{ROW.replace(',', ' , ')}\n",
}


@pytest.mark.parametrize("text", BOX_TABLES.values(), ids=BOX_TABLES.keys())
def test_every_spelling_of_the_box_table(two: Path, text: str) -> None:
    (two / "BBox_List_2017.csv").write_bytes(text.encode())
    records, ledger = scan(two)
    (box,) = records[0].boxes
    assert (box.label, box.x, box.y, box.width, box.height) == ("Infiltration", 10.5, 20.25, 30, 40)
    assert ledger.rows_read["BBox_List_2017.csv"] == 1
    assert any("no header line" in note for note in ledger.notes) == text.lstrip(
        "\ufeff"
    ).startswith(ONE)


ENTRY_TABLES = {
    "2017, trailing commas": (
        "Data_Entry_2017.csv",
        f"{ENTRY_HEADER},\n{entry(ONE, 'Infiltration')},\n{entry(TWO, 'No Finding')},\n",
    ),
    "2020, sex": (
        "Data_Entry_2017_v2020.csv",
        ENTRY_HEADER.replace("Gender", "Sex")
        + f"\n{entry(ONE, 'Infiltration')}\n{entry(TWO, 'No Finding')}\n",
    ),
    "renamed copy": (
        "Data_Entry_2017 (1).csv",
        f"{ENTRY_HEADER}\n{entry(ONE, 'Infiltration')}\n{entry(TWO, 'No Finding')}\n",
    ),
    "DICOM ages, padded patients": (
        "Data_Entry_2017.csv",
        f"{ENTRY_HEADER}\n{ONE},Infiltration,000,00000001,058Y,M,PA,2682,2749,0.143,0.143\n"
        f"{entry(TWO, 'No Finding')}\n",
    ),
    "semicolons": (
        "Data_Entry_2017.csv",
        f"{ENTRY_HEADER}\n{entry(ONE, 'Infiltration')}\n{entry(TWO, 'No Finding')}\n".replace(
            ",", ";"
        ).replace("0.143", "0,143"),
    ),
    "crlf": (
        "Data_Entry_2017_v2020.csv",
        f"{ENTRY_HEADER}\r\n{entry(ONE, 'Infiltration')}\r\n{entry(TWO, 'No Finding')}\r\n",
    ),
}


@pytest.mark.parametrize(("name", "text"), ENTRY_TABLES.values(), ids=ENTRY_TABLES.keys())
def test_every_spelling_of_the_entry_table(two: Path, name: str, text: str) -> None:
    (two / "Data_Entry_2017_v2020.csv").unlink()
    (two / name).write_bytes(text.encode())
    records, ledger = scan(two)
    assert [record.key for record in records] == ["00000001_000", "00000002_000"]
    assert records[0].attributes == {
        "findings": ["Infiltration"],
        "follow_up": 0,
        "age": 58,
        "sex": "M",
        "view_position": "PA",
        "original_size": [2682, 2749],
        "original_pixel_spacing_mm": [0.143, 0.143],
    }
    assert ledger.rows_read[name] == 2


def test_entry_table_without_sizes(two: Path) -> None:
    rows = [f"{ONE},Infiltration,0,1,58,M,PA", f"{TWO},No Finding,0,2,60,F,AP"]
    header = ENTRY_HEADER.split(",OriginalImage[")[0]
    (two / "Data_Entry_2017_v2020.csv").write_text("\n".join([header, *rows]))
    records, _ = scan(two)
    assert records[1].attributes == {
        "findings": ["No Finding"],
        "follow_up": 0,
        "age": 60,
        "sex": "F",
        "view_position": "AP",
    }


def test_the_newer_entry_table_is_preferred(two: Path) -> None:
    (two / "Data_Entry_2017.csv").write_text("not even a table\n")
    assert scan(two)[1].rows_read.keys() == {"BBox_List_2017.csv", "Data_Entry_2017_v2020.csv"}


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("58", 58),
        ("058Y", 58),
        ("0", 0),
        ("006M", 0.5),
        ("026W", 0.5),
        ("010D", 0.03),
        ("120", 120),
        ("121", None),
        ("155", None),
        ("411", None),
        ("", None),
        ("-3", None),
        ("58.5", None),
        ("old", None),
    ],
)
def test_ages(text: str, years: float | None) -> None:
    assert age_in_years(text) == years


def test_impossible_age_is_left_out_and_counted(tmp_path: Path) -> None:
    entries = [entry(ONE, "Infiltration", age="411"), entry(TWO, "No Finding")]
    records, ledger = scan(make(tmp_path / "raw", [ROW], entries, [ONE, TWO]))
    assert "age" not in records[0].attributes and records[1].attributes["age"] == 58
    assert "1 images have no plausible age; their age is left out." in ledger.notes


# --- negatives --------------------------------------------------------------------------------


def many(folder: Path, normal: int, shuffle: int = 0) -> Path:
    """Two boxed images and many normal ones."""
    names = [f"{number:08}_000.png" for number in range(10, 10 + normal)]
    boxes = [f"{name},Mass,1,2,3,4" for name in (ONE, TWO)]
    entries = [entry(name, "Mass") for name in (ONE, TWO)]
    entries += [entry(name, "No Finding") for name in names]
    random.Random(shuffle).shuffle(entries)
    raw = make(folder, boxes, entries, [])
    for name in (ONE, TWO, *names):  # the scan looks at names only
        (raw / "images_001" / "images" / name).touch()
    return raw


def negatives(raw: Path, **parameters: float) -> list[str]:
    return [record.key for record in scan(raw, **parameters)[0] if not record.boxes]


@pytest.mark.parametrize(("ratio", "count"), [(0, 0), (0.5, 1), (1, 2), (2.25, 5), (100, 20)])
def test_number_of_negatives(tmp_path: Path, ratio: float, count: int) -> None:
    raw = many(tmp_path / "raw", normal=20)
    records, ledger = scan(raw, negatives=ratio)
    assert len(records) == 2 + count
    unused = ("image", "No Finding image not drawn as a negative")
    assert reasons(ledger)[unused] == 20 - count


def test_choice_of_negatives_is_seeded_and_independent_of_order(tmp_path: Path) -> None:
    raw = many(tmp_path / "a", normal=20)
    drawn = negatives(raw)
    assert drawn == negatives(many(tmp_path / "b", normal=20, shuffle=1))
    assert drawn == ["00000024_000", "00000025_000"]  # lowest SHA-256 of "0:<name>"
    assert drawn != negatives(raw, seed=1)
    assert set(drawn) < set(negatives(raw, negatives=4))


def test_unboxed_findings_are_no_negatives(tmp_path: Path) -> None:
    entries = [entry(ONE, "Mass"), entry(TWO, "Mass|Hernia"), entry(THREE, "No Finding|Mass")]
    raw = make(tmp_path / "raw", [f"{ONE},Mass,1,2,3,4"], entries, [ONE, TWO, THREE])
    records, ledger = scan(raw, negatives=10)
    assert [record.key for record in records] == ["00000001_000"]
    assert reasons(ledger) == {("image", "finding without a box: neither positive nor negative"): 2}


def test_boxed_image_labelled_normal_keeps_its_box(tmp_path: Path) -> None:
    raw = make(tmp_path / "raw", [ROW], [entry(ONE, "No Finding")], [ONE])
    records, ledger = scan(raw)
    assert len(records) == 1 and len(records[0].boxes) == 1
    assert "1 boxed images lack a box's class in their labels." in ledger.notes


# --- wrong input ------------------------------------------------------------------------------

BAD_BOX_ROWS = {
    "too few fields": (f"{ONE},Mass,1,2,3", "malformed row"),
    "cut in the name": ("00000001_0", "malformed row"),
    "too many fields": (f"{ONE},Mass,1,2,3,4,5", "malformed row"),
    "decimal commas in a comma table": (f"{ONE},Mass,1,5,2,5,3,5,4,5", "malformed row"),
    "text for a number": (f"{ONE},Mass,1,2,three,4", "malformed row"),
    "no number": (f"{ONE},Mass,1,2,,4", "malformed row"),
    "nan": (f"{ONE},Mass,1,2,nan,4", "malformed row"),
    "inf": (f"{ONE},Mass,1,2,inf,4", "malformed row"),
    "overflow": (f"{ONE},Mass,1,2,1e999,4", "malformed row"),
    "no image name": ("picture.png,Mass,1,2,3,4", "malformed row"),
    "path for a name": (f"../{ONE},Mass,1,2,3,4", "malformed row"),
    "unknown class": (f"{ONE},Fracture,1,2,3,4", "unknown class"),
    "class without boxes": (f"{ONE},Hernia,1,2,3,4", "unknown class"),
    "no finding": (f"{ONE},No Finding,1,2,3,4", "unknown class"),
    "image missing": (f"{THREE},Mass,1,2,3,4", "annotation without image"),
    "repeated": (ROW, "repeated row"),
    "repeated in other words": (
        f"{ONE},Infiltration,10.50,20.250,30,40",
        "repeated row",
    ),
}


@pytest.mark.parametrize(("row", "reason"), BAD_BOX_ROWS.values(), ids=BAD_BOX_ROWS.keys())
def test_bad_box_row_is_dropped_with_its_reason(two: Path, row: str, reason: str) -> None:
    (two / "BBox_List_2017.csv").write_text(f"{BOX_HEADER}\n{ROW}\n{row}\n")
    records, ledger = scan(two)
    assert [len(record.boxes) for record in records] == [1, 0]
    assert reasons(ledger) == {("row", reason): 1}
    assert ledger.drops[0].where == "BBox_List_2017.csv:3" and ledger.drops[0].detail


BAD_ENTRIES = {
    "cut": (f"{THREE},Mass,0,3,58,M", "malformed row"),
    "cut behind the size": (f"{THREE},Mass,0,3,58,M,PA,2682,2749", "malformed row"),
    "too long": (entry(THREE, "Mass") + ",1", "malformed row"),
    "no image name": (entry(THREE, "Mass").replace(".png", ".jpg"), "malformed row"),
    "another patient": (entry(THREE, "Mass").replace(",3,", ",4,"), "malformed row"),
    "unknown finding": (entry(THREE, "Mass|Fracture"), "unknown class"),
    "no finding named": (entry(THREE, ""), "unknown class"),
    "image missing": (entry("00000009_000.png", "Mass"), "annotation without image"),
    "repeated": (entry(TWO, "No Finding"), "repeated row"),
    "contradictory": (entry(TWO, "Mass"), "repeated row"),
}


@pytest.mark.parametrize(("row", "reason"), BAD_ENTRIES.values(), ids=BAD_ENTRIES.keys())
def test_bad_entry_is_dropped_with_its_reason(two: Path, row: str, reason: str) -> None:
    table = two / "Data_Entry_2017_v2020.csv"
    table.write_text(table.read_text() + row + "\n")
    records, ledger = scan(two)
    assert [record.key for record in records] == ["00000001_000", "00000002_000"]
    assert reasons(ledger) == {("row", reason): 1}
    assert ledger.drops[0].where == "Data_Entry_2017_v2020.csv:4" and ledger.drops[0].detail


def test_refused_box_row_bars_the_image_from_the_negatives(two: Path) -> None:
    table = two / "BBox_List_2017.csv"
    table.write_text(table.read_text() + f"{TWO},Fracture,1,2,3,4\n")
    records, ledger = scan(two)
    assert [record.key for record in records] == ["00000001_000"]
    assert reasons(ledger) == {
        ("row", "unknown class"): 1,
        ("image", "all box rows of the image were dropped"): 1,
    }


def test_image_without_annotation_is_dropped(two: Path) -> None:
    Image.new("L", (1024, 1024)).save(two / "images_001" / THREE)
    records, ledger = scan(two)
    assert len(records) == 2
    assert reasons(ledger) == {("image", "image without annotation"): 1}


def test_boxed_image_without_entry_is_kept_and_counted(tmp_path: Path) -> None:
    raw = make(tmp_path / "raw", [ROW], [entry(TWO, "No Finding")], [ONE, TWO])
    records, ledger = scan(raw)
    assert len(records[0].boxes) == 1 and records[0].attributes == {}
    assert "1 boxed images have no usable row in Data_Entry." in ledger.notes


def test_same_name_in_two_folders(two: Path) -> None:
    (two / "images_002").mkdir()
    (two / "images_002" / ONE).write_bytes((two / "images_001" / "images" / ONE).read_bytes())
    records, ledger = scan(two)
    assert records[0].path == f"images_001/images/{ONE}"
    assert reasons(ledger) == {("file", "same file name in two folders"): 1}
    assert ledger.drops[0].where == f"images_002/{ONE}"


def test_images_are_found_in_any_nesting_and_through_links(two: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "disk"
    (two / "images_001").rename(elsewhere)
    (two / "images").symlink_to(elsewhere)
    (elsewhere / "images" / ONE).rename(elsewhere / ONE)
    (elsewhere / f"._{ONE}").write_bytes(b"resource fork")
    records, ledger = scan(two)
    assert [record.path for record in records] == [f"images/{ONE}", f"images/images/{TWO}"]
    assert not ledger.drops


def read_error(raw: Path) -> tuple[str, str]:
    source = opened("nih", raw)
    record = next(iter(source.scan(Ledger())))
    with pytest.raises(Unreadable) as caught:
        source.read(record)
    return caught.value.reason, caught.value.detail


def test_corrupt_image(two: Path) -> None:
    image = two / "images_001" / "images" / ONE
    image.write_bytes(image.read_bytes()[:200])
    assert read_error(two)[0] == "corrupt image"
    image.write_bytes(b"<html>not found</html>")
    assert read_error(two)[0] == "corrupt image"
    image.write_bytes(b"")
    assert read_error(two)[0] == "corrupt image"


def test_resized_copies_are_refused(two: Path) -> None:
    Image.new("L", (512, 256)).save(two / "images_001" / "images" / ONE)
    reason, detail = read_error(two)
    assert reason == "image size differs from the annotation"
    assert "1024 x 1024" in detail and "512 x 256" in detail


@pytest.mark.parametrize("name", ["BBox_List_2017.csv", "Data_Entry_2017_v2020.csv"])
def test_missing_table(two: Path, name: str) -> None:
    (two / name).unlink()
    with pytest.raises(DescryError, match=rf"{re.escape(name)}: this file is missing"):
        scan(two)


def test_missing_images(two: Path) -> None:
    for name in (ONE, TWO):
        (two / "images_001" / "images" / name).unlink()
    with pytest.raises(DescryError, match="no PNG in there"):
        scan(two)
    (two / "images_001.tar.gz").touch()
    with pytest.raises(DescryError, match=r"1 images\*\.tar\.gz are still packed"):
        scan(two)


BROKEN_TABLES = {
    "empty": (b"", "the file is empty"),
    "only blanks": (b"\n \n\n", "the file is empty"),
    "header only": (BOX_HEADER.encode() + b"\n", "it has no row"),
    "binary": (b"\x89PNG\r\n\x1a\n\0\0", "not a UTF-8 text file"),
    "utf-16": (BOX_HEADER.encode("utf-16"), "not a UTF-8 text file"),
    "web page": (b"<!doctype html>\n<html>\n</html>\n", "none of its 3 rows can be used"),
    "another table": (b"patientId,x,y,width,height,Target\na,1,2,3,4,1\n", "none of its 2 rows"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN_TABLES.values(), ids=BROKEN_TABLES.keys())
@pytest.mark.parametrize("name", ["BBox_List_2017.csv", "Data_Entry_2017_v2020.csv"])
def test_unusable_table(two: Path, name: str, content: bytes, message: str) -> None:
    (two / name).write_bytes(content)
    with pytest.raises(DescryError, match=message) as caught:
        scan(two)
    assert name in str(caught.value)


def test_ambiguous_tables(two: Path) -> None:
    table = two / "BBox_List_2017.csv"
    for name in ("BBox_List_2017_a.csv", "BBox_List_2017_b.csv"):
        (two / name).write_bytes(table.read_bytes())
    assert len(scan(two)[0]) == 2  # the official name wins
    table.unlink()
    with pytest.raises(DescryError, match="several files could be"):
        scan(two)


# --- through the whole conversion -------------------------------------------------------------


def test_conversion_of_the_sample(tmp_path: Path) -> None:
    report = run("nih", SAMPLE, tmp_path / "a")
    assert (report["images"]["out"], report["boxes"]["out"]) == (15, 22)
    assert report["remarks on images"] == {"mode RGBA reduced": 2}
    assert report["leakage"] == {"groups in more than one split": 0}
    patients = []
    for split in ("train", "val", "test"):
        content = json.loads((tmp_path / "a" / "annotations" / f"{split}.json").read_text())
        patients.append({image["group"] for image in content["images"]})
        assert [(c["id"], c["name"]) for c in content["categories"]] == list(enumerate(CLASSES, 1))
        for image in content["images"]:
            with Image.open(tmp_path / "a" / "images" / image["file_name"]) as pixels:
                assert (pixels.mode, pixels.size) == ("L", (1024, 1024))
    assert all(patients) and sum(map(len, patients)) == len(set.union(*patients)) == 14
    run("nih", SAMPLE, tmp_path / "b", workers=2)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_conversion_counts_what_it_cannot_use(tmp_path: Path) -> None:
    boxes = [
        f"{ONE},Mass,1000,1000,100,100",  # reaches over the edge
        f"{ONE},Mass,2000,10,20,20",  # outside
        f"{ONE},Mass,10,10,0,20",  # no width
        f"{ONE},Fracture,10,10,20,20",
        f"{TWO},Nodule,10,10,20,20",  # its image is damaged
        f"{THREE},Mass,10,10,20,20",  # its image is missing
        "00000004_000.png,Effusion,10,10,20,20",
        "00000005_000.png,Effusion,10,10,20,20",
    ]
    names = [ONE, TWO, "00000004_000.png", "00000005_000.png"]
    raw = make(tmp_path / "raw", boxes, [entry(name, "Mass") for name in names], names)
    damaged = raw / "images_001" / "images" / TWO
    damaged.write_bytes(damaged.read_bytes()[:100])
    (raw / "README_CHESTXRAY.pdf").write_bytes(b"%PDF")
    report = run("nih", raw, tmp_path / "out")
    assert report["rows"]["dropped"] == {"annotation without image": 1, "unknown class": 1}
    assert report["boxes"]["dropped"] == {
        "image dropped": 1,
        "outside the image": 1,
        "zero or negative size": 1,
    }
    assert (report["boxes"]["out"], report["boxes"]["clipped"]) == (3, 1)
    assert report["images"]["dropped"] == {"corrupt image": 1}
    assert report["files"]["unused"] == {"not an input of this converter": 1}
    dropped = (tmp_path / "out" / "dropped.csv").read_text()
    assert f"BBox_List_2017.csv:7,annotation without image,{THREE}" in dropped

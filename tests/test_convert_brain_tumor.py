"""Brain tumour: Cheng's MATLAB files and YOLO folders, right and wrong."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from convert_factory import OPTIONS, drops, picture, scan
from PIL import Image
from toy_source import opened

from pipeline.convert import convert, open_source
from pipeline.convert.datasets.brain_tumor.cheng_mat import compare_border, to_unsigned
from pipeline.convert.formats.folders import InvalidRow, original_name
from pipeline.convert.formats.yolo import parse_row
from pipeline.convert.records import Unreadable
from pipeline.errors import DescryError

DATASET = Path(__file__).parent.parent / "datasets" / "brain_tumor"
SAMPLE, CHENG = DATASET / "sample", DATASET / "sample_cheng"


def yolo(raw: Path, labels: dict[str, str | None], names: str = "names: [a, b]\n") -> Path:
    """Write a YOLO folder: image path below the split folder -> label text (None: no file)."""
    raw.mkdir(parents=True, exist_ok=True)
    if names:
        (raw / "data.yaml").write_text(names)
    for name, text in labels.items():
        split, stem = name.split("/")
        picture(raw / split / "images" / f"{stem}.png")
        folder = raw / split / "labels"
        folder.mkdir(parents=True, exist_ok=True)
        if text is not None:
            (folder / f"{stem}.txt").write_text(text)
    return raw


def mat(path: Path, leave_out: str = "", **fields: np.ndarray) -> Path:
    """Write a cjdata file: a 6 x 4 image (4 rows), a mask of columns 1..3 and rows 2..3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((4, 6), np.uint8)
    mask[2:4, 1:4] = 1
    values = {
        "PID": np.array([[ord(c)] for c in "100360"], np.uint16),
        "label": np.array([[2.0]]),
        "image": np.arange(24, dtype=np.int16).reshape(4, 6),
        "tumorMask": mask,
        "tumorBorder": np.array([[1.0, 2, 3, 2, 3, 3, 1, 3]]),
    } | fields
    with h5py.File(path, "w", userblock_size=512) as file:
        data = file.create_group("cjdata")
        for name, value in values.items():
            if name != leave_out:
                data[name] = value.T if name in ("image", "tumorMask") else value
    return path


def vector(path: Path, key: str, values: list[int]) -> None:
    with h5py.File(path, "w", userblock_size=512) as file:
        file[key] = np.array([values], dtype=np.float64)


# The committed samples


def test_sample_is_the_roboflow_export() -> None:
    source = opened("brain_tumor", SAMPLE)
    records, ledger = scan(source)
    assert [sum(r.split == s for r in records) for s in ("train", "val", "test")] == [46, 6, 6]
    assert sum(len(r.boxes) for r in records) == sum(ledger.rows_read.values()) == 62
    assert source.categories() == [("tumor", "brain tumor")]
    assert ledger.drops == []
    assert len({r.key for r in records}) == 58
    assert len({r.group for r in records}) == 58  # no augmented copies in this export
    assert records[0].group == "y0"
    # 0 0.23359375 0.25 0.4609375 0.3453125 of 640 x 640
    box = records[0].boxes[0]
    assert (box.x, box.y, box.width, box.height) == (2.0, 49.5, 295.0, 221.0)
    assert box.where == f"train/labels/{Path(records[0].path).stem}.txt:1"


def test_sample_yaml_paths_lead_nowhere_and_are_noted() -> None:
    _, ledger = scan(opened("brain_tumor", SAMPLE))
    note = next(n for n in ledger.notes if n.startswith("data.yaml: paths"))
    assert "test: ../test/images" in note


def test_sample_converts_with_every_row_accounted_for(tmp_path: Path) -> None:
    report = convert(open_source("brain_tumor", SAMPLE), tmp_path / "out", **OPTIONS)
    assert report["images"]["in"] == report["images"]["out"] == 58
    assert report["boxes"]["out"] == 62
    assert report["rows"]["read"] == report["rows"]["used for boxes"] == 62
    assert [report["splits"][s]["images"] for s in ("train", "val", "test")] == [46, 6, 6]


def test_cheng_sample_reads_transposed_16_bit_pixels_and_mask_boxes() -> None:
    source = opened("brain_tumor", CHENG)
    records, ledger = scan(source)
    assert [r.key for r in records] == ["0001", "0002", "0003", "0004", "0005", "0006"]
    assert [r.group for r in records] == ["100360"] * 2 + ["100361"] * 2 + ["100362"] * 2
    assert [r.split for r in records] == [None] * 6
    assert ledger.drops == []
    pictures = [source.read(record) for record in records]
    assert [p.pixels.shape for p in pictures] == [(512, 512)] * 4 + [(256, 256)] * 2
    assert {p.pixels.dtype for p in pictures} == {np.dtype(np.uint16)}
    boxes = [p.boxes[0] for p in pictures]
    assert [b.label for b in boxes[::2]] == ["meningioma", "glioma", "pituitary"]
    # Slice 1: an ellipse about (176, 175) with radii 57 and 45 pixels.
    assert (boxes[0].x, boxes[0].y, boxes[0].width, boxes[0].height) == (119, 130, 115, 91)
    x, y = np.array([119 + 115 / 2, 130 + 91 / 2], int)
    inside = pictures[0].pixels[y - 20 : y + 20, x - 20 : x + 20].mean()
    assert inside > 1.5 * pictures[0].pixels[x - 20 : x + 20, 330:370].mean()


def test_cheng_sample_converts_by_patient(tmp_path: Path) -> None:
    report = convert(open_source("brain_tumor", CHENG), tmp_path / "out", **OPTIONS)
    assert [report["splits"][s]["images"] for s in ("train", "val", "test")] == [2, 2, 2]
    assert report["leakage"] == {"groups in more than one split": 0}
    assert report["remarks on images"] == {"tumorBorder outlines the mask as x,y pairs": 6}


# Cheng's files


def test_cheng_box_is_the_extent_of_the_mask_in_displayed_axes(tmp_path: Path) -> None:
    mat(tmp_path / "1.mat")
    source = opened("brain_tumor", tmp_path)
    (record,), _ = scan(source)
    shown = source.read(record)
    assert shown.pixels.shape == (4, 6)
    assert shown.pixels[1].tolist() == [6, 7, 8, 9, 10, 11]
    box = shown.boxes[0]
    assert (box.x, box.y, box.width, box.height, box.label) == (1, 2, 3, 2, "glioma")


@pytest.mark.parametrize(
    "folder", ["", "brainTumorDataPublic_1-766", "brainTumorDataPublic_1766", "data/part one"]
)
def test_cheng_files_are_found_in_any_folder(tmp_path: Path, folder: str) -> None:
    for number in (10, 9, 766):
        mat(tmp_path / folder / f"{number}.mat")
    records, _ = scan(opened("brain_tumor", tmp_path))
    assert [record.key for record in records] == ["0009", "0010", "0766"]


def test_cheng_second_file_of_a_number_is_dropped(tmp_path: Path) -> None:
    mat(tmp_path / "a" / "1.mat")
    mat(tmp_path / "b" / "1.mat")
    records, ledger = scan(opened("brain_tumor", tmp_path))
    assert [record.path for record in records] == ["a/1.mat"]
    assert drops(ledger) == [("image", "b/1.mat", "second file of the same number")]


@pytest.mark.parametrize("name", ["cvind.mat", "cvind5fold.mat"])
def test_cheng_official_fold_is_the_test_split(tmp_path: Path, name: str) -> None:
    for number in (1, 2, 3):
        mat(tmp_path / f"{number}.mat")
    vector(tmp_path / name, "cvind", [3, 3, 1])
    assert [r.split for r in scan(opened("brain_tumor", tmp_path))[0]] == ["train", "train", "test"]
    assert [r.split for r in scan(opened("brain_tumor", tmp_path, fold=3))[0]] == [
        "test",
        "test",
        "train",
    ]
    assert [r.split for r in scan(opened("brain_tumor", tmp_path, fold=0))[0]] == [None] * 3


@pytest.mark.parametrize(
    ("folds", "told"),
    [([3, 1], "holds 2 numbers"), ([3, 1, 6], r"\[1\.0, 3\.0, 6\.0\]"), ([], "holds 0")],
)
def test_cheng_folds_that_do_not_fit(tmp_path: Path, folds: list[int], told: str) -> None:
    mat(tmp_path / "3.mat")
    vector(tmp_path / "cvind.mat", "cvind", folds)
    with pytest.raises(DescryError, match=told):
        scan(opened("brain_tumor", tmp_path))


def test_cheng_broken_cvind_names_the_file(tmp_path: Path) -> None:
    mat(tmp_path / "1.mat")
    (tmp_path / "cvind.mat").write_bytes(b"nothing of the kind")
    with pytest.raises(DescryError, match=r"cvind\.mat: no list 'cvind'"):
        scan(opened("brain_tumor", tmp_path))


@pytest.mark.parametrize(("listed", "told"), [(2, "agrees"), (3, "contradicts")])
def test_cheng_label_list_is_a_cross_check(tmp_path: Path, listed: int, told: str) -> None:
    mat(tmp_path / "1.mat")
    scipy.io.savemat(tmp_path / "label.mat", {"label": np.array([[listed]], np.uint8)})
    source = opened("brain_tumor", tmp_path)
    (record,), ledger = scan(source)
    assert any(n.startswith("label.mat") and told in n for n in ledger.notes)
    assert source.read(record).boxes[0].label == "glioma"  # the file's own, 2


def test_cheng_v5_files_are_named_as_such(tmp_path: Path) -> None:
    mat(tmp_path / "1.mat")
    scipy.io.savemat(tmp_path / "2.mat", {"cjdata": {"label": 1}})
    records, ledger = scan(opened("brain_tumor", tmp_path))
    assert len(records) == 1
    assert drops(ledger) == [("image", "2.mat", "MATLAB v5 file instead of v7.3")]
    (tmp_path / "1.mat").unlink()
    with pytest.raises(DescryError, match=r"MATLAB v5 file instead of v7\.3"):
        scan(opened("brain_tumor", tmp_path))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"label": np.array([[4.0]])}, "unknown class"),
        ({"label": np.array([[1.0, 2.0]])}, "unknown class"),
        ({"leave_out": "tumorMask"}, "malformed cjdata"),
        ({"leave_out": "image"}, "malformed cjdata"),
        ({"leave_out": "PID"}, "malformed cjdata"),
    ],
)
def test_cheng_unusable_files_are_dropped_in_the_scan(
    tmp_path: Path, bad: dict, reason: str
) -> None:
    mat(tmp_path / "1.mat")
    mat(tmp_path / "2.mat", **bad)
    records, ledger = scan(opened("brain_tumor", tmp_path))
    assert len(records) == 1
    assert drops(ledger) == [("image", "2.mat", reason)]


def test_cheng_truncated_and_foreign_files_are_dropped(tmp_path: Path) -> None:
    whole = mat(tmp_path / "1.mat").read_bytes()
    (tmp_path / "2.mat").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "3.mat").write_bytes(b"")
    with h5py.File(tmp_path / "4.mat", "w") as file:
        file["other"] = 1
    _, ledger = scan(opened("brain_tumor", tmp_path))
    reasons = ["corrupt file", "corrupt file", "malformed cjdata"]
    assert [drop.reason for drop in ledger.drops] == reasons


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"tumorMask": np.zeros((4, 6), np.uint8)}, "tumour mask is empty"),
        ({"tumorMask": np.ones((6, 4), np.uint8)}, "mask and image differ in size"),
        ({"image": np.full((4, 6), 0.5)}, "unsupported pixel type"),
        ({"image": np.zeros((2, 4, 6), np.int16)}, "malformed cjdata"),
    ],
)
def test_cheng_unusable_pixels_are_dropped_in_the_worker(
    tmp_path: Path, bad: dict, reason: str
) -> None:
    mat(tmp_path / "1.mat", **bad)
    source = opened("brain_tumor", tmp_path)
    (record,), _ = scan(source)
    with pytest.raises(Unreadable) as caught:
        source.read(record)
    assert caught.value.reason == reason


def test_cheng_file_without_border_or_patient_is_usable(tmp_path: Path) -> None:
    mat(tmp_path / "1.mat", leave_out="tumorBorder", PID=np.array([[32]], np.uint16))
    source = opened("brain_tumor", tmp_path)
    (record,), ledger = scan(source)
    assert record.group == ""
    assert any("no patient id" in note for note in ledger.notes)
    assert source.read(record).notes == ("tumorBorder is missing or malformed: the mask is used",)


def test_signed_values_are_shifted_by_the_smallest() -> None:
    pixels, notes = to_unsigned(np.array([[-5, 0], [7, 32767]], np.int16))
    assert pixels.dtype == np.uint16
    assert pixels.tolist() == [[0, 5], [12, 32772]]
    assert notes == ("negative values: shifted so that the smallest is 0",)


def test_unsigned_values_stay() -> None:
    pixels, notes = to_unsigned(np.array([[3, 65535]], np.uint16))
    assert (pixels.tolist(), notes) == ([[3, 65535]], ())


def test_values_beyond_16_bits_are_refused() -> None:
    with pytest.raises(Unreadable, match="unsupported pixel type"):
        to_unsigned(np.array([[0, 70000]], np.int32))


def test_border_order_is_measured_not_assumed() -> None:
    mask = np.zeros((40, 60), bool)
    mask[5:11, 20:51] = True  # rows 5..10, columns 20..50
    corners = np.array([20.0, 5, 50, 5, 50, 10, 20, 10])
    assert compare_border(corners, mask) == "tumorBorder outlines the mask as x,y pairs"
    swapped = corners.reshape(-1, 2)[:, ::-1].ravel()
    assert compare_border(swapped, mask) == "tumorBorder outlines the mask as y,x pairs"
    away = compare_border(corners + 30, mask)
    assert away == "tumorBorder does not outline the mask: the mask is used"


# YOLO rows


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("1 0.5 0.5 0.2 0.4", (0.4, 0.3, 0.6, 0.7)),
        ("1.0 0.5 0.5 0.2 0.4", (0.4, 0.3, 0.6, 0.7)),
        ("1 0.1 0.2 0.9 0.2 0.5 0.8", (0.1, 0.2, 0.9, 0.8)),  # outline of three corners
        ("1 1.005 0.5 0.01 0.4", (1.0, 0.3, 1.01, 0.7)),  # overshoots: the writer clips
    ],
)
def test_rows(text: str, box: tuple[float, ...]) -> None:
    index, found, outline = parse_row(text)
    assert index == 1
    assert found == pytest.approx(box)
    assert outline == ("outline" if len(text.split()) == 7 else "box")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 0.5 0.5 0.2", "malformed row"),
        ("0 0.5 0.5 0.2 0.4 0.9", "malformed row"),  # with a score
        ("0 0.1 0.2 0.9 0.2 0.5 0.8 0.3", "malformed row"),  # odd number of coordinates
        ("tumor 0.5 0.5 0.2 0.4", "malformed row"),
        ("-1 0.5 0.5 0.2 0.4", "malformed row"),
        ("0.5 0.5 0.5 0.2 0.4", "malformed row"),
        ("nan 0.5 0.5 0.2 0.4", "malformed row"),
        ("0 nan 0.5 0.2 0.4", "malformed row"),
        ("0 320 240 50 60", "coordinate outside 0..1"),
        ("0 0.5 0.5 -0.2 0.4", "coordinate outside 0..1"),
    ],
)
def test_bad_rows(text: str, reason: str) -> None:
    with pytest.raises(InvalidRow) as caught:
        parse_row(text)
    assert caught.value.reason == reason


# YOLO folders


def test_yolo_quirks_are_each_accounted_for(tmp_path: Path) -> None:
    labels = {
        "train/00360_108": None,  # unlabelled
        "train/00054_145": "0 0.5 0.5 0.5 0.5",  # no newline at the end
        "train/99 (2)": "",  # negative
        "train/bad": "0 0.5 0.5 0.5 0.5\nx\n\n7 0.5 0.5 0.1 0.1\n1 0.2 0.1 0.6 0.1 0.4 0.9\n",
        "train/hopeless": "0 320 240 50 60\n",
        "valid/val_1 (13)": "\ufeff1 0.5 0.5 0.5 0.5\r\n",
    }
    raw = yolo(tmp_path, labels)
    (raw / "train/labels/orphan.txt").write_text("0 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.2 0.2\n")
    (raw / "train/labels/void.txt").write_text("")
    (raw / "train/labels/00360_109.txt").write_bytes(b"\xff\xfe\x00")
    picture(raw / "train/images/00360_109.png")
    records, ledger = scan(opened("brain_tumor", raw))
    assert [(r.key, len(r.boxes), r.split, r.group) for r in records] == [
        ("train/00054_145", 1, "train", "00054"),
        ("train/00360_108", 0, "train", "00360"),
        ("train/99 (2)", 0, "train", ""),
        ("train/bad", 2, "train", ""),
        ("valid/val_1 (13)", 1, "val", ""),
    ]
    assert drops(ledger) == [
        ("file", "train/labels/00360_109.txt", "label file is not text"),
        ("image", "train/images/00360_109.png", "label file unusable"),
        ("row", "train/labels/bad.txt:2", "malformed row"),
        ("row", "train/labels/bad.txt:4", "class id out of range"),
        ("row", "train/labels/hopeless.txt:1", "coordinate outside 0..1"),
        ("image", "train/images/hopeless.png", "label file unusable"),
        ("row", "train/labels/orphan.txt:1", "annotation without image"),
        ("row", "train/labels/orphan.txt:2", "annotation without image"),
        ("file", "train/labels/void.txt", "annotation without image"),
    ]
    outline = records[3].boxes[1]  # of 20 x 10 pixels
    assert (outline.x, outline.y, outline.width, outline.height) == (4.0, 1.0, 8.0, 8.0)
    told = " ".join(ledger.notes)
    assert "1 image(s) have no label file" in told
    assert "1 label file(s) are empty" in told
    assert "1 row(s) are outlines" in told
    assert "2 of 5 file names carry a patient id" in told
    assert "1 images were renamed" in told


def test_yolo_books_balance_and_negatives_stay(tmp_path: Path) -> None:
    labels = {f"train/{n}": f"0 0.5 0.5 0.{n} 0.5\nx\n" for n in range(1, 6)}
    raw = yolo(tmp_path / "raw", labels | {"train/none": None, "train/empty": ""})
    (raw / "train/images/1.png").write_bytes(b"not a png")
    report = convert(open_source("brain_tumor", raw), tmp_path / "out", **OPTIONS)
    assert report["images"] == {"in": 7, "out": 6, "dropped": {"corrupt image": 1}}
    assert report["rows"]["read"] == 10
    assert report["rows"]["used for boxes"] == 5
    assert report["rows"]["dropped"] == {"malformed row": 5}
    assert sum(s["negatives"] for s in report["splits"].values()) == 2


@pytest.mark.parametrize("shape", ["{0}/images {0}/labels", "images/{0} labels/{0}"])
@pytest.mark.parametrize("top", ["", "brain-tumor"])
def test_yolo_folder_shapes(tmp_path: Path, shape: str, top: str) -> None:
    (tmp_path / top).mkdir(exist_ok=True)
    (tmp_path / top / "brain-tumor.yaml").write_text("names:\n  0: negative\n  1: positive\n")
    for split in ("train", "val"):
        images, labels = (tmp_path / top / p for p in shape.format(split).split())
        picture(images / "a.JPG")
        labels.mkdir(parents=True)
        (labels / "a.txt").write_text("1 0.5 0.5 1 1")
    source = opened("brain_tumor", tmp_path)
    records, ledger = scan(source)
    assert [(r.split, r.boxes[0].label) for r in records] == [
        ("train", "positive"),
        ("val", "positive"),
    ]
    assert source.categories() == [("negative", "brain tumor"), ("positive", "brain tumor")]
    assert any("does not mean 'no tumour'" in note for note in ledger.notes)


def kaggle(raw: Path) -> Path:
    for plane in ("axial", "sagittal"):
        top = raw / f"{plane}_t1wce_2_class"
        for split in ("train", "test"):
            picture(top / "images" / split / "00012_7.jpg")
            (top / "labels" / split).mkdir(parents=True)
            (top / "labels" / split / "00012_7.txt").write_text("0 0.5 0.5 0.5 0.5")
        (top / "data.yaml").write_text("names: [negative, positive]\nnc: 2\n")
    return raw


def test_kaggle_planes_share_patients(tmp_path: Path) -> None:
    records, _ = scan(opened("brain_tumor", kaggle(tmp_path)))
    assert [(r.key, r.split, r.group, r.attributes) for r in records] == [
        (f"{plane}_t1wce_2_class/{split}/00012_7", split, "00012", {"plane": plane})
        for plane in ("axial", "sagittal")
        for split in ("train", "test")
    ]


def test_kaggle_single_plane(tmp_path: Path) -> None:
    records, ledger = scan(opened("brain_tumor", kaggle(tmp_path), plane="axial"))
    assert {r.attributes["plane"] for r in records} == {"axial"}
    assert any("other planes are not used (sagittal)" in note for note in ledger.notes)
    with pytest.raises(DescryError, match="Present: axial, sagittal"):
        scan(opened("brain_tumor", tmp_path, plane="coronal"))


def test_kaggle_planes_with_other_classes_are_refused(tmp_path: Path) -> None:
    raw = kaggle(tmp_path)
    (raw / "sagittal_t1wce_2_class" / "data.yaml").write_text("names: [positive, negative]")
    with pytest.raises(DescryError, match="differ from"):
        scan(opened("brain_tumor", raw))


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("y24_jpg.rf.663d49dbc423acb518434ce1997f20b4", "y24"),
        ("00054_145_jpg.rf.aBc", "00054_145"),
        ("a.b_PNG.rf.00", "a.b"),
        ("y24_jpg", None),
        ("val_1 (13)", None),
    ],
)
def test_roboflow_names(stem: str, name: str | None) -> None:
    assert original_name(stem) == name


def test_roboflow_copies_of_one_original_are_one_group(tmp_path: Path) -> None:
    labels = {f"train/y1_jpg.rf.{c * 32}": "0 0.5 0.5 1 1" for c in "ab"}
    labels[f"train/00054_9_jpg.rf.{'c' * 32}"] = "0 0.5 0.5 1 1"
    records, _ = scan(opened("brain_tumor", yolo(tmp_path, labels)))
    assert [r.group for r in records] == ["00054", "y1", "y1"]


def test_yolo_boxes_of_a_turned_image_are_in_the_displayed_frame(tmp_path: Path) -> None:
    raw = yolo(tmp_path, {"train/a": "0 0.25 0.5 0.5 1"})
    (raw / "train/images/a.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(raw / "train/images/a.jpg", 20, 10, exif=exif)  # shown as 10 x 20
    source = opened("brain_tumor", raw)
    (record,), _ = scan(source)
    shown = source.read(record)
    assert shown.pixels.shape == (20, 10)
    box = shown.boxes[0]
    assert (box.x, box.y, box.width, box.height) == (0.0, 0.0, 5.0, 20.0)


def test_two_images_of_one_name(tmp_path: Path) -> None:
    raw = yolo(tmp_path, {"train/a": "0 0.5 0.5 1 1"})
    picture(raw / "train/images/a.jpg")
    records, ledger = scan(opened("brain_tumor", raw))
    assert [r.path for r in records] == ["train/images/a.jpg"]
    assert drops(ledger) == [
        ("image", "train/images/a.png", "another image has the same name"),
    ]


# Class names


def test_class_names_by_parameter_where_there_is_no_yaml(tmp_path: Path) -> None:
    raw = yolo(tmp_path, {"train/a": "1 0.5 0.5 1 1"}, names="")
    with pytest.raises(DescryError, match="set `classes`"):
        scan(opened("brain_tumor", raw))
    (record,), _ = scan(opened("brain_tumor", raw, classes=("negative", "positive")))
    assert record.boxes[0].label == "positive"


def test_classes_select_and_order_those_of_the_yaml(tmp_path: Path) -> None:
    raw = yolo(tmp_path, {"train/a": "0 0.5 0.5 1 1\n1 0.5 0.5 1 1"})
    source = opened("brain_tumor", raw, classes=("b",))
    (record,), ledger = scan(source)
    assert [box.label for box in record.boxes] == ["b"]
    assert source.categories() == [("b", "brain tumor")]
    assert drops(ledger) == [("row", "train/labels/a.txt:1", "class not selected")]
    with pytest.raises(DescryError, match=r"'c' is not a class of .*Allowed: a, b"):
        scan(opened("brain_tumor", raw, classes=("c",)))


def test_an_image_without_a_wanted_class_is_a_negative(tmp_path: Path) -> None:
    raw = yolo(tmp_path, {"train/a": "0 0.5 0.5 1 1"})
    (record,), _ = scan(opened("brain_tumor", raw, classes=("b",)))
    assert record.boxes == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("names: [a, b", "not a readable yaml"),
        ("names: " + "[" * 3000, "not a readable yaml"),
        ("nc: 2", "key `names` is missing"),
        ("names: [a, b]\nnc: 3", "nc is '3' but `names` has 2"),
        ("names: {0: a, 2: b}", "must be 0 to 1"),
        ("names: [a, a]", "present and different"),
        ("names: a", "must be a list"),
        ("names: []", "must be a list"),
    ],
)
def test_unusable_yaml(tmp_path: Path, text: str, told: str) -> None:
    raw = yolo(tmp_path, {"train/a": ""}, names=text)
    with pytest.raises(DescryError, match=told) as caught:
        scan(opened("brain_tumor", raw))
    assert "data.yaml" in str(caught.value)


def test_several_yaml_files_are_ambiguous_unless_one_is_data_yaml(tmp_path: Path) -> None:
    raw = yolo(tmp_path, {"train/a": ""}, names="")
    (raw / "one.yaml").write_text("names: [a]")
    (raw / "two.yaml").write_text("names: [b]")
    with pytest.raises(DescryError, match="several yaml files"):
        scan(opened("brain_tumor", raw))
    (raw / "data.yaml").write_text("names: [c]")
    source = opened("brain_tumor", raw)
    scan(source)
    assert source.categories() == [("c", "brain tumor")]


# Wrong folders and parameters


def test_missing_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DescryError, match=r"does not exist.*figshare"):
        open_source("brain_tumor", tmp_path / "none")
    with pytest.raises(DescryError, match="is empty"):
        open_source("brain_tumor", tmp_path)
    with pytest.raises(DescryError, match="not a folder"):
        scan(opened("brain_tumor", tmp_path / "none"))
    with pytest.raises(DescryError, match="neither Cheng's"):
        scan(opened("brain_tumor", tmp_path))


def test_folder_of_another_dataset(tmp_path: Path) -> None:
    (tmp_path / "BBox_List_2017.csv").write_text("Image Index,Finding Label\n")
    with pytest.raises(DescryError, match="looks like nih"):
        open_source("brain_tumor", tmp_path)


def test_metadata_without_slices(tmp_path: Path) -> None:
    vector(tmp_path / "cvind.mat", "cvind", [1])
    with pytest.raises(DescryError, match="neither Cheng's"):
        scan(opened("brain_tumor", tmp_path))


def test_images_without_labels_are_not_taken_for_negatives(tmp_path: Path) -> None:
    raw = yolo(tmp_path, {"train/a": None})
    with pytest.raises(DescryError, match=r"no label files \(\*\.txt\)"):
        scan(opened("brain_tumor", raw))
    shutil.rmtree(raw / "train/labels")
    with pytest.raises(DescryError, match=r"no label files \(\*\.txt\)"):
        scan(opened("brain_tumor", raw))


def test_both_layouts_need_a_choice(tmp_path: Path) -> None:
    yolo(tmp_path, {"train/a": ""})
    mat(tmp_path / "1.mat")
    with pytest.raises(DescryError, match="Set layout"):
        scan(opened("brain_tumor", tmp_path))
    assert scan(opened("brain_tumor", tmp_path, layout="cheng"))[0][0].key == "0001"
    assert scan(opened("brain_tumor", tmp_path, layout="yolo"))[0][0].key == "train/a"


def test_a_layout_that_is_not_there(tmp_path: Path) -> None:
    mat(tmp_path / "1.mat")
    with pytest.raises(DescryError, match="layout=yolo, but no YOLO folders"):
        scan(opened("brain_tumor", tmp_path, layout="yolo"))


def test_parameters_without_meaning_are_refused(tmp_path: Path) -> None:
    mat(tmp_path / "1.mat")
    with pytest.raises(DescryError, match="plane='axial' means nothing"):
        scan(opened("brain_tumor", tmp_path, plane="axial"))
    with pytest.raises(DescryError, match="classes"):
        scan(opened("brain_tumor", tmp_path, classes=("glioma",)))

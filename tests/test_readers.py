"""What annotation tools really export: kinds, the reader of each, and the right values."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from toy_source import opened

from pipeline.convert import convert
from pipeline.convert.export import write_yolo
from pipeline.convert.formats.yolo import parse_row
from pipeline.convert.records import Ledger, Record
from pipeline.errors import DescryError

OPTIONS: dict[str, Any] = {
    "seed": 0, "val_fraction": 0.25, "test_fraction": 0.25, "workers": 1, "progress": False,
}  # fmt: skip
SIZE = (40, 20)  # width, height of every image
YAML = "names: [cell, wbc]\n"
ROW = "1 0.5 0.5 0.2 0.4"  # on an image of SIZE: x 16, y 6, 8 x 8
BOX = (16.0, 6.0, 8.0, 8.0)


def picture(suffix: str, tone: int) -> bytes:
    stream = io.BytesIO()
    kind = {"png": "PNG", "jpg": "JPEG", "tif": "TIFF"}[suffix.lower()]
    Image.new("RGB", SIZE, (tone % 256, tone // 256, 9)).save(stream, kind)
    return stream.getvalue()


def tree(root: Path, *names: str) -> Path:
    """A folder of images, each of another colour."""
    for tone, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(path.suffix[1:], tone))
    return root


def put(root: Path, name: str, content: object) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def scan(raw: Path, **params: object) -> tuple[dict[str, Record], Ledger]:
    ledger = Ledger()
    records = list(opened("spots", raw, **params).scan(ledger))
    return {record.path: record for record in records}, ledger


def boxes_of(record: Record) -> list[tuple[float, float, float, float, str]]:
    return [(b.x, b.y, b.width, b.height, b.label) for b in record.boxes]


def reasons(ledger: Ledger) -> set[tuple[str, str]]:
    return {(drop.where, drop.reason) for drop in ledger.drops}


# YOLO


@pytest.mark.parametrize(
    ("row", "keypoints", "expected"),
    [
        ("0 0.5 0.5 0.2 0.4 0.1 0.1 2 0.9 0.9 1", 6, "pose"),
        ("0 0.5 0.5 0.2 0.4 0.1 0.1 0.9 0.9", 4, "pose"),
        ("0 0.5 0.5 0.2 0.4", 6, "box"),
        ("0 0.4 0.3 0.6 0.3 0.6 0.7 0.4 0.7", 0, "outline"),
    ],
)
def test_yolo_a_pose_is_its_box_and_no_outline(row, keypoints, expected):
    index, box, kind = parse_row(row, keypoints)
    assert (index, kind) == (0, expected)
    assert box == pytest.approx((0.4, 0.3, 0.6, 0.7))


def test_yolo_kpt_shape_stands_in_the_yaml(tmp_path):
    raw = tree(tmp_path, "images/train/a.png", "images/val/b.png")
    put(raw, "data.yaml", YAML + "kpt_shape: [2, 3]\n")
    put(raw, "labels/train/a.txt", f"{ROW} 0 0 2 1 1 0\n")
    put(raw, "labels/val/b.txt", "1 0.1 0.1 0.2 0.2 0.3 0.3\n")  # of no shape that there is
    records, ledger = scan(raw)
    assert boxes_of(records["images/train/a.png"]) == [(*BOX, "wbc")]
    assert ("labels/val/b.txt:1", "malformed row") in reasons(ledger)
    assert any("keypoints are left out" in note for note in ledger.notes)


NAMES = [
    ("b\u00e9.png", "be\u0301.txt"),  # NFC, NFD
    ("b 1.png", "b%201.txt"),
    ("B.PNG", "b.txt"),
    ("b.jpg", "b.jpg.txt"),
    ("b.png", "b.TXT"),
    ("s1/b.png", "s1/b.txt"),
]


@pytest.mark.parametrize(("image", "label"), NAMES)
def test_yolo_an_image_whose_label_has_nearly_its_name_is_no_negative(tmp_path, image, label):
    raw = tree(tmp_path, "images/train/a.png", f"images/train/{image}")
    put(raw, "data.yaml", YAML)
    put(raw, "labels/train/a.txt", "")
    put(raw, f"labels/train/{label}", ROW)
    records, ledger = scan(raw)
    assert boxes_of(records[f"images/train/{image}"]) == [(*BOX, "wbc")]
    assert boxes_of(records["images/train/a.png"]) == [] and ledger.drops == []
    exact = Path(image).with_suffix("") == Path(label).with_suffix("")
    assert exact or any("nearly the name" in note for note in ledger.notes)


def test_yolo_labels_of_two_near_names_are_nobodys(tmp_path):
    raw = tree(tmp_path, "images/a.png", "images/B.png")
    put(raw, "data.yaml", YAML)
    for name in ("a", "b", "b.png"):
        put(raw, f"labels/{name}.txt", ROW)
    records, ledger = scan(raw)
    assert list(records) == ["images/a.png"]
    assert ("images/B.png", "several annotations have nearly the name of the image") in reasons(
        ledger
    )


def test_yolo_labels_of_which_none_matches_are_an_error(tmp_path):
    raw = tree(tmp_path, "images/train/a.png")
    put(put(raw, "data.yaml", YAML), "labels/train/frame_1.txt", ROW)
    with pytest.raises(DescryError, match=r"none of its 1 label files .*frame_1, a"):
        scan(raw)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("names: [010, yes, 1e3]", ["010", "yes", "1e3"]),
        ("names: {0: no, 1: 2024-01-01}", ["no", "2024-01-01"]),
        ("names: [a, '', c]", "must be present and different"),
        ("names: [a, , c]", "not a readable yaml"),
        ("names: [a]\nkpt_shape: [3]", "kpt_shape"),
    ],
)
def test_yolo_class_names_are_as_they_are_written(tmp_path, names, expected):
    raw = put(tree(tmp_path, "images/train/a.png"), "data.yaml", names + "\n")
    put(raw, "labels/train/a.txt", "0 0.5 0.5 0.2 0.4")
    if isinstance(expected, str):
        with pytest.raises(DescryError, match=expected):
            scan(raw)
        return
    source = opened("spots", raw)
    list(source.scan(Ledger()))
    assert [name for name, _ in source.categories()] == expected


def test_yolo_a_blank_line_between_the_classes_shifts_nothing(tmp_path):
    raw = put(tree(tmp_path, "images/a.png"), "classes.txt", "a\n\nc\n")
    put(raw, "labels/a.txt", ROW)
    with pytest.raises(DescryError, match="must be present and different"):
        scan(raw)


def test_yolo_ids_that_count_from_1_are_told(tmp_path):
    raw = put(tree(tmp_path, "images/a.png", "images/b.png"), "data.yaml", "names: [a, b, c]\n")
    put(put(raw, "labels/a.txt", "1 0.5 0.5 0.2 0.4\n2 0.5 0.5 0.2 0.4"), "labels/b.txt", ROW)
    _, ledger = scan(raw)
    assert any("class ids 0 to 0; rows by class id: 1: 2, 2: 1." in note for note in ledger.notes)


# Pascal VOC


def xml(name: str = "", corners: tuple = (17, 7, 24, 14), more: str = "", label: str = "c") -> str:
    box = "".join(
        f"<{key}>{value}</{key}>"
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    told = f"<object><name>{label}</name><bndbox>{box}</bndbox>{more}</object>"
    return f"<annotation><filename>{name}</filename>{told}</annotation>"


def test_voc_a_stale_copy_does_not_take_the_place_of_an_annotation(tmp_path):
    raw = tree(tmp_path, "JPEGImages/b.png")
    put(raw, "Annotations/b (1).xml", xml("b.png", (1, 1, 4, 4)))
    put(raw, "Annotations/b.xml", xml("b.png"))
    records, ledger = scan(raw)
    assert boxes_of(records["JPEGImages/b.png"]) == [(*BOX, "c")]
    assert ("Annotations/b (1).xml", "annotation without image") in reasons(ledger)


def test_voc_an_image_that_two_files_name_has_no_sure_annotation(tmp_path):
    raw = tree(tmp_path, "JPEGImages/b.png", "JPEGImages/c.png")
    for name, image in (("1", "b.png"), ("2", "C:\\pictures\\b.png"), ("3", "c.png")):
        put(raw, f"Annotations/{name}.xml", xml(image))
    records, ledger = scan(raw)
    assert list(records) == ["JPEGImages/c.png"]
    assert ("JPEGImages/b.png", "image without annotation") in reasons(ledger)


@pytest.mark.parametrize("line", ["b", "b.png", "b 1", "b.png  1", "JPEGImages/b.png"])
def test_voc_lists_name_images_in_many_ways(tmp_path, line):
    raw = tree(tmp_path, "JPEGImages/a.png", "JPEGImages/b.png")
    for name in "ab":
        put(raw, f"Annotations/{name}.xml", xml())
    put(put(raw, "ImageSets/Main/train.txt", "a\n"), "ImageSets/Main/test.txt", f"{line}\n")
    records, ledger = scan(raw)
    assert records["JPEGImages/b.png"].split == "test" and ledger.drops == []


def test_voc_lists_of_which_no_name_is_known_are_an_error(tmp_path):
    raw = put(tree(tmp_path, "JPEGImages/a.png"), "Annotations/a.xml", xml())
    with pytest.raises(DescryError, match="none of the 1 listed names"):
        scan(put(raw, "ImageSets/Main/test.txt", "IMG_1\n"))


@pytest.mark.parametrize(
    ("origin", "corners", "expected"),
    [(1, (17, 7, 24, 14), BOX), (0, (16, 6, 24, 14), BOX), (0, (0, 0, 40, 20), (0, 0, 40, 20))],
)
def test_voc_origin_says_from_where_an_exporter_counts(tmp_path, origin, corners, expected):
    raw = put(tree(tmp_path, "JPEGImages/a.png"), "Annotations/a.xml", xml("", corners))
    records, _ = scan(raw, voc_origin=origin)
    assert boxes_of(records["JPEGImages/a.png"]) == [(*expected, "c")]


def test_voc_a_corner_at_0_gives_a_hint(tmp_path):
    raw = put(tree(tmp_path, "JPEGImages/a.png"), "Annotations/a.xml", xml("", (0, 0, 9, 9)))
    assert any("set voc_origin: 0" in note for note in scan(raw)[1].notes)


def rotation(value: object) -> str:
    inner = f"<attribute><name>rotation</name><value>{value}</value></attribute>"
    return f"<attributes>{inner}</attributes>"


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(0, (10, 5, 20, 10)), (90, (15, 0, 10, 20)), (180, (10, 5, 20, 10)), (-90, (15, 0, 10, 20))],
)
def test_turned_boxes_become_the_upright_box_around_them(tmp_path, degrees, expected):
    """VOC and COCO as CVAT writes them; by 90 degrees width and height change places."""
    voc = put(
        tree(tmp_path / "voc", "JPEGImages/a.png"),
        "Annotations/a.xml",
        xml("", (11, 6, 30, 15), rotation(float(degrees))),
    )
    entry = coco_entry(1, [10, 5, 20, 10]) | {"attributes": {"rotation": float(degrees)}}
    coco = put(
        tree(tmp_path / "coco", "images/a.png"), "annotations/all.json", coco_file(["a.png"])
    )
    put(coco, "annotations/all.json", coco_file(["a.png"], [entry]))
    for raw, path in ((voc, "JPEGImages/a.png"), (coco, "images/a.png")):
        records, ledger = scan(raw)
        assert boxes_of(records[path])[0][:4] == pytest.approx(expected)
        assert any("are turned" in note for note in ledger.notes) == (degrees % 360 != 0)


@pytest.mark.parametrize(
    "folders",
    [
        ("", ""),
        ("train/", "train/"),
        ("Train/", "Train/"),
        ("Annotations/", "images/"),
        ("annotations/xmls/", "images/"),
    ],
)
def test_voc_shapes_of_folders(tmp_path, folders):
    truth, images = folders
    raw = put(tree(tmp_path / "raw", f"{images}a.jpg"), f"{truth}a.xml", xml("a.jpg"))
    records, _ = scan(raw)
    assert boxes_of(records[f"{images}a.jpg"]) == [(*BOX, "c")]
    assert records[f"{images}a.jpg"].split == ("train" if "rain" in truth else None)


# COCO


def coco_entry(image: int, box: list, category: int = 1, number: int = 0) -> dict[str, Any]:
    number = number or image
    return {"id": number, "image_id": image, "category_id": category, "bbox": box}


def coco_file(names: list[str], annotations: list[dict] | None = None, **image: object) -> dict:
    width, height = SIZE
    size = {"width": width, "height": height} | image
    entries = [coco_entry(i, list(BOX)) for i, _ in enumerate(names, 1)]
    return {
        "images": [{"id": i, "file_name": name, **size} for i, name in enumerate(names, 1)],
        "annotations": entries if annotations is None else annotations,
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "wbc"}],
    }


@pytest.mark.parametrize(
    ("json_at", "image_at", "split"),
    [
        ("annotations/instances_train.json", "images/train/a.png", "train"),
        ("annotations/instances_val2017.json", "images/val2017/a.png", "val"),
        ("annotations/instances_val2017.json", "val2017/a.png", "val"),
        ("labels.json", "data/a.png", None),
        ("train/labels.json", "train/data/a.png", "train"),
        ("train_annotations.json", "train/a.png", "train"),
        ("Valid/_annotations.coco.json", "Valid/a.png", "val"),
        ("result.json", "images/a.png", None),
        ("raw/export/result.json", "raw/export/images/a.png", None),
    ],
)
def test_coco_shapes_of_folders_are_found_by_themselves(tmp_path, json_at, image_at, split):
    raw = put(tree(tmp_path / "set", image_at), json_at, coco_file(["a.png"]))
    records, _ = scan(raw)
    assert boxes_of(records[image_at]) == [(*BOX, "cell")]
    assert records[image_at].split == split


@pytest.mark.parametrize(
    "name",
    [
        "/home/me/pictures/b 1.png",
        "C:\\pictures\\b 1.png",
        "https://example.org/x/b%201.png?size=full",
        "b%201.png",
        "B 1.PNG",
    ],
)
def test_coco_names_of_another_machine_are_found_by_their_last_part(tmp_path, name):
    raw = tree(tmp_path, "images/a.png", "images/b 1.png")
    records, _ = scan(put(raw, "annotations/all.json", coco_file(["a.png", name])))
    assert boxes_of(records["images/b 1.png"]) == [(*BOX, "cell")]


LONG = "x" * 300 + ".png"


@pytest.mark.parametrize("name", [".", "/", "..", "./", "\0.png", LONG, "a/" * 3000 + "b.png"])
def test_coco_names_that_are_none_cost_one_image(tmp_path, name):
    raw = tree(tmp_path, "images/a.png")
    records, ledger = scan(put(raw, "annotations/all.json", coco_file(["a.png", name])))
    assert list(records) == ["images/a.png"]
    assert (name, "image missing") in reasons(ledger)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('"file_name": "\\ud800.png"', "a text of whole Unicode characters"),
        ('"bbox": [1' + "0" * 400 + ", 0, 1, 1]", "finite numbers"),
        ('"bbox": [1e999, 0, 1, 1]', "finite numbers"),
        ('"bbox": [NaN, 0, 1, 1]', "finite numbers"),
        ('"bbox": [0, 0, -1, 1]', "non-negative"),
        ('"bbox": null', "a list of 4 numbers"),
        ('"image_id": 1.5', "a whole number"),
        ('"image_id": true', "a whole number"),
        ('"image_id": 7', "an id that stands in images"),
        ('"category_id": 7', "an id that stands in categories"),
        ('"category_id": 1' + "0" * 30, "a whole number below"),
        ('"iscrowd": 2', "0 or 1"),
        ('"area": -1', "a finite number of square pixels"),
    ],
)
def test_coco_values_that_are_none_are_named(tmp_path, change, message):
    content = coco_file(["a.png"])
    content["annotations"][0] |= {"iscrowd": 0, "area": 64}
    key, text = change.partition(":")[0], json.dumps(content)
    text = re.sub(rf"{key}: (\[.*?\]|[^,}}]+)", lambda _: change, text, count=1)
    raw = put(tree(tmp_path, "images/a.png"), "annotations/all.json", text)
    with pytest.raises(DescryError, match=message):
        scan(raw)


@pytest.mark.parametrize("odd", ['"score": NaN', '"id": 1, "id": 1', '"iscrowd": false'])
def test_coco_files_as_python_writes_them_are_read(tmp_path, odd):
    text = json.dumps(coco_file(["a.png"])).replace('"image_id"', odd + ', "image_id"')
    raw = put(tree(tmp_path, "images/a.png"), "annotations/all.json", "\ufeff" + text)
    assert boxes_of(scan(raw)[0]["images/a.png"]) == [(*BOX, "cell")]


@pytest.mark.parametrize("size", [{"width": None, "height": None}, {"width": 40.0, "height": 20.0}])
def test_coco_sizes_that_are_missing_or_floats(tmp_path, size):
    raw = tree(tmp_path, "images/a.png")
    records, _ = scan(put(raw, "annotations/all.json", coco_file(["a.png"], **size)))
    assert records["images/a.png"].size == (None if size["width"] is None else SIZE)


def test_coco_one_file_per_class_joins_the_boxes(tmp_path):
    raw = tree(tmp_path, "images/a.png")
    put(raw, "annotations/cell.json", coco_file(["a.png"]))
    again = [coco_entry(1, [1, 2, 3, 4], 2, 7), coco_entry(1, list(BOX), 1, 8)]
    put(raw, "annotations/wbc.json", coco_file(["a.png"], again))
    records, ledger = scan(raw)
    assert boxes_of(records["images/a.png"]) == [(*BOX, "cell"), (1, 2, 3, 4, "wbc")]
    assert reasons(ledger) == {("annotations/wbc.json:annotation 8", "repeated row")}


def test_coco_images_that_differ_in_their_extension_are_both_kept(tmp_path):
    raw = tree(tmp_path / "raw", "images/a.png", "images/a.jpg", "images/b.png")
    names = ["a.png", "a.jpg", "b.png"]
    put(raw, "annotations/all.json", coco_file(names))
    report = convert(opened("spots", raw), tmp_path / "out", **OPTIONS)
    assert report["images"] == {"in": 3, "out": 3, "dropped": {}}
    written = sorted(path.name for path in (tmp_path / "out/images").rglob("*.*"))
    assert written == ["a.jpg", "a_png.png", "b.png"]


def test_coco_an_unused_category_may_have_the_name_of_another(tmp_path):
    content = coco_file(["a.png"])
    content["categories"].append({"id": 9, "name": "cell"})
    raw = put(tree(tmp_path, "images/a.png"), "annotations/all.json", content)
    assert boxes_of(scan(raw)[0]["images/a.png"]) == [(*BOX, "cell")]


# Masks


def mask_set(root: Path, values: np.ndarray, kind: str = "PNG", mode: str = "L") -> Path:
    tree(root, *(f"images/{i}.png" for i in range(3)))
    (root / "masks").mkdir()
    image = Image.fromarray(values.astype(np.uint8))
    if mode == "P":
        image = image.convert("P") if image.mode != "L" else image
        image.putpalette([c for i in range(256) for c in (i, 255 - i, i // 2)])
    for i in range(3):
        image.save(root / f"masks/{i}.{'jpg' if kind == 'JPEG' else 'png'}", kind)
    return root


def two_objects(first: int = 1, second: int = 2) -> np.ndarray:
    values = np.zeros((20, 40), np.uint8)
    values[2:8, 3:9], values[10:18, 20:30] = first, second
    return values


def with_void(values: np.ndarray) -> np.ndarray:
    values[1, 3:9] = values[9, 20:30] = 255
    return values


SOFT = np.asarray(
    Image.fromarray(two_objects(255, 255)).resize((60, 30), Image.Resampling.BICUBIC).resize(SIZE)
)
OBJECTS = [(3.0, 2.0, 6.0, 6.0), (20.0, 10.0, 10.0, 8.0)]


@pytest.mark.parametrize(
    ("values", "kind", "mode", "meaning", "expected"),
    [
        (two_objects(), "PNG", "L", "instances", OBJECTS),
        (two_objects(85, 255), "PNG", "L", "instances", OBJECTS),
        (with_void(two_objects()), "PNG", "L", "instances", OBJECTS),
        (with_void(two_objects(7, 9)), "PNG", "P", "instances", OBJECTS),
        (with_void(two_objects()), "PNG", "P", "classes", OBJECTS),
        (two_objects(), "JPEG", "L", "instances", "mask values are not exact"),
        (SOFT, "PNG", "L", "instances", "mask values are not exact"),
        (SOFT, "PNG", "L", "classes", "mask values are not exact"),
    ],
)
def test_masks_give_the_objects_that_are_there(tmp_path, values, kind, mode, meaning, expected):
    raw = mask_set(tmp_path / "raw", values, kind, mode)
    params = {"masks": meaning, "classes": ("a", "b") if meaning == "classes" else ()}
    source = opened("spots", raw, **params)
    if isinstance(expected, str):
        with pytest.raises(DescryError, match=expected):
            convert(source, tmp_path / "out", **OPTIONS)
        return
    report = convert(source, tmp_path / "out", **OPTIONS)
    coco = [json.loads(p.read_text()) for p in (tmp_path / "out/annotations").iterdir()]
    boxes = [tuple(entry["bbox"]) for content in coco for entry in content["annotations"]]
    assert set(boxes) == set(expected)
    void = bool((values == 255).any()) and 85 not in values
    assert bool(report["remarks on images"]) == void


# Every reader


def test_a_box_that_is_there_twice_is_counted(tmp_path):
    raw = put(tree(tmp_path / "raw", "images/a.png", "images/b.png"), "data.yaml", YAML)
    put(put(raw, "labels/a.txt", f"{ROW}\n{ROW}\n0{ROW[1:]}"), "labels/b.txt", ROW)
    report = convert(opened("spots", raw), tmp_path / "out", **OPTIONS)
    assert report["boxes"]["dropped"] == {"the same box again": 1}
    assert report["boxes"]["out"] == 3


def test_a_name_of_255_bytes_costs_at_most_its_image(tmp_path):
    long = ["a" * 251, "b" * 250]
    raw = put(
        tree(tmp_path / "raw", *(f"images/{n}.png" for n in [*long, "c", "d"])), "data.yaml", YAML
    )
    put(put(raw, f"labels/{long[0]}.txt", ROW), "labels/c.txt", ROW)
    report = convert(opened("spots", raw), tmp_path / "out", **OPTIONS)
    assert report["images"] == {"in": 4, "out": 4, "dropped": {}}


def test_written_sets_open_in_pycocotools_with_masks(tmp_path):
    coco_tools = pytest.importorskip("pycocotools.coco")
    raw = put(tree(tmp_path / "raw", "images/a.png"), "data.yaml", YAML)
    convert(opened("spots", put(raw, "labels/a.txt", ROW)), tmp_path / "out", **OPTIONS)
    found = [coco_tools.COCO(str(file)) for file in (tmp_path / "out/annotations").iterdir()]
    masks = [coco.annToMask(entry) for coco in found for entry in coco.anns.values()]
    assert [mask.sum() for mask in masks] == [64]
    assert masks[0].shape == (20, 40) and masks[0][6:14, 16:24].all()


def test_a_yolo_export_is_read_back_as_the_same_boxes(tmp_path):
    raw = put(tree(tmp_path / "raw", *(f"images/{n}.png" for n in "abcd")), "data.yaml", YAML)
    for name in "abc":
        put(raw, f"labels/{name}.txt", f"{ROW}\n0 0.25 0.25 0.1 0.1\n")
    convert(opened("spots", raw), tmp_path / "out", **OPTIONS)
    write_yolo(tmp_path / "out", tmp_path / "yolo")
    assert yaml.safe_load((tmp_path / "yolo/data.yaml").read_text()) == {
        "train": "images/train",
        "val": "images/val",
        "test": "images/test",
        "names": {0: "cell", 1: "wbc"},
    }
    records, ledger = scan(tmp_path / "yolo")
    found = {Path(path).stem: set(boxes_of(record)) for path, record in records.items()}
    both = {(*BOX, "wbc"), (8.0, 4.0, 4.0, 2.0, "cell")}
    assert found == {"a": both, "b": both, "c": both, "d": set()} and ledger.drops == []
    with pytest.raises(DescryError, match="is not empty"):
        write_yolo(tmp_path / "out", tmp_path / "yolo")

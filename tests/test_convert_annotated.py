"""Datasets of one's own: annotated folders with DICOM or ordinary images, and their groups."""

import json
from pathlib import Path

import dicom_factory
import numpy as np
import pytest
from PIL import Image
from toy_source import opened

from pipeline.convert import convert
from pipeline.convert.engine.report import summary_line
from pipeline.data.images import read_image
from pipeline.data.intensity import Intensity
from pipeline.dicom.read.pixels import read_frame
from pipeline.errors import DescryError

OPTIONS = {"seed": 0, "val_fraction": 0.2, "test_fraction": 0.2, "workers": 1, "progress": False}
SIZE = (24, 32)  # rows, columns


def pixels(number: int, kind: type = np.uint8) -> np.ndarray:
    top = np.iinfo(kind).max
    return np.random.default_rng(number).integers(0, top, SIZE, dtype=kind)


def coco_folder(raw: Path, names: list[str], **image: object) -> Path:
    """A COCO file with one box in each image, which the caller writes."""
    (raw / "images").mkdir(parents=True, exist_ok=True)
    images = [
        {"id": i, "file_name": name, "width": SIZE[1], "height": SIZE[0], **image}
        for i, name in enumerate(names)
    ]
    boxes = [
        {"id": i, "image_id": i, "category_id": 7, "bbox": [2, 3, 10, 8]} for i in range(len(names))
    ]
    categories = [{"id": 7, "name": "spot"}]
    content = {"images": images, "annotations": boxes, "categories": categories}
    (raw / "annotations").mkdir(exist_ok=True)
    (raw / "annotations/all.json").write_text(json.dumps(content))
    return raw / "images"


def converted(raw: Path, out: Path, **parameters: object) -> tuple[dict, list[dict]]:
    """The report, and the images of all splits by their source."""
    report = convert(opened("spots", raw, **parameters), out, **OPTIONS)
    images = []
    for split in ("train", "val", "test"):
        content = json.loads((out / f"annotations/{split}.json").read_text())
        images += [image | {"split": split} for image in content["images"]]
    return report, sorted(images, key=lambda image: image["source"])


@pytest.mark.parametrize("intensity", [Intensity(), Intensity(10.0, 90.0, "none")])
def test_dicom_is_converted_to_what_inference_sees(tmp_path, intensity):
    folder = coco_folder(tmp_path / "raw", [f"{i}.dcm" for i in range(8)])
    for i in range(8):
        dicom_factory.write(
            folder / f"{i}.dcm",
            pixels(i, np.uint16),
            WindowCenter=20_000,
            WindowWidth=30_000,
            PatientID=f"P{i}",
            PatientAge="047Y",
        )
    report, images = converted(tmp_path / "raw", tmp_path / "out", intensity=intensity)
    assert report["images"]["out"] == 8 and report["boxes"]["out"] == 8
    assert report["dataset"] == "spots" and report["notes of the converter"] == []
    for image in images:
        written = read_image(tmp_path / "out/images" / image["file_name"]).pixels
        seen = read_frame(tmp_path / "raw" / image["source"], intensity).pixels
        assert np.array_equal(written, seen)
        assert image["attributes"]["age"] == 47


def test_images_of_one_patient_stay_together_and_the_id_is_not_written(tmp_path):
    folder = coco_folder(tmp_path / "raw", [f"{i:02d}.dcm" for i in range(24)])
    for i in range(24):
        patient = {"PatientID": f"Mortimer-{i % 4}", "IssuerOfPatientID": f"clinic {i % 2}"}
        dicom_factory.write(folder / f"{i:02d}.dcm", pixels(i), **patient)
    _, images = converted(tmp_path / "raw", tmp_path / "out")
    groups = [image["group"] for image in images]
    assert groups[:4] * 6 == groups and len(set(groups)) == 4
    places = {(image["group"], image["split"]) for image in images}
    assert len(places) == 4
    written = b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert b"Mortimer" not in written and b"clinic" not in written


@pytest.mark.parametrize(
    ("pattern", "groups"),
    [
        (r"(P\d+)_", ["P1", "P1", "P2"]),
        (r"P\d+_[a-z]", ["P1_a", "P1_b", "P2_a"]),
        ("", ["", "", ""]),
    ],
)
def test_a_pattern_finds_the_group_in_the_path(tmp_path, pattern, groups):
    names = ["P1_a.png", "P1_b.png", "P2_a.png"]
    folder = coco_folder(tmp_path / "raw", names)
    for i, name in enumerate(names):
        Image.fromarray(pixels(i)).save(folder / name)
    report, images = converted(tmp_path / "raw", tmp_path / "out", group=pattern)
    assert [image.get("group", "") for image in images] == groups
    alone = "3 of 3 image(s) say nothing of their patient or slide and stand for themselves"
    assert any(alone in note for note in report["notes of the converter"]) == (not pattern)


@pytest.mark.parametrize("key", ["group", "patient_id"])
def test_the_coco_file_names_the_patient(tmp_path, key):
    names = [f"{i}.png" for i in range(5)]
    folder = coco_folder(tmp_path / "raw", names, **{key: 17})
    for i, name in enumerate(names):
        Image.fromarray(pixels(i)).save(folder / name)
    report, images = converted(tmp_path / "raw", tmp_path / "one")
    assert {(image["group"], image["split"]) for image in images} == {("17", "train")}
    assert summary_line(report).endswith(
        "; nothing is in val and test: too few groups (patients, slides) to divide"
    )
    report, images = converted(tmp_path / "raw", tmp_path / "out", group=r"\d")
    assert [image["group"] for image in images] == ["0", "1", "2", "3", "4"]
    assert "nothing is in" not in summary_line(report)


def test_yolo_fractions_are_of_the_dicom_picture(tmp_path):
    raw = tmp_path / "raw"
    (raw / "images").mkdir(parents=True)
    (raw / "labels").mkdir()
    for i in range(3):
        dicom_factory.write(raw / f"images/{i}.dcm", pixels(i), PatientID=str(i))
        (raw / f"labels/{i}.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    converted(raw, tmp_path / "out", classes=("spot",))
    content = json.loads((tmp_path / "out/annotations/train.json").read_text())
    assert content["annotations"][0]["bbox"] == [12, 6, 8, 12]


def test_dicom_that_does_not_fit_is_listed(tmp_path):
    names = ["frames.dcm", "other.dcm", "text.dcm", *(f"{i}.dcm" for i in range(5))]
    folder = coco_folder(tmp_path / "raw", names)
    for i in range(5):
        dicom_factory.write(folder / f"{i}.dcm", pixels(i))
    stack = np.stack([pixels(8), pixels(9)])
    dicom_factory.write(folder / "frames.dcm", stack, frames=2)
    dicom_factory.write(folder / "other.dcm", pixels(7)[:10])
    (folder / "text.dcm").write_text("not DICOM")
    report, images = converted(tmp_path / "raw", tmp_path / "out", group=r"\w+\.dcm")
    assert len(images) == 5
    assert report["images"]["dropped"] == {
        "several frames in one file": 1,
        "image size differs from the annotation": 1,
        "corrupt image": 1,
    }


def test_tiles_of_dicom(tmp_path):
    folder = coco_folder(tmp_path / "raw", ["0.dcm", "1.dcm", "2.dcm"])
    for i in range(3):
        dicom_factory.write(folder / f"{i}.dcm", pixels(i), PatientID=str(i))
    _, images = converted(tmp_path / "raw", tmp_path / "out", tile=16, tile_keep=0.2)
    assert {(image["width"], image["height"]) for image in images} == {(16, 16)}
    for image in images:
        x, y, w, h = image["crop"]
        tile = read_image(tmp_path / "out/images" / image["file_name"]).pixels
        whole = read_frame(tmp_path / "raw" / image["source"], Intensity()).pixels
        assert np.array_equal(tile, whole[y : y + h, x : x + w])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"group": "(P"}, r"group='\(P': not a regular expression"),
        ({"group": "X"}, "group='X': finds nothing in images/0.png"),
    ],
)
def test_wrong_parameters_are_named(tmp_path, parameters, message):
    folder = coco_folder(tmp_path / "raw", ["0.png", "1.png", "2.png"])
    for i in range(3):
        Image.fromarray(pixels(i)).save(folder / f"{i}.png")
    with pytest.raises(DescryError, match=message):
        converted(tmp_path / "raw", tmp_path / "out", **parameters)


def mask_folder(raw: Path, masks: list[np.ndarray], ending: str = "") -> Path:
    for kind in ("images", "masks"):
        (raw / kind).mkdir(parents=True)
    for i, mask in enumerate(masks):
        Image.fromarray(pixels(i)).save(raw / f"images/{i}.png")
        Image.fromarray(mask).save(raw / f"masks/{i}{ending}.png")
    return raw


def boxes_of(out: Path) -> dict[str, list[tuple[str, list[float]]]]:
    """Class and box of every object, by the source of its image."""
    found: dict[str, list[tuple[str, list[float]]]] = {}
    for split in ("train", "val", "test"):
        content = json.loads((out / f"annotations/{split}.json").read_text())
        classes = {c["id"]: c["name"] for c in content["categories"]}
        images = {image["id"]: image["source"] for image in content["images"]}
        found |= {source: [] for source in images.values()}
        for one in content["annotations"]:
            found[images[one["image_id"]]].append((classes[one["category_id"]], one["bbox"]))
    return found


def label_image(kind: type = np.uint8) -> np.ndarray:
    """Value 1 in two places, 2 in one; the larger part of 1 touches 2."""
    mask = np.zeros(SIZE, kind)
    mask[2:6, 3:10] = 1
    mask[6:9, 3:5] = 2
    mask[20, 30] = 1
    return mask


@pytest.mark.parametrize("ending", ["", "_mask", "_masks"])
def test_instances_are_values(tmp_path, ending):
    deep = label_image(np.uint16) * 1000
    masks = [label_image(), deep, np.zeros(SIZE, np.uint8)]
    converted(mask_folder(tmp_path / "raw", masks, ending), tmp_path / "out", classes=("cell",))
    boxes = [("cell", [3, 2, 28, 19]), ("cell", [3, 6, 2, 3])]
    assert boxes_of(tmp_path / "out") == {
        "images/0.png": boxes,
        "images/1.png": boxes,
        "images/2.png": [],
    }


def test_classes_are_values_and_their_parts_objects(tmp_path):
    raw = mask_folder(tmp_path / "raw", [label_image()] * 3)
    converted(raw, tmp_path / "out", masks="classes", classes=("nucleus", "debris"))
    assert boxes_of(tmp_path / "out")["images/0.png"] == [
        ("nucleus", [3, 2, 7, 4]),
        ("nucleus", [30, 20, 1, 1]),
        ("debris", [3, 6, 2, 3]),
    ]


def test_a_single_class_has_soft_edges(tmp_path):
    soft = np.zeros(SIZE, np.uint8)
    soft[4:8, 5:9], soft[3, 5:9] = 255, 90
    converted(
        mask_folder(tmp_path / "raw", [soft] * 3),
        tmp_path / "out",
        masks="classes",
        classes=("lesion",),
    )
    assert boxes_of(tmp_path / "out")["images/1.png"] == [("lesion", [5, 4, 4, 4])]


def test_masks_by_split_and_what_has_no_partner(tmp_path):
    raw = tmp_path / "raw"
    for split in ("train", "val", "test"):
        for kind in ("images", "masks"):
            (raw / kind / split).mkdir(parents=True)
        Image.fromarray(pixels(len(split))).save(raw / f"images/{split}/a.png")
        Image.fromarray(label_image()).save(raw / f"masks/{split}/a.tif")
    Image.fromarray(pixels(1)).save(raw / "images/train/alone.png")
    Image.fromarray(label_image()).save(raw / "masks/train/orphan.png")
    Image.fromarray(label_image()).save(raw / "masks/train/a_mask.png")
    Image.fromarray(pixels(2)).save(raw / "images/train/odd.png")
    Image.fromarray(label_image()[:9]).save(raw / "masks/train/odd.png")
    report, images = converted(raw, tmp_path / "out")
    assert [(i["source"], i["split"]) for i in images] == [
        (f"images/{split}/a.png", split) for split in ("test", "train", "val")
    ]
    assert report["images"]["dropped"] == {
        "image without annotation": 1,
        "mask size differs from image size": 1,
    }
    listed = (tmp_path / "out/dropped.csv").read_text()
    assert "masks/train/orphan.png,mask without image" in listed
    assert "another mask of the same image" in listed


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"masks": "classes"}, "masks=classes: classes must name them"),
        ({"classes": ("a", "b")}, "masks=instances: objects are of one class, not of 2"),
        ({"masks": "classes", "classes": ("a",)}, None),
        ({"masks": "classes", "classes": ("a", "b")}, "mask value without a class"),
    ],
)
def test_masks_and_parameters_that_do_not_agree(tmp_path, parameters, message):
    raw = mask_folder(tmp_path / "raw", [label_image() + (label_image() > 1)] * 3)
    if message is None:  # of a single class all that is not background
        converted(raw, tmp_path / "out", **parameters)
        assert len(boxes_of(tmp_path / "out")["images/0.png"]) == 2
        return
    with pytest.raises(DescryError, match=message):
        converted(raw, tmp_path / "out", **parameters)


def test_masks_beside_labels_need_a_choice(tmp_path):
    raw = mask_folder(tmp_path / "raw", [label_image()] * 3)
    (raw / "labels").mkdir()
    (raw / "labels/0.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    with pytest.raises(DescryError, match=r"more than one dataset \(yolo .* masks"):
        converted(raw, tmp_path / "out", classes=("cell",))
    converted(raw, tmp_path / "out", classes=("cell",), layout="masks")
    assert boxes_of(tmp_path / "out")["images/0.png"][0][1] == [3, 2, 28, 19]

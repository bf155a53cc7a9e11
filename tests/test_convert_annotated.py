"""Datasets of one's own: annotated folders with DICOM or ordinary images, and their groups."""

import json
from pathlib import Path

import dicom_factory
import numpy as np
import pytest
from PIL import Image

from pipeline.convert import convert, open_source
from pipeline.convert.engine.report import summary_line
from pipeline.data.images import read_image
from pipeline.data.intensity import Intensity
from pipeline.dicom.pixels import read_frame
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
    report = convert(open_source("spots", raw, **parameters), out, **OPTIONS)
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
        ({"layout": "csv"}, "spots: layout='csv': allowed are auto, coco, voc, yolo"),
        ({"names": "other"}, "spots: parameter 'names' is not known; there are layout, classes, g"),
    ],
)
def test_wrong_parameters_are_named(tmp_path, parameters, message):
    folder = coco_folder(tmp_path / "raw", ["0.png", "1.png", "2.png"])
    for i in range(3):
        Image.fromarray(pixels(i)).save(folder / f"{i}.png")
    with pytest.raises(DescryError, match=message):
        converted(tmp_path / "raw", tmp_path / "out", **parameters)

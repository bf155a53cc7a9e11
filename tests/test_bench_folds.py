"""benchmarks/folds.py: patients stay together, every image is tested once, official tests never."""

import json
from pathlib import Path

import folds
import pytest

from pipeline.errors import DescryError

CATEGORIES = [{"id": 1, "name": "cell"}]


def tree(names: list[str], group: str) -> dict:
    images = [
        {"id": i, "file_name": f"{name}.png", "width": 9, "height": 9, "group": group + name[0]}
        for i, name in enumerate(names, 1)
    ]
    boxes = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 3, 3], "area": 9, "iscrowd": 0}
        for i, name in enumerate(names, 1)
        if "box" in name
    ]
    return {"images": images, "annotations": boxes, "categories": CATEGORIES}


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    names = {"train": ["a-box", "a-2", "b-box", "c-box", "d-1"], "val": ["e-box", "f-box", "f-2"]}
    for split, own in {**names, "test": ["z-box"]}.items():
        (folder / f"annotations/{split}.json").write_text(json.dumps(tree(own, "p")))
    return folder


def read(folder: Path, split: str) -> dict:
    return json.loads((folder / f"annotations/{split}.json").read_text())


def names(folder: Path, split: str) -> set[str]:
    return {image["file_name"] for image in read(folder, split)["images"]}


def test_every_image_is_tested_once_by_a_model_that_has_not_seen_its_patient(coco, tmp_path):
    out = tmp_path / "folds"
    folds.split(coco, 3, 0, out)
    tested: list[str] = []
    for i in "123":
        parts = [names(out / i, split) for split in ("train", "val", "test")]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 8 and "z-box.png" not in parts[2]
        patients = [{name[0] for name in part} for part in parts]
        assert not patients[0] & patients[1] and not (patients[0] | patients[1]) & patients[2]
        assert any("box" in name for name in parts[2])
        tested += parts[2]
    assert sorted(tested) == sorted(
        f"{name}.png" for name in ("a-box", "a-2", "b-box", "c-box", "d-1", "e-box", "f-box", "f-2")
    )
    assert names(out / "1", "val") == names(out / "2", "test")


def test_pooled_detections_and_boxes_belong_to_the_images_they_were_found_in(coco, tmp_path):
    out, runs = tmp_path / "folds", tmp_path / "runs"
    folds.split(coco, 3, 0, out)
    for i in "123":
        (runs / i / "test").mkdir(parents=True)
        rows = [
            {"image_id": image["id"], "category_id": 1, "bbox": [0, 0, 2, 2], "score": 0.5}
            for image in read(out / i, "test")["images"]
        ]
        (runs / i / "test/predictions.json").write_text(json.dumps(rows))
    folds.pool(out, runs, tmp_path / "pooled")
    truth = json.loads((tmp_path / "pooled/truth.json").read_text())
    rows = json.loads((tmp_path / "pooled/predictions.json").read_text())
    name = {image["id"]: image["file_name"] for image in truth["images"]}
    assert len(name) == 8 and sorted(row["image_id"] for row in rows) == sorted(name)
    assert sorted(name[box["image_id"]] for box in truth["annotations"]) == [
        f"{letter}-box.png" for letter in "abcef"
    ]


@pytest.mark.parametrize("k", [2, 7])
def test_too_few_or_too_many_folds_are_refused(coco, tmp_path, k):
    with pytest.raises(DescryError, match=f"{k} folds of 6 patients .* from 3 to that"):
        folds.split(coco, k, 0, tmp_path / "folds")

"""What conversion writes opens in other tools, with every box where it is.

A tool is used if it can be imported here or by one of the interpreters in DESCRY_PEERS (separated
by ":"), as in environments of their own; else its test is skipped.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_readers import OPTIONS, ROW, YAML, put, tree
from toy_source import opened

from pipeline.convert import convert
from pipeline.convert.export import write_yolo

# By name of the image: (x, y, width, height, class).
EXPECTED = {
    "a": [(8, 4, 4, 2, "cell"), (16, 6, 8, 8, "wbc")],
    "b": [(16, 6, 8, 8, "wbc")],
    "c": [],
    "d": [(16, 6, 8, 8, "wbc")],
}

SCRIPTS = {
    # Each enters (x, y, width, height, class) by image, of the COCO set and of the YOLO set.
    "supervision": """
import supervision as sv
for split in ("train", "val", "test"):
    sets = [sv.DetectionDataset.from_coco(coco + "/images", coco + f"/annotations/{split}.json"),
            sv.DetectionDataset.from_yolo(yolo + f"/images/{split}", yolo + f"/labels/{split}",
                                          yolo + "/data.yaml")]
    for found, one in zip((of_coco, of_yolo), sets):
        for path, image, seen in one:
            assert image.shape == (20, 40, 3)
            enter(found, path, [(x, y, X - x, Y - y, one.classes[c])
                                for (x, y, X, Y), c in zip(seen.xyxy, seen.class_id)])
""",
    "datumaro": """
import datumaro
for split in ("train", "val", "test"):
    for found, one in ((of_coco, datumaro.Dataset.import_from(
                            coco + f"/annotations/{split}.json", "coco_instances")),
                       (of_yolo, datumaro.Dataset.import_from(yolo, "yolo"))):
        names = [label.name for label in one.categories()[datumaro.AnnotationType.label]]
        for item in one:
            # A COCO entry becomes two, its box and its outline.
            boxes = [(*a.get_bbox(), names[a.label]) for a in item.annotations
                     if a.type == datumaro.AnnotationType.bbox]
            enter(found, item.id, boxes)
""",
    "ultralytics": """
from ultralytics.data.utils import check_det_dataset
from ultralytics.data.dataset import YOLODataset
data = check_det_dataset(yolo + "/data.yaml", autodownload=False)
for split in ("train", "val", "test"):
    for label in YOLODataset(img_path=data[split], data=data, imgsz=64, augment=False).labels:
        height, width = label["shape"]
        enter(of_yolo, label["im_file"], [
            ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height,
             data["names"][int(c)]) for (x, y, w, h), (c,) in zip(label["bboxes"], label["cls"])])
of_coco = None
""",
}
FRAME = """
import json, os, sys
coco, yolo = sys.argv[1:]
of_coco, of_yolo = {{}}, {{}}
def enter(found, path, boxes):
    name = os.path.splitext(os.path.basename(str(path)))[0]
    found[name] = sorted([*(round(float(v), 3) for v in box[:4]), box[4]] for box in boxes)
{script}
print("RESULT" + json.dumps([of_coco, of_yolo]))
"""


@functools.cache
def interpreter(package: str) -> str | None:
    """The first interpreter that has a package."""
    for python in (sys.executable, *filter(None, os.environ.get("DESCRY_PEERS", "").split(":"))):
        code = (
            f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
        )
        if subprocess.run([python, "-c", code], check=False).returncode == 0:
            return python
    return None


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("sets")
    raw = put(tree(root / "raw", *(f"images/{n}.png" for n in "abcd")), "data.yaml", YAML)
    for name in "abd":
        more = "0 0.25 0.25 0.1 0.1\n" if name == "a" else ""
        put(raw, f"labels/{name}.txt", f"{ROW}\n{more}")
    convert(opened("spots", raw), root / "coco", **OPTIONS)
    write_yolo(root / "coco", root / "yolo")
    return root / "coco", root / "yolo"


@pytest.mark.slow
@pytest.mark.parametrize("package", SCRIPTS)
def test_written_sets_open_in(package, written, tmp_path):
    python = interpreter(package)
    if python is None:
        pytest.skip(f"pip install {package} apart, and name its python in DESCRY_PEERS")
    code = FRAME.format(script=SCRIPTS[package])
    env = os.environ | {"PYTHONPATH": "", "YOLO_CONFIG_DIR": str(tmp_path), "YOLO_OFFLINE": "true"}
    done = subprocess.run(
        [python, "-c", code, *map(str, written)],
        capture_output=True, text=True, check=False, env=env, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    expected = {name: sorted(map(list, boxes)) for name, boxes in EXPECTED.items()}
    for found in json.loads(line.removeprefix("RESULT")):
        assert found is None or found == expected

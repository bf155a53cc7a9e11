"""A converted dataset in the form of other tools."""

import os
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.convert.records import SPLITS
from pipeline.data.coco import load_coco
from pipeline.errors import DescryError

FORMATS = ("yolo",)


def write_yolo(coco: Path, out: Path) -> None:
    """Write a converted dataset as YOLO folders, which Ultralytics trains on.

    ``images/<split>``, ``labels/<split>`` (a row per box, ``class cx cy w h`` in fractions of the
    image; an empty file for an image without boxes) and ``data.yaml``. Images are hard links
    where the file system has them, else copies. Crowds are left out: the format has none.

    Parameters
    ----------
    coco : Path
        A converted dataset: ``annotations/`` and ``images/``.
    out : Path
        New, or empty.

    Raises
    ------
    DescryError
        When `out` has something in it.
    """
    if out.exists() and any(out.iterdir()):
        raise DescryError(f"{out}: is not empty. Remove it, or give another --out.")
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    names: list[str] = []
    for split in SPLITS:
        content = load_coco(coco / "annotations" / f"{split}.json")
        names = [entry["name"] for entry in content["categories"]]
        _write_split(content, coco / "images", partial, split)
    places = {split: f"images/{split}" for split in SPLITS}
    # Without `path` places count from the yaml; with "." from wherever Ultralytics is started.
    settings = {**places, "names": dict(enumerate(names))}
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    (partial / "data.yaml").write_text(text, encoding="utf-8")
    if out.exists():
        out.rmdir()
    partial.replace(out)


def _write_split(content: Mapping[str, Any], images: Path, out: Path, split: str) -> None:
    rows: dict[int, list[str]] = defaultdict(list)
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for annotation in content["annotations"]:
        if not annotation["iscrowd"]:
            rows[annotation["image_id"]].append(_row(annotation, *sizes[annotation["image_id"]]))
    for kind in ("images", "labels"):
        (out / kind / split).mkdir(parents=True, exist_ok=True)
    for image in content["images"]:
        target = out / "images" / split / image["file_name"]
        label = (out / "labels" / split / image["file_name"]).with_suffix(".txt")
        for path in (target, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        _link(images / image["file_name"], target)
        label.write_text("".join(rows[image["id"]]), encoding="utf-8")


def _row(annotation: Mapping[str, Any], width: int, height: int) -> str:
    """One label line; category ids count from 1, YOLO's from 0."""
    x, y, w, h = annotation["bbox"]
    parts = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
    return " ".join([str(annotation["category_id"] - 1), *(f"{part:.9g}" for part in parts)]) + "\n"


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)

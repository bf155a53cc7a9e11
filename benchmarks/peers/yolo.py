"""YOLO11n from random weights with its ordinary recipe, on a converted dataset.

Run with the python of an environment that has ultralytics (AGPL-3.0), never with the project's.
Goes on where it was stopped.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

sys.modules["dvclive"] = None  # type: ignore[assignment]  # else it writes into our dvc.yaml

from ultralytics import YOLO  # noqa: E402


def as_yolo(coco: Path, out: Path) -> Path:
    """Write the dataset with a text file of labels beside each image; return its yaml."""
    classes: list[dict] = []
    for split in ("train", "val", "test"):
        tree = json.loads((coco / f"annotations/{split}.json").read_text())
        classes = sorted(tree["categories"], key=lambda c: c["id"])
        place = {c["id"]: i for i, c in enumerate(classes)}
        lines: dict[int, list[str]] = {image["id"]: [] for image in tree["images"]}
        sizes = {image["id"]: (image["width"], image["height"]) for image in tree["images"]}
        for a in tree["annotations"]:
            (x, y, w, h), (width, height) = a["bbox"], sizes[a["image_id"]]
            centre = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
            values = " ".join(f"{v:.6f}" for v in centre)
            lines[a["image_id"]].append(f"{place[a['category_id']]} {values}")
        for image in tree["images"]:
            source = coco / "images" / image["file_name"]
            target = out / "images" / split / f"{image['id']}{source.suffix}"
            labels = out / "labels" / split / f"{image['id']}.txt"
            target.parent.mkdir(parents=True, exist_ok=True)
            labels.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copyfile(source, target)
            labels.write_text("\n".join(lines[image["id"]]))
    names = {i: c["name"] for i, c in enumerate(classes)}
    about = {"path": str(out.resolve()), "train": "images/train", "val": "images/val"}
    (out / "data.yaml").write_text(json.dumps({**about, "names": names}))  # JSON is YAML
    return out / "data.yaml"


def detect(model: YOLO, coco: Path, folder: Path, split: str, size: int) -> list[dict]:
    """COCO results of a split."""
    tree = json.loads((coco / f"annotations/{split}.json").read_text())
    ids = [c["id"] for c in sorted(tree["categories"], key=lambda c: c["id"])]
    rows = []
    for path in sorted((folder / "images" / split).iterdir()):
        found = model.predict(path, imgsz=size, conf=0.001, max_det=100, verbose=False)[0].boxes
        for box, score, label in zip(found.xyxy, found.conf, found.cls, strict=True):
            x1, y1, x2, y2 = (round(v, 2) for v in box.tolist())
            bbox = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
            row = {"image_id": int(path.stem), "category_id": ids[int(label)], "bbox": bbox}
            rows.append({**row, "score": round(float(score), 5)})
    return rows


def main() -> None:
    """Train, detect on the test split, write ``results.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    given = parser.parse_args()
    data = as_yolo(given.coco, given.out / "yolo")
    last = given.out / "train/weights/last.pt"
    if last.exists():
        model = YOLO(last)
        model.train(resume=True)
    else:
        model = YOLO("yolo11n.yaml")
        model.train(
            data=str(data),
            epochs=given.epochs,
            imgsz=given.size,
            batch=given.batch,
            seed=given.seed,
            device="cpu",
            workers=0,
            pretrained=False,
            plots=False,
            verbose=False,
            exist_ok=True,
            project=str(given.out.resolve()),
            name="train",
        )
    best = YOLO(given.out / "train/weights/best.pt")
    rows = detect(best, given.coco, given.out / "yolo", "test", given.size)
    (given.out / "results.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main()

"""A small dataset with detections of every kind, for the tests of the local page."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = [{"id": 1, "name": "cell"}, {"id": 2, "name": "clump"}]
TEST = [  # image, category, box, crowd
    (1, 1, [10, 10, 20, 20], 0),
    (1, 2, [60, 40, 30, 30], 0),
    (2, 1, [40, 40, 40, 40], 0),
    (2, 1, [0, 0, 30, 30], 1),
]
FOUND = [  # image, category, box, score
    (1, 1, [10, 10, 20, 20], 0.9),  # right
    (1, 1, [60, 40, 30, 30], 0.6),  # of the other class
    (2, 1, [60, 40, 40, 40], 0.8),  # IoU 1 / 3
    (3, 2, [5, 5, 10, 10], 0.7),  # nothing there
    (3, 2, [70, 5, 10, 10], 0.2),  # below a threshold of 0.5
]


def make_browsed(folder: Path) -> Path:
    """Three test images with ``found.json`` beside them, one training image without."""
    (folder / "coco/annotations").mkdir(parents=True)
    (folder / "coco/images").mkdir()
    for i in range(1, 5):
        pixels = np.full((80, 100), i * 40, dtype=np.uint8)
        pixels[:, :50] = 0
        Image.fromarray(pixels).save(folder / f"coco/images/{i}.png")
    write_coco(folder, "test", (1, 2, 3), TEST)
    write_coco(folder, "train", (4,), [(4, 1, [0, 0, 50, 80], 0)])
    results = [
        {"image_id": i, "category_id": c, "bbox": box, "score": score} for i, c, box, score in FOUND
    ]
    (folder / "found.json").write_text(json.dumps(results))
    return folder


def write_coco(folder: Path, split: str, images: tuple[int, ...], rows: list[Any]) -> None:
    """Write one split's COCO file; annotation ids begin at 11."""
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 80} for i in images],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": box, "iscrowd": crowd}
            for n, (i, c, box, crowd) in enumerate(rows, 11)
        ],
        "categories": CATEGORIES,
    }
    (folder / f"coco/annotations/{split}.json").write_text(json.dumps(content))

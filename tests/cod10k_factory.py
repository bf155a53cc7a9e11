"""Releases of COD10K of a few pixels, for its tests."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.convert.datasets.cod10k.source import Cod10k
from pipeline.convert.records import Ledger, Picture, Record

SAMPLE = Path(__file__).parents[1] / "datasets" / "cod10k" / "sample"
FISH = "COD10K-CAM-1-Aquatic-6-Fish-1"
MOTH = "COD10K-CAM-3-Flying-64-Moth-2"
PLANT = "COD10K-NonCAM-5-Background-5-Vegetation-3"
W, H = 40, 30


def save_image(
    path: Path, size: tuple[int, int] = (W, H), tone: int = 90, **options: object
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (tone, 80, 70)).save(path, **options)


def save_mask(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def two_fish(dtype: type = np.uint8, levels: tuple[int, int] = (1, 2)) -> np.ndarray:
    """Two objects on a mask: boxes (4, 5, 6, 10) and (20, 2, 10, 3)."""
    mask = np.zeros((H, W), dtype)
    mask[5:15, 4:10] = levels[0]
    mask[2:5, 20:30] = levels[1]
    return mask


def coco(images: list[dict], annotations: list[dict]) -> dict:
    return {"info": {}, "categories": [{"id": 1, "name": "x"}]} | {
        "images": images,
        "annotations": annotations,
    }


def image_row(image_id: object, name: str, **more: object) -> dict:
    return {"id": image_id, "file_name": f"{name}.jpg", "width": W, "height": H} | more


def box_row(image_id: object, bbox: object, **more: object) -> dict:
    return {"id": 1, "image_id": image_id, "category_id": 1, "bbox": bbox} | more


def release(root: Path) -> Path:
    """The smallest COD10K-v3: Train with a fish and a plant, Test with a moth."""
    for split, names in (("Train", (FISH, PLANT)), ("Test", (MOTH,))):
        for tone, name in enumerate(names):
            save_image(
                root / split / "Image" / f"{name}.jpg",
                tone=60 * tone + (30 if split == "Train" else 200),
            )
    write_json(root, "Train", coco([image_row(7, FISH)], [box_row(7, [4, 5, 6, 10])]))
    write_json(root, "Test", coco([image_row(1, MOTH)], [box_row(1, [1, 2, 3, 4])]))
    return root


def with_masks(root: Path, kind: str = "GT_Instance", mask: np.ndarray | None = None) -> Path:
    """A release that has masks instead of the JSON."""
    release(root)
    for split, names in (("Train", (FISH, PLANT)), ("Test", (MOTH,))):
        (root / split / f"CAM_Instance_{split}.json").unlink()
        for name in names:
            empty = np.zeros((H, W), np.uint8)
            values = empty if name == PLANT else two_fish() if mask is None else mask
            save_mask(root / split / kind / f"{name}.png", values)
    return root


def write_json(root: Path, split: str, content: object) -> None:
    path = root / split / f"CAM_Instance_{split}.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def scan(source: Cod10k) -> tuple[dict[str, Record], Ledger]:
    ledger = Ledger()
    records = list(source.scan(ledger))
    return {record.key: record for record in records}, ledger


def boxes_of(item: Record | Picture) -> list[tuple[float, float, float, float, str]]:
    return [(b.x, b.y, b.width, b.height, b.label) for b in item.boxes]


def drops_of(ledger: Ledger) -> list[tuple[str, str, str]]:
    return sorted((drop.kind, drop.where, drop.reason) for drop in ledger.drops)

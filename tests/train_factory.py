"""Small training runs: bright squares on dark images, micro models, 64 px."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.config import Train
from pipeline.data.coco import write_coco
from pipeline.data.intensity import Intensity
from pipeline.evaluate.operating_point import validate
from pipeline.models.params import DetectorSpec
from pipeline.train.run import train
from pipeline.train.settings import Machine, Settings

SPEC = DetectorSpec(
    backbone="vit",
    size="micro",
    num_classes=1,
    fpn_channels=16,
    anchor_scale=2.0,
    pool_layers=1,
    concepts=4,
)
SETTINGS = Settings(
    dataset="squares",
    modality=("CR",),
    image_size=64,
    intensity=Intensity(),
    epochs=2,
    batch_size=2,
    augment="flip",
    data_terms="drawn squares, public domain",
    train=Train(lr=5e-4, lr_batch=2, warmup=0.1, fused=False),
)
SAME = (
    "model.safetensors",
    "last.safetensors",
    "best.safetensors",
    "history.csv",
    "about.json",
)  # in equal runs


def make_squares(folder: Path, counts=(("train", 6), ("val", 3), ("test", 3))) -> Path:
    """A converted dataset: a bright square each on a dark image; every third image is empty."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in counts:
        images, annotations = [], []
        for i in range(count):
            pixels = rng.integers(0, 60, (48, 64), dtype=np.uint8)
            if i % 3:
                x, y = map(int, rng.integers(2, 24, 2))
                pixels[y : y + 20, x : x + 20] += 180
                box = {"image_id": i + 1, "category_id": 1, "bbox": [x, y, 20, 20]}
                annotations.append(box)
            name = f"{split}{i}.png"
            Image.fromarray(pixels).save(folder / "images" / name)
            images.append({"file_name": name, "width": 64, "height": 48})
        write_coco(
            folder / f"annotations/{split}.json",
            info={},
            licenses=[],
            categories=[("square", "")],
            images=images,
            annotations=annotations,
        )
    return folder


def run(
    coco: Path, out: Path, spec=SPEC, settings=SETTINGS, evaluator=validate, scratch=None, **machine
) -> Path:
    """Train; a checkpoint after every step unless said otherwise."""
    machine = {"checkpoint_minutes": 0.0} | machine
    train(
        coco, out, spec, settings, evaluator, Machine(scratch=scratch or out / "scratch", **machine)
    )
    return out


def changed(settings=SETTINGS, **knobs):
    """Settings with other values, of their own or of their group `train`."""
    own = {field.name for field in fields(Settings)}
    outer = {name: value for name, value in knobs.items() if name in own}
    inner = {name: value for name, value in knobs.items() if name not in own}
    return replace(settings, **outer, train=replace(settings.train, **inner))


def same_bytes(one: Path, two: Path) -> list[str]:
    """Names of files that should be equal and are not."""
    return [name for name in SAME if (one / name).read_bytes() != (two / name).read_bytes()]

"""Small training runs: bright squares on dark images, micro models, 64 px."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.coco import write_coco
from pipeline.data.intensity import Intensity
from pipeline.evaluate.operating_point import validate
from pipeline.models.params import DetectorSpec
from pipeline.train.run import train
from pipeline.train.schedule import Optimisation
from pipeline.train.settings import Judge, Machine, Settings

SPEC = DetectorSpec(
    backbone="vit",
    size="micro",
    num_classes=1,
    fpn_channels=16,
    anchor_scale=2.0,
    pool_layers=1,
    concepts=4,
)
OPTIMISATION = Optimisation(lr=5e-4, lr_batch=2, weight_decay=0.05, warmup=0.1, final_lr=0.01)
SETTINGS = Settings(
    dataset="squares",
    modality=("CR",),
    image_size=64,
    intensity=Intensity(),
    epochs=2,
    batch_size=2,
    optimisation=OPTIMISATION,
    augment="flip",
    seed=0,
)
JUDGE = Judge(
    lambda truth, rows: validate(truth, rows)[0], lambda truth, rows: validate(truth, rows)[1]
)
SAME = ("model.pt", "last.pt", "best.pt", "history.csv", "about.json")  # in equal runs


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
    coco: Path, out: Path, spec=SPEC, settings=SETTINGS, judge=JUDGE, scratch=None, **machine
) -> Path:
    """Train; a checkpoint after every step unless said otherwise."""
    machine = {"checkpoint_minutes": 0.0} | machine
    train(coco, out, spec, settings, judge, Machine(scratch=scratch or out / "scratch", **machine))
    return out


def changed(**optimisation):
    """SETTINGS with another optimisation."""
    return replace(SETTINGS, optimisation=replace(OPTIMISATION, **optimisation))


def same_bytes(one: Path, two: Path) -> list[str]:
    """Names of files that should be equal and are not."""
    return [name for name in SAME if (one / name).read_bytes() != (two / name).read_bytes()]

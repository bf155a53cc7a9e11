"""What a model file says of itself, before its validation figures are known."""

import hashlib
import platform
from dataclasses import asdict
from typing import Any

import torch
import torchvision

import pipeline
from pipeline.data.index import CocoIndex
from pipeline.train.module import Steps
from pipeline.train.settings import Settings

INTENDED_USE = "Research only. Not a medical device; not for diagnosis or treatment."
_ELSEWHERE = ("dataset", "modality", "image_size", "intensity", "epochs", "seed")


def describe(
    settings: Settings, training: CocoIndex, data: str, steps: Steps, device: str, world: int
) -> dict[str, Any]:
    """Origin and way of use of a model; `data` is the digest of the data it learns from.

    Plain values that JSON can hold, without times or places: equal runs say the same.
    """
    chosen = asdict(settings)
    return {
        **{name: chosen[name] for name in _ELSEWHERE},
        "categories": [list(category) for category in training.categories],
        "score_threshold": 0.0,
        "intended_use": INTENDED_USE,
        "training": {name: chosen[name] for name in chosen if name not in _ELSEWHERE}
        | {"images_per_step": steps.images, "device": device, "processes": world},
        "training_images": len(training),
        "longest_side": int(training.sizes.max()),  # px; says which pictures are far larger
        "training_annotations_sha256": hashlib.sha256(training.path.read_bytes()).hexdigest(),
        "data_sha256": data,
        "versions": {
            "descry": pipeline.__version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "python": platform.python_version(),
        },
    }

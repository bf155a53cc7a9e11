"""The validation split: scores, the operating point, and the model as it is at that moment."""

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torchvision

import pipeline
from pipeline.data.index import CocoIndex
from pipeline.models.detector import Detector
from pipeline.models.inference import detect_split
from pipeline.models.params import DetectorSpec
from pipeline.models.saved import SavedModel
from pipeline.train.guards import naming_a_full_disk
from pipeline.train.module import Steps
from pipeline.train.settings import Evaluator, Settings

INTENDED_USE = "Research only. Not a medical device; not for diagnosis or treatment."
_ON_TOP = (  # what is not in `training`
    "dataset",
    "data_terms",
    "modality",
    "image_size",
    "intensity",
    "epochs",
    "seed",
)


class Validator:
    """Validates a detector in training.

    Parameters
    ----------
    about : mapping
        What a model file says of itself, but for what is found here.
    batch_size : int
        Images a call of the model.
    """

    def __init__(
        self,
        detector: Detector,
        spec: DetectorSpec,
        about: Mapping[str, Any],
        index: CocoIndex,
        evaluator: Evaluator,
        batch_size: int,
    ) -> None:
        self.detector, self.spec, self.about = detector, spec, about
        self.index, self.evaluator, self.batch_size = index, evaluator, batch_size

    def model(self, epoch: int) -> SavedModel:
        """The detector as a complete model, with its validation figures and operating point."""
        model = SavedModel(self.detector, self.spec, self.about)
        try:
            with torch.random.fork_rng(devices=()):  # loaders draw a seed, training must not see
                found = detect_split(model, self.index, batch_size=self.batch_size)
        finally:
            self.detector.train()
        scores, point = self.evaluator(self.index.path, found)
        model.score_threshold = point.threshold
        model.meta |= {"epoch": epoch, "validation": scores, **point.recorded()}
        return model


def save_model(model: SavedModel, path: Path) -> None:
    """Write a model file; see `naming_a_full_disk` for what happens when there is no room."""
    needed = sum(v.numel() * v.element_size() for v in model.detector.state_dict().values())
    with naming_a_full_disk(path, needed):
        model.save(path)


def describe(
    settings: Settings, training: CocoIndex, data: str, steps: Steps, device: str, world: int
) -> dict[str, Any]:
    """Origin and way of use of a model; `data` is the digest of the data it learns from.

    Plain values that JSON can hold, without times or places: equal runs say the same.
    """
    chosen = asdict(settings)
    chosen |= chosen.pop("train")
    chosen["init"] = Path(chosen["init"]).name  # where it lies is nobody's business
    return {
        **{name: chosen[name] for name in _ON_TOP} | {"epochs": steps.epochs},
        "categories": [list(category) for category in training.categories],
        "score_threshold": 0.0,
        "intended_use": INTENDED_USE,
        "training": {name: chosen[name] for name in chosen if name not in _ON_TOP}
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

"""The validation split: scores, the operating point, and the model as it is at that moment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.data.index import CocoIndex
from pipeline.models.detector import Detector
from pipeline.models.inference import detect_split
from pipeline.models.params import DetectorSpec
from pipeline.models.saved import SavedModel
from pipeline.train.scratch import naming_a_full_disk
from pipeline.train.settings import Judge


class Validation:
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
        judge: Judge,
        batch_size: int,
    ) -> None:
        self.detector, self.spec, self.about = detector, spec, about
        self.index, self.judge, self.batch_size = index, judge, batch_size

    def model(self, epoch: int) -> SavedModel:
        """The detector as a complete model, with its validation figures and operating point."""
        model = SavedModel(self.detector, self.spec, self.about)
        try:
            with torch.random.fork_rng(devices=()):  # loaders draw a seed, training must not see
                found = detect_split(model, self.index, batch_size=self.batch_size)
        finally:
            self.detector.train()
        scores = self.judge.scores(self.index.path, found)
        point = self.judge.operating_point(self.index.path, found)
        model.score_threshold = point.threshold
        model.meta |= {"epoch": epoch, "validation": scores, **point.recorded()}
        return model


def save_model(model: SavedModel, path: Path) -> None:
    """Write a model file; see `naming_a_full_disk` for what happens when there is no room."""
    needed = sum(v.numel() * v.element_size() for v in model.detector.state_dict().values())
    with naming_a_full_disk(path, needed):
        model.save(path)

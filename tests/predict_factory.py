"""A detector that needs no weights, pictures for it, and what a run has written."""

import csv
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch

from pipeline.data.intensity import Intensity
from pipeline.data.masks import SoftMask
from pipeline.models.build import build_detector
from pipeline.models.params import DetectorSpec
from pipeline.models.saved import SavedModel


@dataclass
class Found:
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: list | None = None


@dataclass
class BrightSpots:
    """Finds the extent of all pixels above 200; the score is their mean over 255."""

    categories: tuple = ((1, "spot"), (2, "other"))
    intensity: Intensity = field(default_factory=Intensity)
    image_size: int = 64
    score_threshold: float = 0.5
    sha256: str = "0123"
    trained_on: str = "nothing"
    meta: dict = field(default_factory=dict)
    calls: list = field(default_factory=list)
    batches: count = field(default_factory=count)
    masked: bool = False  # with the whole box as its mask

    def detect(self, images):
        self.calls.append(len(images))
        return [self.look(image) for image in images]

    def look(self, image):
        grey = image if image.ndim == 2 else image[..., 0]
        rows, columns = np.nonzero(grey > 200)
        if len(rows) == 0:
            return Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        score = grey[rows, columns].mean() / 255
        whole = SoftMask(np.ones((1, 1), np.float32), 0, 0, image.shape[1], image.shape[0])
        masks = [whole] if self.masked else None
        return Found(np.array([box], float), np.array([score]), np.array([1]), masks)


class Stops(BrightSpots):
    """Is interrupted at its third batch."""

    def detect(self, images):
        if next(self.batches) == 2:
            raise KeyboardInterrupt
        return super().detect(images)


def spot(value=255, size=(40, 50), at=(10, 20, 5, 8)):
    """A dark picture with a bright rectangle: x, y, width, height."""
    pixels = np.full(size, 30, np.uint8)
    x, y, width, height = at
    pixels[y : y + height, x : x + width] = value
    return pixels


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def content(folder):
    """Every file but timing.json, as bytes."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in files if p.name != "timing.json"
    }


SPEC = DetectorSpec(
    backbone="vit",
    size="micro",
    num_classes=2,
    fpn_channels=32,
    anchor_scale=2.0,
    score_threshold=0.0,
    max_detections=20,
    pool_layers=1,
    concepts=3,
)
META = {
    "categories": [[1, "spot"], [2, "other"]],
    "intensity": {"low_percentile": 0.5, "high_percentile": 99.5, "window": "first"},
    "image_size": 64,
    "score_threshold": 0.3,
    "dataset": "toy",
}


def tiny_model():
    """A detector with random weights that finds many things."""
    torch.manual_seed(0)
    return SavedModel(build_detector(SPEC), SPEC, META)

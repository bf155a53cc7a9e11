"""Training samples: decode, 8 bits, augment, fit to the square.

Augmentation is keyed by (seed, epoch, index): which worker makes a sample, and how many workers
there are, changes nothing.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from pipeline.data.geometry import fit_square, to_tensor
from pipeline.data.index import CocoIndex
from pipeline.data.intensity import Intensity
from pipeline.data.pixels import load_pixels

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks the network otherwise

import albumentations as A

MIN_SIDE = 1.0  # px; a box that augmentation leaves thinner than this teaches nothing


@dataclass(slots=True)
class Sample:
    """One training image.

    Attributes
    ----------
    image : tensor (3, S, S), uint8
    boxes : tensor (n, 4), float32, xyxy in pixels of the square; n may be 0
    labels : tensor (n,), int64, from 0
    image_id : int
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    image_id: int


class DetectionDataset(Dataset[Sample]):
    """Samples of a `CocoIndex`, addressed by (epoch, index)."""

    def __init__(
        self,
        index: CocoIndex,
        *,
        image_size: int,
        intensity: Intensity,
        transforms: Sequence[A.BasicTransform] = (),
        seed: int = 0,
    ) -> None:
        self.index, self.image_size, self.intensity, self.seed = index, image_size, intensity, seed
        boxes = A.BboxParams("pascal_voc", label_fields=["labels"], clip=True)
        self.augment = A.Compose(list(transforms), bbox_params=boxes)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, address: tuple[int, int]) -> Sample:
        epoch, i = address
        pixels = load_pixels(self.index, i, self.intensity)
        boxes, labels = self.index.objects(i)
        self.augment.set_random_seed(sample_seed(self.seed, epoch, i))
        out = self.augment(image=pixels, bboxes=boxes, labels=labels)
        boxes = np.asarray(out["bboxes"], dtype=np.float32).reshape(-1, 4)
        labels = np.asarray(out["labels"], dtype=np.int64).reshape(-1)
        square, fit = fit_square(out["image"], self.image_size)
        boxes = fit.boxes_in(boxes)
        keep = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) >= MIN_SIDE
        return Sample(
            to_tensor(square),
            torch.from_numpy(boxes[keep].astype(np.float32)),
            torch.from_numpy(labels[keep]),
            int(self.index.image_ids[i]),
        )


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """A 32-bit seed that differs for every (seed, epoch, index)."""
    return int(np.random.SeedSequence((seed, epoch, index)).generate_state(1)[0])


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index) in an order that depends on the seed and the epoch alone."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        return iter([(self.epoch, int(i)) for i in order])


def collate(samples: Sequence[Sample]) -> list[Sample]:
    """Keep samples apart: their numbers of boxes differ."""
    return list(samples)

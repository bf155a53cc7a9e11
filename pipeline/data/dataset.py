"""Training samples: a picture, augmented and fitted to the square.

Augmentation is keyed by (seed, epoch, index): which worker makes a sample, and how many workers
there are, changes nothing.
"""

import albumentations as A
import numpy as np
import torch
from torch.utils.data import Dataset

from pipeline.data.cache import PictureSource
from pipeline.data.geometry import fit_square
from pipeline.data.order import Address
from pipeline.data.sample import Sample, to_tensor

MIN_SIDE = 1.0  # px; a box that augmentation leaves thinner than this teaches nothing


class DetectionDataset(Dataset[Sample]):
    """Samples of a `CocoIndex`, each named by an `Address`.

    Parameters
    ----------
    source : PictureSource
    augment : albumentations.Compose
        From `pipeline.data.augment.augmentation`.
    seed : int
    """

    def __init__(self, source: PictureSource, augment: A.Compose, seed: int) -> None:
        self.source, self.augment, self.seed = source, augment, seed

    def __len__(self) -> int:
        return len(self.source.index)

    def __getitem__(self, address: Address) -> Sample:
        epoch, i, size = address
        pixels, boxes, labels = self._picture(i)
        self.augment.set_random_seed(sample_seed(self.seed, epoch, i))
        out = self.augment(image=pixels, bboxes=boxes, labels=labels)
        square, fit = fit_square(out["image"], size)
        boxes = fit.boxes_in(np.asarray(out["bboxes"], dtype=np.float32).reshape(-1, 4))
        labels = np.asarray(out["labels"], dtype=np.int64).reshape(-1)
        keep = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) >= MIN_SIDE
        return Sample(
            to_tensor(square),
            torch.from_numpy(boxes[keep].astype(np.float32)),
            torch.from_numpy(labels[keep]),
            int(self.source.index.image_ids[i]),
        )

    def _picture(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels (H, W) or (H, W, 3), boxes (n, 4) xyxy in them, labels (n,)."""
        pixels = self.source.load(i)
        boxes, labels = self.source.index.objects(i)
        shrunk = np.array(pixels.shape[1::-1]) / self.source.index.sizes[i]  # x, y
        return pixels, (boxes * np.tile(shrunk, 2)).astype(np.float32), labels


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """A 32-bit seed that differs for every (seed, epoch, index)."""
    return int(np.random.SeedSequence((seed, epoch, index)).generate_state(1)[0])

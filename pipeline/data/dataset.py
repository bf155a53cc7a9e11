"""Training samples: a picture, augmented and fitted to the square, or parts of four.

Augmentation is keyed by (seed, epoch, index, turn): which worker makes a sample, and how many
workers there are, changes nothing.
"""

import albumentations as A
import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from pipeline.data.cache import PictureSource
from pipeline.data.geometry import fit_square, shrink
from pipeline.data.masks import CELL
from pipeline.data.mosaic import Picture, mosaic, partners
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
    weak : (int, albumentations.Compose), optional
        The first epoch that has another augmentation, and no mosaics, and this augmentation.
    mosaics : float
        Share of the samples that are made of parts of four pictures.
    """

    def __init__(
        self,
        source: PictureSource,
        augment: A.Compose,
        seed: int,
        *,
        weak: tuple[int, A.Compose] | None = None,
        mosaics: float = 0.0,
    ) -> None:
        self.source, self.augment, self.seed = source, augment, seed
        self.weak, self.mosaics = weak, mosaics

    def __len__(self) -> int:
        return len(self.source.index)

    def __getitem__(self, address: Address) -> Sample:
        picture = self._augmented(address)
        if self.mosaics and not self._is_weak(address.epoch):
            more, rng = partners(self.seed, address.drawn, len(self), self.mosaics)
            if more:
                others = [self._augmented(address._replace(image=j)) for j in more]
                picture = mosaic([picture, *others], rng)
        square, boxes, labels, masks = picture
        keep = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) >= MIN_SIDE
        return Sample(
            to_tensor(square),
            torch.from_numpy(boxes[keep].astype(np.float32)),
            torch.from_numpy(labels[keep]),
            int(self.source.index.image_ids[address.image]),
            None if masks is None else _cells(masks[keep], address.size),
        )

    def _is_weak(self, epoch: int) -> bool:
        return self.weak is not None and epoch >= self.weak[0]

    def _augmented(self, address: Address) -> Picture:
        """A picture after augmentation, fitted to the square."""
        pixels, boxes, labels = self._picture(address.image)
        masks = None if self.source.index.masked is None else self._masks(address.image, pixels)
        augment = self.weak[1] if self.weak and self._is_weak(address.epoch) else self.augment
        augment.set_random_seed(sample_seed(self.seed, *address.drawn))
        moving = {} if masks is None or not len(masks) else {"masks": masks}
        # numbers in the place of labels: they say which objects are left
        out = augment(image=pixels, bboxes=boxes, labels=np.arange(len(boxes)), **moving)
        square, fit = fit_square(out["image"], address.size)
        boxes = fit.boxes_in(np.asarray(out["bboxes"], dtype=np.float32).reshape(-1, 4))
        left = np.asarray(out["labels"], dtype=np.int64).reshape(-1)
        if masks is not None:
            side = address.size
            moved = [fit_square(out["masks"][k], side)[0] for k in left]
            masks = np.array(moved, dtype=np.uint8).reshape(-1, side, side)
        return Picture(square, boxes, labels[left], masks)

    def _masks(self, i: int, pixels: np.ndarray) -> np.ndarray:
        """Masks (n, H, W) of the objects on `pixels`, 0 to 255; all 0 where there is none."""
        height, width = pixels.shape[:2]
        masks = np.zeros((len(self.source.index.objects(i)[0]), height, width), dtype=np.uint8)
        for place, mask in enumerate(self.source.index.masks(i)):
            if mask is not None:
                whole = mask.astype(np.uint8) * 255
                masks[place] = shrink(whole, max(height, width))[0]
        return masks

    def _picture(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels (H, W) or (H, W, 3), boxes (n, 4) xyxy in them, labels (n,)."""
        pixels = self.source.load(i)
        boxes, labels = self.source.index.objects(i)
        shrunk = np.array(pixels.shape[1::-1]) / self.source.index.sizes[i]  # x, y
        return pixels, (boxes * np.tile(shrunk, 2)).astype(np.float32), labels


def _cells(masks: np.ndarray, side: int) -> torch.Tensor:
    """Share of each cell of the square that masks (n, side, side) cover, in 255ths."""
    cells = np.zeros((len(masks), side // CELL, side // CELL), dtype=np.uint8)
    for place, mask in enumerate(masks):
        cells[place] = cv2.resize(mask, cells.shape[:0:-1], interpolation=cv2.INTER_AREA)
    return torch.from_numpy(cells)


def sample_seed(seed: int, *place: int) -> int:
    """A 32-bit seed that differs for every seed and place (epoch, index)."""
    return int(np.random.SeedSequence((seed, *place)).generate_state(1)[0])

"""Batches for training, made by worker processes."""

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.data.augment import MOSAICS, augmentation
from pipeline.data.cache import CachePlan, PictureSource
from pipeline.data.dataset import DetectionDataset
from pipeline.data.index import CocoIndex
from pipeline.data.intensity import Intensity
from pipeline.data.order import EpochBatches, EpochSampler, rarity
from pipeline.data.sample import Batch, collate
from pipeline.errors import DescryError


@dataclass(frozen=True, slots=True)
class LoaderPlan:
    """Everything about training batches but the data.

    Attributes
    ----------
    image_size : int
        Side in pixels of the square that images are fitted into.
    intensity : Intensity
    augment : str
        Name of a recipe of `pipeline.data.augment`.
    strength : float
        Of this recipe.
    weak_from : int or None
        The first epoch in which it has strength 0 and there are no mosaics.
    mosaic : float
        Share of the samples that are mosaics, where the recipe is one of `MOSAICS`.
    oversample : float
        Share of images below which a class counts as rare, see `rarity`; 0: all images alike.
    seed : int
        Decides order, augmentation and sizes, together with the epoch.
    batch_size : int
        Images of a batch of one process.
    sizes : tuple of int
        Multi-scale training: sides in pixels of which each step takes one; empty: `image_size`.
    workers : int
        Loader processes; 0: the training process itself.
    rank, world_size : int
        Which of how many training processes this is.
    first_epoch, skip_batches : int
        For a run that goes on: the epoch it is in, and the batches of it that were had already.
    pin_memory : bool
        True for a GPU.
    cache : CachePlan or None
        Where decoded pictures are kept; None: they are decoded each time.
    """

    image_size: int
    intensity: Intensity
    augment: str
    seed: int
    batch_size: int
    sizes: tuple[int, ...] = ()
    strength: float = 1.0
    weak_from: int | None = None
    mosaic: float = 0.0
    oversample: float = 0.0
    workers: int = 0
    rank: int = 0
    world_size: int = 1
    first_epoch: int = 0
    skip_batches: int = 0
    pin_memory: bool = False
    cache: CachePlan | None = None


def training_loader(index: CocoIndex, plan: LoaderPlan) -> DataLoader[Batch]:
    """Shuffled, augmented batches, decided by the seed and the epoch alone.

    Lightning tells the sampler the epoch; other loops call
    ``loader.batch_sampler.sampler.set_epoch``.

    Raises
    ------
    DescryError
        See `epoch_batches`.
    """
    sides = plan.sizes or (plan.image_size,)
    source = PictureSource(index, plan.intensity, max(sides), plan.cache)
    return DataLoader(
        _dataset(source, plan),
        batch_sampler=epoch_batches(index, plan),
        num_workers=plan.workers,
        collate_fn=collate,
        pin_memory=plan.pin_memory,
        persistent_workers=plan.workers > 0,
        worker_init_fn=_start_worker,
    )


def epoch_batches(index: CocoIndex, plan: LoaderPlan) -> EpochBatches:
    """Which images make the batches of an epoch.

    Raises
    ------
    DescryError
        When there are fewer images than training processes.
    """
    if len(index) < plan.world_size:
        raise DescryError(
            f"{index.path}: {len(index)} training images for {plan.world_size} processes; "
            "start no more processes than there are images"
        )
    return EpochBatches(
        EpochSampler(len(index), plan.seed, plan.first_epoch, _weights(index, plan)),
        min(plan.batch_size, len(index) // plan.world_size),
        plan.sizes or (plan.image_size,),
        rank=plan.rank,
        world_size=plan.world_size,
        skip=(plan.first_epoch, plan.skip_batches),
    )


def _weights(index: CocoIndex, plan: LoaderPlan) -> np.ndarray | None:
    if not plan.oversample:
        return None
    return rarity([index.objects(i)[1] for i in range(len(index))], plan.oversample)


def _dataset(source: PictureSource, plan: LoaderPlan) -> Dataset[Any]:
    weak = None if plan.weak_from is None else (plan.weak_from, augmentation(plan.augment, 0.0))
    return DetectionDataset(
        source,
        augmentation(plan.augment, plan.strength),
        plan.seed,
        weak=weak,
        mosaics=plan.mosaic if plan.augment in MOSAICS else 0.0,
    )


def _start_worker(number: int) -> None:
    """Workers are many already: no threads of OpenCV's or torch's beside them.

    Frozen objects are not visited by the garbage collector, which would copy the memory that they
    share with the training process page by page.
    """
    gc.freeze()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


class ResumableLoader:
    """The batches that are left of a run, in one row.

    Lightning sees them as one epoch, so that a run which goes on needs nothing from Lightning's
    own counters. Its loader must begin at the same point: see `LoaderPlan.skip_batches`.

    Parameters
    ----------
    loader : DataLoader
        Its batch sampler has a sampler with `set_epoch`.
    batches, epochs : int
        Batches taken of each epoch; epochs of the whole run.
    epoch, batch : int
        Where the run is: finished epochs, and finished batches of the next one.

    Attributes
    ----------
    waited : float
        Seconds that the training loop has waited for batches.
    """

    def __init__(
        self, loader: DataLoader[Batch], batches: int, epochs: int, epoch: int, batch: int
    ) -> None:
        self.loader, self.batches, self.epochs = loader, batches, epochs
        self.epoch, self.batch = epoch, batch
        self.waited = 0.0

    def __len__(self) -> int:
        return (self.epochs - self.epoch) * self.batches - self.batch

    def __iter__(self) -> Iterator[Batch]:
        begin = self.batch
        for epoch in range(self.epoch, self.epochs):
            self.loader.batch_sampler.sampler.set_epoch(epoch)  # type: ignore[union-attr]
            batches = self._started()
            for _ in range(begin, self.batches):
                start = perf_counter()
                batch = next(batches)
                self.waited += perf_counter() - start
                check_boxes(batch)  # while it is on the CPU, where looking costs nothing
                yield batch
            begin = 0

    def _started(self) -> Iterator[Batch]:
        """An epoch's iterator; that it draws a seed must not touch the model's random numbers."""
        start = perf_counter()
        with torch.random.fork_rng(devices=()):
            batches = iter(self.loader)
        self.waited += perf_counter() - start
        return batches


def check_boxes(batch: Batch) -> None:
    """Refuse boxes without area; the data path drops them, so one here is a fault.

    Raises
    ------
    DescryError
        Naming the image.
    """
    for image_id, boxes in zip(batch.image_ids, batch.boxes, strict=True):
        if not bool((boxes[:, 2:] > boxes[:, :2]).all()):
            raise DescryError(
                f"image {image_id}: a box without area or with a side that is no number reached "
                f"the loss: {boxes.tolist()}; convert the dataset again or report it"
            )

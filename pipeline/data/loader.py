"""Batches for training, made by worker processes."""

import gc
from dataclasses import dataclass
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.data.augment import augmentation
from pipeline.data.cache import CachePlan, PictureSource
from pipeline.data.dataset import DetectionDataset
from pipeline.data.index import CocoIndex
from pipeline.data.intensity import Intensity
from pipeline.data.order import EpochBatches, EpochSampler
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
        When there are fewer images than training processes.
    """
    if len(index) < plan.world_size:
        raise DescryError(
            f"{index.path}: {len(index)} training images for {plan.world_size} processes; "
            "start no more processes than there are images"
        )
    sizes = plan.sizes or (plan.image_size,)
    batches = EpochBatches(
        EpochSampler(len(index), plan.seed, plan.first_epoch),
        min(plan.batch_size, len(index) // plan.world_size),
        sizes,
        rank=plan.rank,
        world_size=plan.world_size,
        skip=(plan.first_epoch, plan.skip_batches),
    )
    source = PictureSource(index, plan.intensity, max(sizes), plan.cache)
    dataset: Dataset[Any] = DetectionDataset(source, augmentation(plan.augment), plan.seed)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=plan.workers,
        collate_fn=collate,
        pin_memory=plan.pin_memory,
        persistent_workers=plan.workers > 0,
        worker_init_fn=_start_worker,
    )


def _start_worker(number: int) -> None:
    """Workers are many already: no threads of OpenCV's or torch's beside them.

    Frozen objects are not visited by the garbage collector, which would copy the memory that they
    share with the training process page by page.
    """
    gc.freeze()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)

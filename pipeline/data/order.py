"""Which images make which batch: decided by the seed and the epoch, shared out over processes."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

_SIZES = 1  # tells the stream of random sizes from that of the order


class Address(NamedTuple):
    """Names a training sample: which image, as it is in which epoch, on a square of `size` px.

    `turn` counts from 0 how often the image has been shown in the epoch before.
    """

    epoch: int
    image: int
    size: int
    turn: int = 0

    @property
    def drawn(self) -> tuple[int, ...]:
        """What the sample's random changes are keyed by."""
        place = (self.epoch, self.image)
        return (*place, self.turn) if self.turn else place


class EpochSampler(Sampler[int]):
    """Indices of images in an order that depends on the seed and the epoch alone.

    All of them, or with `weights` (n,) as many, of which each has a share as large as its weight.
    """

    def __init__(
        self, length: int, seed: int, epoch: int = 0, weights: NDArray[np.float64] | None = None
    ) -> None:
        self.length, self.seed, self.epoch, self.weights = length, seed, epoch, weights

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return map(int, self.order())

    def order(self) -> NDArray[np.int64]:
        """Places of the index (n,), shuffled."""
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.weights is None:
            return rng.permutation(self.length)
        # evenly spaced from a random start: each image as often as its share says, rounded
        ends = self.weights.cumsum() * (self.length / self.weights.sum())
        places = np.searchsorted(ends, np.arange(self.length) + rng.random(), side="right")
        return rng.permutation(places.clip(max=self.length - 1))


class EpochBatches(Sampler[list[Address]]):
    """Addresses of one process's batches; all batches of an epoch are full.

    A step takes `batch_size` x `world_size` successive images of the epoch's order, and process
    `rank` the `rank`-th part of them, so that a step sees the same images however many processes
    share it. The side of a step's square is drawn by the seed, the epoch and the step alone.

    Parameters
    ----------
    sampler : EpochSampler
    batch_size : int
        Images of one process's batch.
    sizes : tuple of int
        Sides in pixels, one of which each step takes.
    rank, world_size : int
        Which of how many processes this is.
    skip : (int, int)
        (epoch, batches): so many batches of this one epoch are left out, because an interrupted
        run has had them. The length stays that of a whole epoch.
    """

    def __init__(
        self,
        sampler: EpochSampler,
        batch_size: int,
        sizes: tuple[int, ...],
        *,
        rank: int = 0,
        world_size: int = 1,
        skip: tuple[int, int] = (0, 0),
    ) -> None:
        self.sampler, self.batch_size, self.sizes = sampler, batch_size, sizes
        self.rank, self.world_size, self.skip = rank, world_size, skip

    def __len__(self) -> int:
        return len(self.sampler) // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[Address]]:
        epoch, order = self.sampler.epoch, self.sampler.order()
        turns = _turns(order)
        begin = self.skip[1] if epoch == self.skip[0] else 0
        for step in range(begin, len(self)):
            start = (step * self.world_size + self.rank) * self.batch_size
            size, own = self._size(epoch, step), slice(start, start + self.batch_size)
            pairs = zip(order[own].tolist(), turns[own].tolist(), strict=True)
            yield [Address(epoch, i, size, turn) for i, turn in pairs]

    def _size(self, epoch: int, step: int) -> int:
        draw = np.random.default_rng((self.sampler.seed, epoch, step, _SIZES))
        return self.sizes[int(draw.integers(len(self.sizes)))]


def _turns(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each entry stands further to the front."""
    ranked = np.argsort(order, kind="stable")
    _, first, counts = np.unique(order[ranked], return_index=True, return_counts=True)
    turns = np.empty_like(order)
    turns[ranked] = np.arange(len(order)) - np.repeat(first, counts)
    return turns


def rarity(classes: Sequence[NDArray[np.int64]], threshold: float) -> NDArray[np.float64]:
    """Weights (n,) of images for the classes in them: "repeat factors" (LVIS, arXiv 1908.03195).

    The root of `threshold` over the share of images that have the image's rarest class, at least 1;
    images without objects weigh 1.
    """
    present = [np.unique(labels) for labels in classes]
    counts = np.bincount(np.concatenate(present)) if present else np.zeros(0, np.int64)
    factors = np.sqrt(threshold * len(classes) / np.maximum(counts, 1)).clip(min=1.0)
    return np.array([factors[labels].max(initial=1.0) for labels in present])

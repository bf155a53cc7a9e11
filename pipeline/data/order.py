"""Which images make which batch: decided by the seed and the epoch, shared out over processes."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

_SIZES = 1  # tells the stream of random sizes from that of the order


class Address(NamedTuple):
    """Names a training sample: which image, as it is in which epoch, on a square of `size` px."""

    epoch: int
    image: int
    size: int


class EpochSampler(Sampler[int]):
    """Indices of all images in an order that depends on the seed and the epoch alone."""

    def __init__(self, length: int, seed: int, epoch: int = 0) -> None:
        self.length, self.seed, self.epoch = length, seed, epoch

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return map(int, self.order())

    def order(self) -> NDArray[np.int64]:
        """All places of the index (n,), shuffled."""
        return np.random.default_rng((self.seed, self.epoch)).permutation(self.length)


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
        begin = self.skip[1] if epoch == self.skip[0] else 0
        for step in range(begin, len(self)):
            start = (step * self.world_size + self.rank) * self.batch_size
            size = self._size(epoch, step)
            yield [Address(epoch, int(i), size) for i in order[start : start + self.batch_size]]

    def _size(self, epoch: int, step: int) -> int:
        draw = np.random.default_rng((self.sampler.seed, epoch, step, _SIZES))
        return self.sizes[int(draw.integers(len(self.sizes)))]

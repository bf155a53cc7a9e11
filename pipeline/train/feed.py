"""All batches of a run, epoch after epoch, from any point on, with the time they are waited for."""

from collections.abc import Iterator
from time import perf_counter

import torch
from torch.utils.data import DataLoader

from pipeline.data.sample import Batch
from pipeline.train.guards import check_boxes


class Feed:
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

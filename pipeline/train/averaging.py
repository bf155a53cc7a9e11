"""The moving average of the weights: Lightning's callback with an average that suits short runs.

Lightning's own `EMAWeightAveraging` averages integer buffers too, which cuts them down to other
integers, and its first steps weigh as much as all others together in a short run.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


def moving_average(decay: float) -> WeightAveraging:
    """A callback that averages parameters and floating-point buffers after every step.

    Step n, from 1, uses min(decay, (1 + n) / (10 + n)), as TensorFlow's
    ``ExponentialMovingAverage`` does, so that the first weights are soon forgotten.
    """

    def update(average: Sequence[Tensor], current: Sequence[Tensor], steps: Tensor) -> None:
        n = int(steps)
        weight = 1.0 - min(decay, (1 + n) / (10 + n))
        if average[0].is_floating_point():
            torch._foreach_lerp_(list(average), list(current), weight)
        else:
            torch._foreach_copy_(list(average), list(current))

    return WeightAveraging(multi_avg_fn=update)


@contextmanager
def averaged(
    callback: WeightAveraging | None, trainer: L.Trainer, module: L.LightningModule
) -> Iterator[None]:
    """The module has the averaged weights inside the block."""
    if callback is None:
        yield
        return
    callback.on_validation_epoch_start(trainer, module)  # exchanges the two sets
    try:
        yield
    finally:
        callback.on_validation_epoch_end(trainer, module)

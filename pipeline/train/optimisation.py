"""What an update is: learning rate, weight decay, the moving average of the weights.

AdamW (arXiv 1711.05101) with linear warm-up, then a cosine, a flat part and a cosine, or decay in
steps. The moving average is Lightning's callback with an average that suits short runs: Lightning's
own `EMAWeightAveraging` averages integer buffers too, which cuts them down to other integers, and
its first steps weigh as much as all others together in a short run.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

from pipeline.config import Train

NO_DECAY = ("positions", "class_token", "gates", "table", "rpb", "slot", "rate")


def scaled_lr(train: Train, images: int) -> float:
    """Highest learning rate where a step takes `images` in all.

    For Adam it grows with the root of the images (arXiv 2205.10287), not as for SGD with them.
    """
    return train.lr * math.sqrt(images / train.lr_batch)


def lr_factor(step: int, steps: int, train: Train) -> float:
    """Share of the highest learning rate at a step, counted from 0, of so many."""
    warm = max(1, round(train.warmup * steps))
    if step < warm:
        return (step + 1) / warm
    if train.schedule == "step":
        passed = sum(step >= round(share * steps) for share in train.milestones)
        return train.decay**passed
    progress = min(1.0, (step - warm) / max(1, steps - warm))
    if train.schedule == "flat":
        progress = max(0.0, progress - train.flat) / (1 - train.flat)
    low = train.final_lr
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices and convolutions; not norms, biases, position tables or scalars."""
    decay: list[nn.Parameter] = []
    keep: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        exempt = parameter.ndim <= 1 or name.rsplit(".", 1)[-1].startswith(NO_DECAY)
        (keep if exempt else decay).append(parameter)
    return [
        {"params": decay, "weight_decay": weight_decay},
        {"params": keep, "weight_decay": 0.0},
    ]


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

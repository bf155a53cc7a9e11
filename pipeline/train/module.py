"""One optimisation step, plain and readable, in the form that Lightning drives."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from pipeline.data.dataset import Sample
from pipeline.errors import DescryError
from pipeline.models.detector import Detector

NO_DECAY = ("positions", "class_token", "gates", "table", "rpb", "slot", "rate")


@dataclass(frozen=True, slots=True)
class Optimisation:
    """AdamW with linear warm-up and cosine decay.

    Attributes
    ----------
    lr : float
        Highest learning rate, already scaled to the batch.
    weight_decay : float
        On matrices and convolutions only.
    warmup, final_lr : float
        Share of the steps that warm up; last learning rate as a share of the highest.
    """

    lr: float
    weight_decay: float
    warmup: float
    final_lr: float


class TrainingModule(L.LightningModule):
    """The detector with its loss and optimiser."""

    def __init__(self, detector: Detector, optimisation: Optimisation) -> None:
        super().__init__()
        self.detector, self.optimisation = detector, optimisation

    def training_step(self, batch: Sequence[Sample], batch_index: int) -> Tensor:
        """Loss of one batch of uint8 samples."""
        images = [sample.image.to(self.device).float() / 255 for sample in batch]
        targets = [
            {"boxes": s.boxes.to(self.device), "labels": s.labels.to(self.device)} for s in batch
        ]
        losses = self.detector(images, targets)
        total = sum(losses.values(), torch.zeros((), device=self.device))
        if not math.isfinite(float(total.detach())):
            raise DescryError(_not_finite(losses, batch, self.trainer.global_step))
        self.log_dict(losses, on_step=False, on_epoch=True, batch_size=len(batch))
        self.log("loss", total, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch))
        return total

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW over two groups and a schedule stepped every batch."""
        steps = int(self.trainer.estimated_stepping_batches)
        groups = parameter_groups(self.detector, self.optimisation.weight_decay)
        optimizer = AdamW(groups, lr=self.optimisation.lr)
        schedule = LambdaLR(optimizer, lambda step: lr_factor(step, steps, self.optimisation))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


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


def lr_factor(step: int, steps: int, optimisation: Optimisation) -> float:
    """Share of the highest learning rate at a step: linear up, then cosine down."""
    warm = max(1, round(optimisation.warmup * steps))
    if step < warm:
        return (step + 1) / warm
    progress = min(1.0, (step - warm) / max(1, steps - warm))
    low = optimisation.final_lr
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))


def _not_finite(losses: dict[str, Tensor], batch: Sequence[Sample], step: int) -> str:
    parts = ", ".join(f"{name} {float(value):g}" for name, value in losses.items())
    ids = ", ".join(str(sample.image_id) for sample in batch)
    return (
        f"the loss is not finite at step {step} ({parts}; image ids {ids}). "
        "Lower train.lr, lengthen train.warmup or look at these images' boxes"
    )

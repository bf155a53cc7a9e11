"""One optimisation step, plain and readable, in the form that Lightning drives."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pipeline.config import Train
from pipeline.data.sample import Batch
from pipeline.errors import DescryError, first_line
from pipeline.models.detector import Detector
from pipeline.train.guards import check_finite
from pipeline.train.optimisation import lr_factor, parameter_groups, scaled_lr

SHAPES = 256  # compiled programs; more than configurations can ask for, or torch goes on without


@dataclass(frozen=True, slots=True)
class Steps:
    """The arithmetic of a run.

    Attributes
    ----------
    images : int
        Images of a step, of all processes and accumulated batches together.
    batches : int
        Batches of an epoch on one process; a multiple of `accumulate`.
    accumulate : int
        Batches of a step.
    epochs : int
    """

    images: int
    batches: int
    accumulate: int
    epochs: int

    @property
    def total(self) -> int:
        """Steps of the run."""
        return self.batches // self.accumulate * self.epochs


class TrainingModule(L.LightningModule):
    """The detector with its loss and optimiser.

    Parameters
    ----------
    detector : Detector
    train : Train
    steps : Steps
    dump : Path
        What is written when a loss is not finite.
    compiler : str
        Backend of torch.compile; empty: not compiled.
    """

    def __init__(
        self,
        detector: Detector,
        train: Train,
        steps: Steps,
        dump: Path,
        compiler: str = "",
    ) -> None:
        super().__init__()
        self.detector, self.settings, self.steps = detector, train, steps
        self.dump, self.compiler = dump, compiler

    def on_fit_start(self) -> None:
        """Compile what has no loops over images; the loss stays as it is.

        Each shape by itself: a program for all shapes depends on those that came first, which a
        resumed run does not see.
        """
        if not self.compiler:
            return
        torch._dynamo.config.recompile_limit = SHAPES
        options = None
        if self.compiler == "inductor":  # else it picks some GPU kernels by the clock
            options = {"deterministic": torch.are_deterministic_algorithms_enabled()}
        for part in (self.detector.backbone, self.detector.head):
            part.compile(backend=self.compiler, dynamic=False, options=options)

    def training_step(self, batch: Batch, batch_index: int) -> dict[str, Any]:
        """Loss of one batch of 8-bit images, and its parts as numbers.

        Each batch's loss is divided by the positive anchors of this batch on all processes;
        Lightning takes the mean over accumulated batches.
        """
        losses = self._losses(batch)
        total = torch.stack(list(losses.values())).sum()
        values = torch.stack([total, *losses.values()]).tolist()  # waits for a GPU
        parts = dict(zip(("loss", *losses), values, strict=True))
        check_finite(parts, batch.image_ids, self.step, self.lr, self.dump)
        return {"loss": total, "parts": parts}

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        """The detector's losses; the first call compiles, which not every machine can."""
        try:
            return self.detector(batch.images, batch.targets)
        except RuntimeError as error:
            if not (self.compiler and isinstance(error, torch._dynamo.exc.TorchDynamoException)):
                raise
            raise DescryError(
                f"train.compile: {first_line(error)}; set it to false here"
            ) from error

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Update; on a GPU let go of the gradients at once.

        Lightning keeps them until the next backward pass starts, through the forward pass and its
        peak of memory. On a CPU it is left so: there the early release made a step with two threads
        slower by more than a twentieth (`benchmarks/step.py`).
        """
        super().optimizer_step(*args, **kwargs)
        if self.device.type == "cuda":
            self.zero_grad()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW over two groups and a schedule that advances with every step."""
        chosen, total = self.settings, self.steps.total
        groups = parameter_groups(self.detector, chosen.weight_decay)
        # None lets torch choose, False would turn its grouped form off as well
        fused = True if chosen.fused else None
        optimizer = AdamW(groups, lr=scaled_lr(chosen, self.steps.images), fused=fused)
        schedule = LambdaLR(optimizer, lambda step: lr_factor(step, total, chosen))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of the whole gradient.

        Lightning refuses to clip for a fused optimiser under autocast, because fp16's gradients
        are still scaled there; those of bf16 never are.
        """
        given = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(given, self.settings.clip_norm)

    @property
    def schedule(self) -> LambdaLR:
        """The schedule of the run under way; its `last_epoch` counts steps."""
        schedule = self.lr_schedulers()
        assert isinstance(schedule, LambdaLR)
        return schedule

    @property
    def step(self) -> int:
        """Finished steps of the run."""
        return int(self.schedule.last_epoch)

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])

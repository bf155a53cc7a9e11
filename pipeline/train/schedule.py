"""The learning rate at every step, and what else decides an update."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Optimisation:
    """AdamW (arXiv 1711.05101) with linear warm-up, then cosine or step decay.

    Attributes
    ----------
    lr : float
        Highest learning rate of a step of `lr_batch` images; see `scaled_lr`.
    weight_decay : float
        On matrices and convolutions only.
    warmup : float
        Share of all steps that warm up.
    final_lr : float
        Cosine: last learning rate as a share of the highest.
    schedule : {"cosine", "step"}
    milestones : tuple of float
        Step: shares of all steps, rising, after each of which the rate is multiplied by `decay`.
    decay : float
    clip_norm : float
        Largest norm of a step's gradient.
    fused : bool
        One kernel for the whole update; other bits than the default's.
    """

    lr: float
    lr_batch: int
    weight_decay: float
    warmup: float
    final_lr: float
    schedule: str = "cosine"
    milestones: tuple[float, ...] = ()
    decay: float = 0.1
    clip_norm: float = 1.0
    fused: bool = False

    def scaled_lr(self, images: int) -> float:
        """Highest learning rate where a step takes `images` in all (arXiv 1706.02677, 2.1)."""
        return self.lr * images / self.lr_batch


def lr_factor(step: int, steps: int, optimisation: Optimisation) -> float:
    """Share of the highest learning rate at a step, counted from 0, of so many."""
    warm = max(1, round(optimisation.warmup * steps))
    if step < warm:
        return (step + 1) / warm
    if optimisation.schedule == "step":
        passed = sum(step >= round(share * steps) for share in optimisation.milestones)
        return optimisation.decay**passed
    progress = min(1.0, (step - warm) / max(1, steps - warm))
    low = optimisation.final_lr
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))

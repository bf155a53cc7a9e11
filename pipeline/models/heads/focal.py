"""The focal loss (arXiv 1708.02002, eq. 5), summed, with its gradient in closed form.

Nearly all anchors are background, so that everything is computed as background first and the few
positives are put right after that. One array of the size of the logits is kept for the backward
pass; torchvision's `sigmoid_focal_loss`, of which this is the sum, keeps about ten.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

ALPHA = 0.25  # weight of positives; background has 1 - ALPHA.  gamma is 2


def focal_loss(logits: Tensor, positives: tuple[Tensor, ...], ignored: Tensor) -> Tensor:
    """Sum of the focal loss.

    Parameters
    ----------
    logits : tensor (B, A, K), float32
    positives : tuple of three tensors (n,), int64
        Places (image, anchor, class) that are 1; all others are 0.
    ignored : tensor (B, A), bool
        Anchors that count for nothing.
    """
    return _Focal.apply(logits, positives, ignored)


class _Focal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, positives: tuple[Tensor, ...], ignored: Tensor) -> Tensor:
        loss, slope = _terms(logits, 1 - ALPHA)
        at = logits[positives]
        # a positive is background with the sign turned: 1 - sigmoid(x) = sigmoid(-x)
        loss_at, slope_at = _terms(-at, ALPHA)
        loss[positives], slope[positives] = loss_at, -slope_at
        counted = ~ignored[..., None]
        ctx.save_for_backward(slope.mul_(counted))
        return loss.mul_(counted).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * grad, None, None


def _terms(x: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Loss of background, weight * p^2 * softplus(x), and its derivative by x."""
    p = torch.sigmoid(x)
    cost = F.softplus(x)  # -log(1 - p)
    # d/dx: 2 p * p (1 - p) * cost + p^2 * p
    slope = (1 - p).mul_(cost).mul_(2).add_(p)
    p.square_().mul_(weight)
    return cost.mul_(p), slope.mul_(p)

"""The contract that every backbone keeps, and the few parts that all of them share.

A backbone maps images (B, 3, H, W), H and W at least 32 and otherwise free, to three feature maps
of strides 8, 16 and 32. Sides that are no multiple of 32 are padded with zeros at the bottom and
right, so map i has ceil(H / 32) * 32 / strides[i] rows. No image size is known at construction.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = (8, 16, 32)
MIN_SIDE = 32


class Backbone(nn.Module):
    """Base of all backbones: padding, size checks and the classifier form.

    Subclasses set `channels`, implement `maps` and `reset_parameters`, and take a keyword
    `checkpointing` (bool) that trades time for memory by recomputing blocks in the backward pass.
    """

    strides = STRIDES
    channels: tuple[int, int, int]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps [C3, C4, C5], each (B, channels[i], H' / strides[i], W' / strides[i])."""
        return self.maps(pad_to_multiple(images, MIN_SIDE))

    def maps(self, images: Tensor) -> list[Tensor]:
        """The feature maps of images whose sides are multiples of 32."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draw all parameters anew from the global random generator."""
        raise NotImplementedError


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Pad (B, C, H, W) with zeros at the bottom and right to multiples of `multiple`."""
    height, width = images.shape[-2:]
    if min(height, width) < MIN_SIDE:
        raise ValueError(
            f"images must be at least {MIN_SIDE} px high and wide, not {height}x{width}"
        )
    bottom, right = -height % multiple, -width % multiple
    return F.pad(images, (0, right, 0, bottom)) if bottom or right else images


class DropPath(nn.Module):
    """Stochastic depth: drop a sample's residual branch with probability `rate` while training.

    After "Deep Networks with Stochastic Depth" (arXiv 1603.09382).
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Scale kept samples by 1 / (1 - rate), so that the expectation stays."""
        if not self.training or self.rate == 0.0:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        keep = torch.rand(shape, device=x.device) >= self.rate
        return x * keep.to(x.dtype) / (1.0 - self.rate)


def drop_path_rates(highest: float, depth: int) -> list[float]:
    """Rates that grow linearly from 0 at the first block to `highest` at the last."""
    return [highest * i / max(depth - 1, 1) for i in range(depth)]

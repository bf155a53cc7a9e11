"""The contract that every backbone keeps, and the few parts that all of them share.

A backbone maps images (B, 3, H, W), H and W at least 32 and otherwise free, to three feature maps
of strides 8, 16 and 32. Sides that are no multiple of 32 are padded with zeros at the bottom and
right, so map i has ceil(H / 32) * 32 / strides[i] rows. No image size is known at construction.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

STRIDES = (8, 16, 32)
MIN_SIDE = 32


class Backbone(nn.Module):
    """Base of all backbones: padding, size checks, running blocks with or without recomputation.

    Subclasses set the attributes, implement `maps` and `reset_parameters`, and are called as
    ``Family(size, interaction=, drop_path=, checkpointing=, options=)``.

    Attributes
    ----------
    sizes : collection of str
        The family's own names for its sizes.
    size_names : mapping
        From the common names ("tiny", ...) to the family's own, where these differ.
    channels : tuple of three int
        Of the maps.
    checkpointing : bool
        Recompute blocks in the backward pass: less memory, more time.
    """

    sizes: ClassVar[Collection[str]]
    size_names: ClassVar[Mapping[str, str]] = {}
    channels: tuple[int, int, int]
    checkpointing: bool

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps [C3, C4, C5], each (B, channels[i], H' / strides[i], W' / strides[i])."""
        return self.maps(pad_to_multiple(images, MIN_SIDE))

    def maps(self, images: Tensor) -> list[Tensor]:
        """The feature maps of images whose sides are multiples of 32."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draw all parameters anew from the global random generator."""
        raise NotImplementedError

    def run(self, blocks: Iterable[nn.Module], x: Tensor, *more: object) -> Tensor:
        """Apply blocks one after the other, each to the last one's output and `more`."""
        for block in blocks:
            if self.checkpointing and self.training:
                x = checkpoint(block, x, *more, use_reentrant=False)
            else:
                x = block(x, *more)
        return x


class StagedBackbone(Backbone):
    """A backbone of four stages, whose last three make the maps.

    The first, of stride 4, can be added to the one of stride 8: see `add_detail`.

    Attributes
    ----------
    norms : OutputNorms
    detail : Detail or None
    """

    norms: "OutputNorms"
    detail: "Detail | None"

    def __init__(self) -> None:
        super().__init__()
        self.detail = None

    def add_detail(self) -> None:
        """From now on add what the stride-4 map holds to the stride-8 one; weights drawn anew."""
        self.detail = Detail(self.channels[0])

    def maps(self, images: Tensor) -> list[Tensor]:
        """The feature maps of images whose sides are multiples of 32."""
        return self.joined(self.trunk(images))

    def joined(self, stages: list[Tensor]) -> list[Tensor]:
        """The feature maps made of the four stages' outputs."""
        maps = self.norms(stages[1:])
        if self.detail is not None:
            maps[0] = maps[0] + self.detail(stages[0])
        return maps

    def trunk(self, images: Tensor) -> list[Tensor]:
        """The four stages' outputs (B, C, H, W), strides 4 to 32, without output norms."""
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


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, except where a channel holds one single value while training.

    That happens at stride 32 for one image of 32x32 px. A batch of one value has no variance, and
    torch raises an error; here the running statistics normalise it and are left as they are.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, H, W) per channel."""
        batch, _, height, width = input.shape
        if self.training and batch * height * width == 1:
            mean, var = self.running_mean, self.running_var
            return F.batch_norm(input, mean, var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class Detail(nn.Module):
    """A stride-4 map (B, C / 2, H, W) to one of stride 8, (B, C, H / 2, W / 2): norm, convolution.

    The only other way from there into the pyramid leads through the merging of patches.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels // 2)
        self.conv = nn.Conv2d(channels // 2, channels, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Channels last inside."""
        return self.conv(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class OutputNorms(nn.ModuleList):
    """A LayerNorm over the channels of each returned map, or nothing at all.

    Detectors add them to trunks whose stages end without a norm; the next stage goes on from the
    map as it was.
    """

    def __init__(self, channels: Sequence[int], eps: float, *, active: bool) -> None:
        super().__init__(nn.LayerNorm(dim, eps=eps) for dim in channels if active)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Normalise each (B, C, H, W) per position."""
        if not len(self):
            return maps
        pairs = zip(self, maps, strict=True)
        return [norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for norm, x in pairs]


def channels_last(conv: nn.Module, x: Tensor) -> Tensor:
    """Apply a convolution to (B, H, W, C); the permuted view is channels last, without a copy."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def depthwise(dim: int) -> nn.Conv2d:
    """A 3x3 convolution of each channel by itself."""
    return nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

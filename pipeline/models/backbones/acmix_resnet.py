"""ACmix-ResNet: every bottleneck's 3x3 convolution becomes local attention plus shift-and-sum.

After "On the Integration of Self-Attention and Convolution" (Pan et al., CVPR 2022,
arXiv 2111.14556), with figures checked against its released code:

    logit(i, j) = q_i (k_j + pe_i - pe_j) / sqrt(d)      j in the 7x7 around i, edges mirrored
    out = rate1 * softmax(logit) v + rate2 * shift_and_sum(q, k, v)

q_i pe_i is the same for all j and falls out of the softmax, so keys k - pe in plain local
attention give the same. Deviations: the shift initialisation stays (the released ResNet builder
overwrites it with random weights), and maps of any size work, with sides ceil(side / stride).

ACP and CAT act on the map that the mixing reads, after the first convolution, norm and ReLU of a
bottleneck: there stands the attention that they are to precede, at a quarter of the width of the
residual stream, whose grid a strided bottleneck changes besides. `stream` adds to that map,
`branch` replaces it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pipeline.models.backbones.acmix import ShiftAndSum
from pipeline.models.backbones.base import (
    BatchNorm2d,
    DropPath,
    OutputNorms,
    StagedBackbone,
    drop_path_rates,
)
from pipeline.models.backbones.local_attention import neighbourhood_attention
from pipeline.models.interaction import branch_of, reset_interactions, stream_of
from pipeline.models.params import PLAIN, AcmixResNetOptions, InteractionSpec

HEADS = 4
KERNEL = 7
EXPANSION = 4


@dataclass(frozen=True, slots=True)
class Size:
    """Width of the first stage's bottlenecks, doubled per stage, and blocks per stage."""

    width: int
    depths: tuple[int, int, int, int]


SIZES = {
    "micro": Size(32, (1, 2, 4, 1)),
    "26": Size(64, (1, 2, 4, 1)),
    "38": Size(64, (2, 3, 5, 2)),
    "50": Size(64, (3, 4, 6, 3)),
}
SIZE_NAMES = {"tiny": "26", "small": "38", "base": "50"}


def axis_positions(length: int, like: Tensor) -> Tensor:
    """Evenly spaced positions from -1 to 1, -1 alone for a single one; made in fp32 or better."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    index = torch.arange(length, dtype=dtype, device=like.device)
    return (index * (2 / max(length - 1, 1)) - 1).to(like.dtype)


class ACmix(nn.Module):
    """Local attention and shift-and-sum on shared projections.

    Maps (B, H, W, C) to (B, ceil(H / stride), ceil(W / stride), C).
    """

    def __init__(self, dim: int, heads: int = HEADS, stride: int = 1) -> None:
        super().__init__()
        self.heads, self.stride = heads, stride
        self.qkv = nn.Linear(dim, 3 * dim)
        self.position = nn.Linear(2, dim // heads)  # of (x, y)
        self.conv = ShiftAndSum(dim, heads, stride=stride, bias=False)
        self.rate1 = nn.Parameter(torch.empty(1))
        self.rate2 = nn.Parameter(torch.empty(1))

    def forward(self, x: Tensor) -> Tensor:
        """Both branches, weighed."""
        parts = self.qkv(x).unflatten(3, (3, self.heads, -1))  # (B, H, W, 3, h, d)
        q, k, v = parts.unbind(3)
        k = k - self.encoding(x)[:, :, None].to(k.dtype)
        q = q[:, :: self.stride, :: self.stride]
        attended = neighbourhood_attention(q, k, v, KERNEL, edge="reflect", stride=self.stride)
        return self.rate1 * attended.flatten(3) + self.rate2 * self.conv(parts)

    def encoding(self, x: Tensor) -> Tensor:
        """Position code pe (H, W, d), linear in the place relative to the map."""
        weight, bias = self.position.weight, self.position.bias
        rows, columns = (axis_positions(length, weight) for length in x.shape[1:3])
        # Written out, since autocast would round the positions of a matrix product to 8 bits.
        return columns[None, :, None] * weight[:, 0] + rows[:, None, None] * weight[:, 1] + bias

    def reset_parameters(self) -> None:
        """Kaiming by fan-out as for the ResNet's convolutions; shifts stay shifts."""
        self.qkv.reset_parameters()
        self.position.reset_parameters()
        self.conv.reset_parameters()
        width = self.qkv.in_features
        for layer, fan_out in ((self.qkv, width), (self.position, width // self.heads)):
            nn.init.normal_(layer.weight, std=(2 / fan_out) ** 0.5)
        nn.init.kaiming_normal_(self.conv.mix.weight, mode="fan_out", nonlinearity="relu")
        nn.init.constant_(self.rate1, 0.5)
        nn.init.constant_(self.rate2, 0.5)


class Bottleneck(nn.Module):
    """1x1 convolution, ACmix, 1x1 convolution, each with batch norm, around a shortcut."""

    def __init__(
        self, inputs: int, width: int, stride: int, drop_path: float, spec: InteractionSpec
    ) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm1 = BatchNorm2d(width)
        self.stream, self.branch = stream_of(spec, width), branch_of(spec, width)
        self.mixing = ACmix(width, stride=stride)
        self.norm2 = BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.norm3 = BatchNorm2d(outputs)
        self.drop_path = DropPath(drop_path)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), BatchNorm2d(outputs))
            if stride != 1 or inputs != outputs
            else None
        )

    def mix(self, x: Tensor) -> Tensor:
        """Interaction and ACmix on (B, C, H, W): the part without batch norms."""
        y = x.permute(0, 2, 3, 1)
        for interaction in (self.stream, self.branch):
            y = y if interaction is None else interaction(y)
        return self.mixing(y).permute(0, 3, 1, 2)

    def forward(self, x: Tensor, recompute: bool = False) -> Tensor:
        """Map (B, inputs, H, W) to (B, 4 * width, H', W').

        `recompute` saves the memory of `mix` alone: batch norms must not see their input twice,
        or their running statistics would move twice.
        """
        y = F.relu(self.norm1(self.conv1(x)))
        y = checkpoint(self.mix, y, use_reentrant=False) if recompute else self.mix(y)
        y = self.norm3(self.conv3(F.relu(self.norm2(y))))
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return F.relu(shortcut + self.drop_path(y))


class AcmixResNet(StagedBackbone):
    """ACmix in the form of a ResNet, feature maps of strides 8, 16 and 32.

    Parameters
    ----------
    size : {"micro", "26", "38", "50"}
        Published depths, and a 26 of half the width for CPU use.
    interaction : InteractionSpec
        ACP and CAT before every ACmix.
    drop_path : float, optional
        Highest rate of stochastic depth; none by default, as in the release.
    checkpointing : bool
        Recompute interactions and ACmix in the backward pass.
    options : AcmixResNetOptions
    """

    sizes = SIZES
    size_names = SIZE_NAMES

    def __init__(
        self,
        size: str = "26",
        *,
        interaction: InteractionSpec = PLAIN,
        drop_path: float | None = None,
        checkpointing: bool = False,
        options: AcmixResNetOptions = AcmixResNetOptions(),
    ) -> None:
        super().__init__()
        width, depths = SIZES[size].width, SIZES[size].depths
        c3, c4, c5 = (EXPANSION * width * scale for scale in (2, 4, 8))
        self.channels, self.checkpointing = (c3, c4, c5), checkpointing
        stem = (nn.Conv2d(3, width, 7, 2, 3, bias=False), BatchNorm2d(width))
        self.stem = nn.Sequential(*stem, nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        rates = iter(drop_path_rates(drop_path or 0.0, sum(depths)))
        self.stages, inputs = nn.ModuleList(), width
        for stage, depth in enumerate(depths):
            blocks = nn.ModuleList()
            for i in range(depth):
                stride = 2 if stage and i == 0 else 1
                blocks.append(Bottleneck(inputs, width << stage, stride, next(rates), interaction))
                inputs = EXPANSION * width << stage
            self.stages.append(blocks)
        self.norms = OutputNorms(self.channels, 1e-5, active=options.output_norms)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming by fan-out for convolutions; see `ACmix.reset_parameters`."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm | BatchNorm2d):
                module.reset_parameters()
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.groups == 1:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, ACmix):
                module.reset_parameters()
        reset_interactions(self)

    def trunk(self, images: Tensor) -> list[Tensor]:
        """The four stages' outputs (B, C, H, W), strides 4 to 32, without output norms."""
        x, outputs = self.stem(images.contiguous(memory_format=torch.channels_last)), []
        for blocks in self.stages:
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, self.checkpointing and self.training)
            outputs.append(x)
        return outputs

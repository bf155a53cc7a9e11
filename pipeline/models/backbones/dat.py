"""DAT++: neighbourhood and deformable attention in turn, in four stages, with convolutions.

"DAT++: Spatially Dynamic Vision Transformer with Deformable Attention" (arXiv 2309.01430), with
figures checked against its released code. Convolutional stem -> 4 stages of blocks [depthwise
convolution, interaction, attention, MLP with a depthwise convolution] -> maps of strides 8, 16,
32, each with a norm of its own.

Notation: B batch, C channels, H W grid, h heads.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.backbones.base import (
    DropPath,
    OutputNorms,
    StagedBackbone,
    channels_last,
    depthwise,
    drop_path_rates,
)
from pipeline.models.backbones.deformable import DeformableAttention
from pipeline.models.backbones.local_attention import neighbourhood_attention
from pipeline.models.backbones.vit import MLP
from pipeline.models.interaction import branch_of, reset_interactions, stream_of
from pipeline.models.params import PLAIN, DatOptions, InteractionSpec

HEAD_DIM = 32
KERNEL = 7  # side of a neighbourhood
OFFSET_KERNELS, OFFSET_STRIDES = (9, 7, 5, 3), (8, 4, 2, 1)
TABLES = (56, 28, 14, 7)  # sides of the maps, at 224 px, that the bias tables are made for


@dataclass(frozen=True, slots=True)
class Size:
    """Channels of the first stage (doubled per stage), blocks, groups, stochastic depth."""

    dim: int
    depths: tuple[int, int, int, int]
    groups: tuple[int, int, int, int]
    drop_path: float


SIZES = {
    "micro": Size(32, (2, 2, 4, 2), (1, 1, 2, 4), 0.1),
    "tiny": Size(64, (2, 4, 18, 2), (1, 2, 4, 8), 0.2),
    "small": Size(96, (2, 4, 18, 2), (1, 2, 3, 6), 0.4),
    "base": Size(128, (2, 4, 18, 2), (2, 4, 8, 16), 0.7),
}


class NeighbourhoodAttention(nn.Module):
    """Attention of each position of (B, H, W, C) to the 7x7 around it, moved inside the map."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.table = nn.Parameter(torch.zeros(heads, 2 * KERNEL - 1, 2 * KERNEL - 1))

    def reset_parameters(self) -> None:
        """Draw the bias table; torch's layers draw themselves."""
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, x: Tensor, plain: Tensor | None = None) -> Tensor:
        """Map (B, H, W, C) to the same shape; `plain` is for deformable attention alone."""
        height, width = x.shape[1:3]
        short = [max(KERNEL - side, 0) for side in (height, width)]
        if any(short):  # as in the reference, padding takes part where the map is smaller
            x = F.pad(x, (0, 0, 0, short[1], 0, short[0]))
        q, k, v = self.qkv(x).unflatten(3, (3, self.heads, -1)).unbind(3)
        x = neighbourhood_attention(q, k, v, KERNEL, bias=self.table)
        return self.proj(x[:, :height, :width].flatten(3))


class ConvMLP(MLP):
    """MLP with a residual depthwise convolution in its hidden layer."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.local = depthwise(self.fc1.out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        x = self.fc1(x)
        return self.fc2(F.gelu(x + channels_last(self.local, x)))


class Block(nn.Module):
    """Local perception, interaction, attention, MLP, each added to the stream (B, H, W, C)."""

    def __init__(
        self,
        dim: int,
        attn: nn.Module,
        drop_path: float,
        interaction: InteractionSpec,
        options: DatOptions,
    ) -> None:
        super().__init__()
        self.plain_offsets = options.plain_offsets
        self.local = depthwise(dim) if options.convolutions else None
        self.stream = stream_of(interaction, dim)
        self.branch = branch_of(interaction, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = ConvMLP(dim) if options.convolutions else MLP(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        if self.local is not None:
            x = x + channels_last(self.local, x)
        if self.stream is not None:
            x = self.stream(x)
        y = self.norm1(x)
        plain = y if self.plain_offsets and self.branch is not None else None
        if self.branch is not None:
            y = self.branch(y)
        x = x + self.drop_path(self.attn(y, plain))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Patches(nn.Module):
    """Strided convolution and norm, (B, H, W, in) to (B, H / stride, W / stride, out)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, bias: bool) -> None:
        super().__init__()
        padding = (kernel - stride + 1) // 2  # 1 where patches overlap, else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=bias)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Cut into patches and embed each."""
        return self.norm(channels_last(self.conv, x))


def stem(dim: int, convolutions: bool) -> nn.Sequential:
    """Patches of stride 4: two overlapping convolutions, or one without overlap."""
    if not convolutions:
        return nn.Sequential(Patches(3, dim, 4, 4, bias=True))
    first, second = Patches(3, dim // 2, 3, 2, bias=True), Patches(dim // 2, dim, 3, 2, bias=True)
    return nn.Sequential(first, nn.GELU(), second)


def attention(stage: int, block: int, dim: int, groups: int, options: DatOptions) -> nn.Module:
    """Neighbourhood attention first, then in turn; deformable alone in the last stage."""
    heads = dim // HEAD_DIM
    if stage < 3 and block % 2 == 0:
        return NeighbourhoodAttention(dim, heads)
    return DeformableAttention(
        dim,
        heads,
        groups,
        kernel=OFFSET_KERNELS[stage],
        stride=OFFSET_STRIDES[stage],
        table=TABLES[stage],
        centred=options.centred_points,
        still=options.still_points,
    )


class Dat(StagedBackbone):
    """DAT++, feature maps of strides 8, 16 and 32.

    Parameters
    ----------
    size : {"micro", "tiny", "small", "base"}
        Published sizes, and "micro" (32 channels, 2-2-4-2 blocks), ours, for CPUs.
    interaction : InteractionSpec
        ACP and CAT in every block, before both kinds of attention.
    drop_path : float, optional
        Highest rate of stochastic depth; by default the published one for ImageNet.
    checkpointing : bool
        Recompute blocks in the backward pass.
    options : DatOptions
    """

    sizes = SIZES

    def __init__(
        self,
        size: str = "tiny",
        *,
        interaction: InteractionSpec = PLAIN,
        drop_path: float | None = None,
        checkpointing: bool = False,
        options: DatOptions = DatOptions(),
    ) -> None:
        super().__init__()
        chosen = SIZES[size]
        dims = [chosen.dim << stage for stage in range(4)]
        self.channels, self.checkpointing = (dims[1], dims[2], dims[3]), checkpointing
        self.stem = stem(dims[0], options.convolutions)
        kernel = 3 if options.convolutions else 2
        downs = (Patches(dim, 2 * dim, kernel, 2, bias=False) for dim in dims[:-1])
        self.downs = nn.ModuleList(downs)
        highest = chosen.drop_path if drop_path is None else drop_path
        rates = iter(drop_path_rates(highest, sum(chosen.depths)))
        self.stages = nn.ModuleList()
        for stage, (dim, depth) in enumerate(zip(dims, chosen.depths, strict=True)):
            attns = [attention(stage, i, dim, chosen.groups[stage], options) for i in range(depth)]
            blocks = (Block(dim, attn, next(rates), interaction, options) for attn in attns)
            self.stages.append(nn.ModuleList(blocks))
        self.norms = OutputNorms(self.channels, 1e-5, active=options.output_norms)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Torch's defaults, as in the reference, and truncated normals for the bias tables."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.LayerNorm):
                module.reset_parameters()
        for module in self.modules():
            if isinstance(module, NeighbourhoodAttention | DeformableAttention):
                module.reset_parameters()
        reset_interactions(self)

    def trunk(self, images: Tensor) -> list[Tensor]:
        """The four stages' outputs (B, C, H, W), strides 4 to 32, without output norms."""
        x = images.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        x, outputs = self.stem(x), []  # (B, H, W, C)
        for stage, blocks in enumerate(self.stages):
            if stage:
                x = self.downs[stage - 1](x)
            x = self.run(cast(nn.ModuleList, blocks), x)
            outputs.append(x.permute(0, 3, 1, 2))
        return outputs

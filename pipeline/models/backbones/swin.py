"""Swin: attention in windows that shift from block to block, in four stages.

"Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (arXiv 2103.14030).
4x4 patches -> 4 stages of [interaction, window attention, MLP] blocks, 2x2 positions merged into
one between stages -> maps of strides 8, 16, 32, each with a norm of its own.

Notation: B batch, C channels, H W grid, h heads, w window side.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pipeline.models.backbones.base import DropPath, OutputNorms, StagedBackbone, drop_path_rates
from pipeline.models.backbones.vit import MLP
from pipeline.models.backbones.windows import relative_places, window_attention
from pipeline.models.interaction import branch_of, reset_interactions, stream_of
from pipeline.models.params import PLAIN, InteractionSpec, SwinOptions

WINDOW = 7
PATCH = 4
HEAD_DIM = 32
EPS = 1e-5


@dataclass(frozen=True, slots=True)
class Size:
    """Channels of the first stage (doubled per stage), blocks per stage, stochastic depth."""

    dim: int
    depths: tuple[int, int, int, int]
    drop_path: float


SIZES = {
    "micro": Size(32, (2, 2, 4, 2), 0.1),
    "tiny": Size(96, (2, 2, 6, 2), 0.2),
    "small": Size(96, (2, 2, 18, 2), 0.3),
    "base": Size(128, (2, 2, 18, 2), 0.5),
}


class WindowAttention(nn.Module):
    """Multi-head attention within windows on (B, H, W, C), with relative position bias."""

    places: Tensor

    def __init__(self, dim: int, heads: int, shift: int, mask_padding: bool) -> None:
        super().__init__()
        self.heads, self.shift, self.mask_padding = heads, shift, mask_padding
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.register_buffer("places", relative_places(WINDOW), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within windows, shifted or not."""
        bias = self.table[self.places].permute(2, 0, 1)  # (h, w*w, w*w)
        padding = None if self.mask_padding else self.qkv.bias
        mixed = window_attention(
            x, self.heads, bias, shift=self.shift, padding=padding, project=self.qkv
        )
        return self.proj(mixed)


class Block(nn.Module):
    """Interaction, window attention and MLP, each added to the stream."""

    def __init__(
        self,
        dim: int,
        shift: int,
        drop_path: float,
        interaction: InteractionSpec,
        mask_padding: bool,
    ) -> None:
        super().__init__()
        self.stream = stream_of(interaction, dim)
        self.branch = branch_of(interaction, dim)
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = WindowAttention(dim, dim // HEAD_DIM, shift, mask_padding)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = MLP(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape; the interaction sees the whole, unshifted map."""
        if self.stream is not None:
            x = self.stream(x)
        y = self.norm1(x)
        if self.branch is not None:
            y = self.branch(y)
        x = x + self.drop_path(self.attn(y))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Join 2x2 positions (B, H, W, C) into one (B, H/2, W/2, 2C); H and W are even."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim, eps=EPS)
        self.reduce = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Order of the four: upper left, lower left, upper right, lower right."""
        b, height, width, c = x.shape
        x = x.reshape(b, height // 2, 2, width // 2, 2, c).permute(0, 1, 3, 4, 2, 5)
        return self.reduce(self.norm(x.reshape(b, height // 2, width // 2, 4 * c)))


class Swin(StagedBackbone):
    """Swin transformer, feature maps of strides 8, 16 and 32.

    An axis that one window covers is not shifted, each axis by itself and at run time, as in
    torchvision; the first release decides once, for both axes, by the smaller side of the training
    images. Masks hide with -1e4 instead of -100.

    Parameters
    ----------
    size : {"micro", "tiny", "small", "base"}
        Published sizes, and "micro" (32 channels, 2-2-4-2 blocks), ours, for CPUs.
    interaction : InteractionSpec
        ACP and CAT in every block, on the whole map before it is shifted and cut.
    drop_path : float, optional
        Highest rate of stochastic depth; by default the published one for ImageNet.
    checkpointing : bool
        Recompute blocks in the backward pass.
    options : SwinOptions
    """

    sizes = SIZES

    def __init__(
        self,
        size: str = "tiny",
        *,
        interaction: InteractionSpec = PLAIN,
        drop_path: float | None = None,
        checkpointing: bool = False,
        options: SwinOptions = SwinOptions(),
    ) -> None:
        super().__init__()
        chosen = SIZES[size]
        dims = [chosen.dim << stage for stage in range(4)]
        self.channels, self.checkpointing = (dims[1], dims[2], dims[3]), checkpointing
        self.patch = nn.Conv2d(3, dims[0], PATCH, PATCH)
        self.patch_norm = nn.LayerNorm(dims[0], eps=EPS)
        highest = chosen.drop_path if drop_path is None else drop_path
        rates = iter(drop_path_rates(highest, sum(chosen.depths)))
        self.stages = nn.ModuleList()
        for dim, depth in zip(dims, chosen.depths, strict=True):
            shifts = [WINDOW // 2 * (i % 2) for i in range(depth)]
            blocks = (Block(dim, s, next(rates), interaction, options.mask_padding) for s in shifts)
            self.stages.append(nn.ModuleList(blocks))
        self.merges = nn.ModuleList(PatchMerging(dim) for dim in dims[:-1])
        self.norms = OutputNorms(self.channels, EPS, active=options.output_norms)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal of 0.02 for linear layers and bias tables; torch's for convolutions."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, WindowAttention):
                nn.init.trunc_normal_(module.table, std=0.02)
        reset_interactions(self)

    def trunk(self, images: Tensor) -> list[Tensor]:
        """The four stages' outputs (B, C, H, W), strides 4 to 32, without output norms."""
        x = self.patch(images.contiguous(memory_format=torch.channels_last))
        x, outputs = self.patch_norm(x.permute(0, 2, 3, 1)), []  # (B, H, W, C)
        for stage, blocks in enumerate(self.stages):
            if stage:
                x = self.merges[stage - 1](x)
            x = self.run(cast(nn.ModuleList, blocks), x)
            outputs.append(x.permute(0, 3, 1, 2))
        return outputs

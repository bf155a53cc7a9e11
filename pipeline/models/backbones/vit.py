"""ViT: a plain, pre-norm vision transformer with a simple feature pyramid.

"An Image is Worth 16x16 Words" (arXiv 2010.11929); strides 8 and 32 from the single stride-16 map
after "Exploring Plain Vision Transformer Backbones for Object Detection" (arXiv 2203.16527).
Patches of 16 px -> tokens + positions -> L x [interaction, attention, MLP] -> norm -> three maps.

Notation: B batch, C channels, H W grid, N = H*W tokens, P prefix tokens (0, or 1 class token).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import DescryError
from pipeline.models.backbones.base import Backbone, DropPath, drop_path_rates
from pipeline.models.backbones.stem import ConvStem
from pipeline.models.interaction import (
    branch_of,
    interpolation_matrix,
    reset_interactions,
    stream_of,
)
from pipeline.models.params import PLAIN, InteractionSpec, StemName, ViTOptions

PATCH = 16
BASE_GRID = 14  # the position table's own grid (224 px), interpolated to any other
SIZES = {  # width, depth, heads
    "micro": (128, 6, 4),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
}


class Attention(nn.Module):
    """Multi-head self-attention over (B, N, C)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Attend globally."""
        b, n, c = x.shape
        qkv = self.qkv(x).view(b, n, 3, self.heads, c // self.heads)
        # Split before the heads move forward: the gradients then meet in one copy, not two.
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # (B, heads, N, C / heads)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(b, n, c))


class MLP(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, dim: int, ratio: float = 4.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, int(dim * ratio))
        self.fc2 = nn.Linear(int(dim * ratio), dim)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to each token alone."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """One transformer block; the interaction sees the grid tokens only, not the prefix."""

    def __init__(self, dim: int, heads: int, drop_path: float, spec: InteractionSpec) -> None:
        super().__init__()
        self.stream = stream_of(spec, dim)
        self.branch = branch_of(spec, dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Map tokens (B, P + N, C) to the same shape."""
        if self.stream is not None:
            x = on_grid(self.stream, x, grid)
        y = self.norm1(x)
        if self.branch is not None:
            y = on_grid(self.branch, y, grid)
        x = x + self.drop_path(self.attn(y))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def on_grid(module: nn.Module, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Apply a module of (B, H, W, C) to the last H*W of the tokens (B, P + N, C)."""
    prefix = tokens.shape[1] - grid[0] * grid[1]
    mapped = module(tokens[:, prefix:].unflatten(1, grid)).flatten(1, 2)
    return torch.cat([tokens[:, :prefix], mapped], dim=1) if prefix else mapped


class ViT(Backbone):
    """Plain vision transformer, feature maps of strides 8, 16 and 32.

    Unlike ViTDet's pyramid, which the maps follow, there is no stride-4 map, no convolution and no
    norm after the change of resolution (the FPN of the detector has convolutions of its own), and
    attention is global in all blocks, without windows and without relative positions.

    Parameters
    ----------
    size : {"micro", "tiny", "small", "base"}
        "micro" (128 wide, 6 blocks) is ours, for CPUs; the others are the usual ViT-Ti/S/B with
        patches of 16 px.
    interaction : InteractionSpec
        ACP and CAT in every block.
    drop_path : float, optional
        Stochastic depth of the last block; none by default, as in the papers' own training.
    checkpointing : bool
        Recompute blocks in the backward pass.
    options : ViTOptions
    width : int
        Channels in place of the size's own, for a control of equal parameters; 0 keeps them.
    stem : {"patch", "convolutions"}
        One convolution of 16 x 16 px, or a `ConvStem`, whose stride-8 map is added to that of the
        blocks.
    """

    sizes = SIZES

    def __init__(
        self,
        size: str = "small",
        *,
        interaction: InteractionSpec = PLAIN,
        drop_path: float | None = None,
        checkpointing: bool = False,
        options: ViTOptions = ViTOptions(),
        width: int = 0,
        stem: StemName = "patch",
    ) -> None:
        super().__init__()
        dim, depth, heads = SIZES[size]
        dim = width or dim
        if dim % heads or dim % 2:
            raise DescryError(
                f"model.width = {width}: must be even and a multiple of {heads} heads"
            )
        self.dim, self.checkpointing = dim, checkpointing
        self.channels = (dim // 2, dim, dim)
        self.patch = ConvStem(dim) if stem == "convolutions" else nn.Conv2d(3, dim, PATCH, PATCH)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim)) if options.class_token else None
        self.positions = nn.Parameter(torch.zeros(1, BASE_GRID**2 + options.class_token, dim))
        rates = drop_path_rates(drop_path or 0.0, depth)
        self.blocks = nn.ModuleList(Block(dim, heads, rate, interaction) for rate in rates)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.finer = nn.ConvTranspose2d(dim, dim // 2, 2, 2)  # stride 16 -> 8
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal of 0.02 for weights and positions, zero biases; norms as torch has."""
        for module in self.modules():
            if isinstance(module, nn.LayerNorm | nn.GroupNorm):
                module.reset_parameters()
            elif isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if isinstance(self.patch, ConvStem):
            self.patch.reset_parameters()
        nn.init.trunc_normal_(self.positions, std=0.02)
        reset_interactions(self)

    def tokens(self, patches: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Normed tokens (B, P + N, C) after the last block, and the grid (H, W).

        Parameters
        ----------
        patches : tensor (B, C, H, W)
            What the stem made of the images.
        """
        x = patches
        grid = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)
        x = x + self._positions(grid)
        return self.norm(self.run(self.blocks, x, grid)), grid

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """The position table on another grid, rows then columns; the class token's slot stays."""
        if grid == (BASE_GRID, BASE_GRID):
            return self.positions
        prefix = self.positions.shape[1] - BASE_GRID**2
        table = self.positions[0, prefix:].unflatten(0, (BASE_GRID, BASE_GRID))
        rows = interpolation_matrix(BASE_GRID, grid[0], table)
        columns = interpolation_matrix(BASE_GRID, grid[1], table)
        table = torch.einsum("Hh,hwc->Hwc", rows, table)
        table = torch.einsum("Ww,Hwc->HWc", columns, table).flatten(0, 1)
        return torch.cat([self.positions[0, :prefix], table])[None]

    def maps(self, images: Tensor) -> list[Tensor]:
        """Maps of strides 8 (transposed convolution), 16 (as is) and 32 (maximum)."""
        patches = self.patch(images)
        fine = None
        if isinstance(self.patch, ConvStem):
            fine, patches = patches
        tokens, grid = self.tokens(patches)
        prefix = tokens.shape[1] - grid[0] * grid[1]
        c4 = tokens[:, prefix:].transpose(1, 2).unflatten(2, grid)  # (B, C, H, W)
        c3 = self.finer(c4)
        return [c3 if fine is None else c3 + fine, c4, F.max_pool2d(c4, 2)]

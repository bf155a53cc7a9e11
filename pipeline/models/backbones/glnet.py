"""GLNet: a pyramid of blocks that cluster all positions into 64 slots (GLMix) beside a convolution.

After "Revisiting the Integration of Convolution and Attention for Vision Backbone"
(Zhu et al., NeurIPS 2024, arXiv 2411.14429). Four stages at strides 4 to 32; GLMix where maps are
large, plain self-attention where they are small, in stage 3 of the 4G family by turns. ACP and
CAT act on each block's grid: `stream` at its start, so that the initial slots are pooled from the
enriched map; `branch` between the norm and the mixing.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.backbones.base import (
    MIN_SIDE,
    BatchNorm2d,
    DropPath,
    OutputNorms,
    StagedBackbone,
    channels_last,
    depthwise,
    drop_path_rates,
    pad_to_multiple,
)
from pipeline.models.backbones.glmix import GLMix, SelfAttention, inside_mask
from pipeline.models.interaction import branch_of, reset_interactions, stream_of
from pipeline.models.params import PLAIN, GLNetOptions, InteractionSpec

HEAD_DIM = 32
EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Size:
    """One published size; `advanced` is the form of 4G, 9G and 16G, otherwise STL's.

    Advanced: overlapping patch embedding, a depthwise convolution as position code and another
    one inside the MLP, GLMix and attention by turns in stage 3.
    """

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    mlp_ratio: int
    drop_path: float
    advanced: bool = True
    layer_scale: float = 0.0


SIZES = {
    "micro": Size((32, 64, 128, 256), (2, 2, 4, 2), 3, 0.0),
    "stl": Size((96, 192, 384, 768), (2, 2, 6, 2), 4, 0.1, advanced=False),
    "4g": Size((64, 128, 256, 512), (4, 4, 18, 4), 3, 0.15),
    "9g": Size((96, 192, 384, 768), (4, 4, 18, 4), 3, 0.3),
    "16g": Size((128, 256, 512, 1024), (4, 4, 18, 4), 3, 0.4, layer_scale=1e-4),
}
SIZE_NAMES = {"tiny": "4g", "small": "9g", "base": "16g"}


class Attention(SelfAttention):
    """Self-attention over all positions of a grid, in GLMix's place."""

    def forward(  # type: ignore[override]
        self, y: Tensor, x: Tensor, cells: Tensor | None = None
    ) -> Tensor:
        """Mix (B, H, W, C); `x` is not used, `cells` leaves padding out."""
        keep = None if cells is None else inside_mask(cells, y.shape[1], y.shape[2])
        return super().forward(y.flatten(1, 2), keep).view_as(y)


class Mlp(nn.Module):
    """The MLP on a grid, with a residual depthwise convolution before its GELU if `local`."""

    def __init__(self, dim: int, hidden: int, local: bool) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, hidden)
        self.local = depthwise(hidden) if local else None
        self.reduce = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        x = self.expand(x)
        if self.local is not None:
            x = x + channels_last(self.local, x)
        return self.reduce(F.gelu(x))


class Block(nn.Module):
    """One block: position code, mixing by slots or by attention, MLP."""

    def __init__(
        self,
        dim: int,
        size: Size,
        mixing: nn.Module,
        drop_path: float,
        interaction: InteractionSpec,
    ) -> None:
        super().__init__()
        self.stream = stream_of(interaction, dim)
        self.position = depthwise(dim) if size.advanced else None
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.branch = branch_of(interaction, dim)
        self.mixing = mixing
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, size.mlp_ratio * dim, local=size.advanced)
        self.drop_path = DropPath(drop_path)
        self.layer_scale = size.layer_scale
        scales = [nn.Parameter(torch.empty(dim)) for _ in range(2)] if size.layer_scale else []
        self.scales = nn.ParameterList(scales)

    def prepare(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The residual stream, the input of the mixing, and what slots are pooled from."""
        start = x if self.stream is None else self.stream(x)
        x = start if self.position is None else start + channels_last(self.position, start)
        y = self.norm1(x)
        return x, y if self.branch is None else self.branch(y), start

    def forward(self, x: Tensor, cells: Tensor | None = None) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C); `cells` (B, 2) are the rows and columns of image."""
        x, y, start = self.prepare(x)
        x = x + self.drop_path(self._scaled(0, self.mixing(y, start, cells)))
        return x + self.drop_path(self._scaled(1, self.mlp(self.norm2(x))))

    def _scaled(self, i: int, x: Tensor) -> Tensor:
        return x * self.scales[i] if self.layer_scale else x

    def reset_parameters(self) -> None:
        """Layer scales, and the initialisation that differs between the two forms."""
        for scale in self.scales:
            nn.init.constant_(scale, self.layer_scale)
        if isinstance(self.mixing, Attention) and self.position is None:
            # STL's attention blocks have linear layers where all others have 1x1 convolutions,
            # and the released initialisation tells the two apart.
            for layer in (self.mlp.expand, self.mlp.reduce):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)


def embeddings(size: Size) -> list[nn.Sequential]:
    """The stem (stride 4) and the three steps between stages (stride 2 each), on (B, C, H, W)."""
    pairs = list(zip(size.dims, size.dims[1:], strict=False))
    first = size.dims[0]
    if not size.advanced:  # patches do not overlap; the norm comes before later convolutions
        stem = nn.Sequential(nn.Conv2d(3, first, 4, 4), BatchNorm2d(first))
        return [stem] + [nn.Sequential(BatchNorm2d(a), nn.Conv2d(a, b, 2, 2)) for a, b in pairs]
    stem = nn.Sequential(
        nn.Conv2d(3, first // 2, 3, 2, 1),
        BatchNorm2d(first // 2),
        nn.GELU(),
        nn.Conv2d(first // 2, first, 3, 2, 1),
        BatchNorm2d(first),
    )
    return [stem] + [nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), BatchNorm2d(b)) for a, b in pairs]


class GLNet(StagedBackbone):
    """GLNet, feature maps of strides 8, 16 and 32.

    Parameters
    ----------
    size : {"micro", "stl", "4g", "9g", "16g"}
        Published sizes, and a small one of the 4G form for CPU use.
    interaction : InteractionSpec
        ACP and CAT in every block.
    drop_path : float, optional
        Highest rate of stochastic depth; by default the published one for ImageNet.
    checkpointing : bool
        Recompute blocks in the backward pass.
    options : GLNetOptions
    """

    sizes = SIZES
    size_names = SIZE_NAMES

    def __init__(
        self,
        size: str = "4g",
        *,
        interaction: InteractionSpec = PLAIN,
        drop_path: float | None = None,
        checkpointing: bool = False,
        options: GLNetOptions = GLNetOptions(),
    ) -> None:
        super().__init__()
        chosen = SIZES[size]
        self.channels = chosen.dims[1:]
        self.checkpointing, self.mask_padding = checkpointing, options.mask_padding
        self.embeds = nn.ModuleList(embeddings(chosen))
        highest = chosen.drop_path if drop_path is None else drop_path
        rates = iter(drop_path_rates(highest, sum(chosen.depths)))
        self.stages = nn.ModuleList()
        for stage, (dim, depth) in enumerate(zip(chosen.dims, chosen.depths, strict=True)):
            blocks = []
            for i in range(depth):
                slots = stage < 2 or (stage == 2 and not (chosen.advanced and i % 2))
                heads = dim // HEAD_DIM
                mixing = (
                    GLMix(dim, heads, scale=options.slot_scale, learned=options.learned_slots)
                    if slots
                    else Attention(dim, heads)
                )
                blocks.append(Block(dim, chosen, mixing, next(rates), interaction))
            self.stages.append(nn.ModuleList(blocks))
        self.norms = OutputNorms(self.channels, EPS, active=options.output_norms)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Defaults of torch for convolutions, 0.02 for attention's output, Xavier for its input."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm | BatchNorm2d):
                module.reset_parameters()
        for module in self.modules():
            if isinstance(module, SelfAttention | GLMix | Block):
                module.reset_parameters()
        reset_interactions(self)

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
        """Maps [C3, C4, C5], each (B, channels[i], H' / strides[i], W' / strides[i]).

        Parameters
        ----------
        images : Tensor
            (B, 3, H, W).
        sizes : Tensor, optional
            (B, 2) height and width in pixels of the part that holds image, from the top left. The
            rest is padding and kept out of clusters and attention.
        """
        if sizes is None and self.mask_padding:
            height, width = images.shape[-2:]
            whole = [torch.full((len(images),), n, device=images.device) for n in (height, width)]
            sizes = torch.stack(whole, dim=1)
        return self.maps(pad_to_multiple(images, MIN_SIDE), sizes)

    def maps(self, images: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
        """The feature maps of images whose sides are multiples of 32; `sizes` as in `forward`."""
        return self.joined(self.trunk(images, sizes))

    def trunk(self, images: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
        """The four stages' outputs (B, C, H, W), strides 4 to 32, without norms."""
        x, outputs = images.contiguous(memory_format=torch.channels_last), []
        for stage, (embed, blocks) in enumerate(zip(self.embeds, self.stages, strict=True)):
            x = embed(x).permute(0, 2, 3, 1)  # (B, H, W, C)
            cells = None if sizes is None else -(-sizes // (4 << stage))
            x = self.run(cast(nn.ModuleList, blocks), x, cells)
            x = x.permute(0, 3, 1, 2)
            outputs.append(x)
        return outputs

    @torch.no_grad()
    def assignments(self, images: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
        """How much each position belongs to each slot, of each GLMix block in order.

        Returns
        -------
        list of Tensor
            Each (B, 64, H, W) on its stage's grid, non-negative, summing to 1 over the slots.
        """
        found: list[Tensor] = []

        def record(mixing: GLMix, inputs: tuple[Tensor, ...]) -> None:
            found.append(mixing.assignments(*inputs))

        mixings = [module for module in self.modules() if isinstance(module, GLMix)]
        handles = [mixing.register_forward_pre_hook(record) for mixing in mixings]
        try:
            self(images, sizes)
        finally:
            for handle in handles:
                handle.remove()
        return found

"""ACP and CAT: convolution, pooling and concept tokens that let features meet before attention.

After "Unified Local and Global Attention Interaction Modeling for Vision Transformers"
(arXiv 2412.18778), of which only the abstract and summaries were at hand: the iterated depthwise
convolution and max pooling before attention (ACP), concept tokens with a backward flow (CAT) and
a projection that joins them are the paper's; every size, gate and placement below is our choice.

Notation: B batch, C channels, H W grid, N = H*W tokens, K concepts, L pooling layers.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.params import InteractionSpec


def stream_of(spec: InteractionSpec, dim: int) -> "Stream | None":
    """The residual sub-block x + EI(LN(x)) of a block of width `dim`, or None."""
    return Stream(dim, spec) if spec.active and spec.placement == "stream" else None


def branch_of(spec: InteractionSpec, dim: int) -> "Interaction | None":
    """EI(y) for use between the norm and the attention of a block, or None."""
    return Interaction(dim, spec) if spec.active and spec.placement == "branch" else None


def interpolation_matrix(source: int, target: int, like: Tensor) -> Tensor:
    """Linear interpolation along one axis as a (target, source) matrix, corners not aligned.

    Equal to ``F.interpolate(mode="bilinear", align_corners=False)`` along that axis, and unlike
    it deterministic on a GPU in both directions.
    """
    if source == 1:
        return like.new_ones(target, 1)
    centre = (torch.arange(target, device=like.device) + 0.5) * (source / target) - 0.5
    centre = centre.clamp(0, source - 1)
    distance = centre[:, None] - torch.arange(source, device=like.device)[None, :]
    return (1 - distance.abs()).clamp_min(0).to(like.dtype)


class ACP(nn.Module):
    """Iterated depthwise convolution and max pooling, summed over depth with a gate per channel.

    Maps (B, H, W, C) to (B, H, W, C).
    """

    def __init__(self, dim: int, layers: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.convs = nn.ModuleList(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False) for _ in range(layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(layers))
        self.gates = nn.Parameter(torch.ones(layers, dim))

    def forward(self, y: Tensor) -> Tensor:
        """Local context of each position at L growing ranges."""
        grid = y.shape[1:3]
        f, total = y, None
        for conv, norm, gate in zip(self.convs, self.norms, self.gates, strict=True):
            f = conv(f.permute(0, 3, 1, 2))  # (B, C, h, w), channels last in memory
            f = F.gelu(norm(f.permute(0, 2, 3, 1)))
            f = F.max_pool2d(f.permute(0, 3, 1, 2), 3, self.stride, 1).permute(0, 2, 3, 1)
            full = self._restore(f, grid)
            total = gate * full if total is None else torch.addcmul(total, gate, full)
        assert total is not None, "depth is at least 1"
        return total

    @staticmethod
    def _restore(f: Tensor, grid: torch.Size) -> Tensor:
        """Bring (B, h, w, C) back to the full grid, rows then columns."""
        if f.shape[1:3] == grid:
            return f
        rows = interpolation_matrix(f.shape[1], grid[0], f)
        columns = interpolation_matrix(f.shape[2], grid[1], f)
        f = torch.einsum("Hh,bhwc->bHwc", rows, f)
        return torch.einsum("Ww,bHwc->bHWc", columns, f)


class CAT(nn.Module):
    """Concept tokens: gathered from the grid, exchanged, and given back to every position.

    Maps (B, H, W, C) to (B, H, W, C). `alignment` returns the logits for pictures.
    """

    def __init__(self, dim: int, concepts: int) -> None:
        super().__init__()
        self.align = nn.Linear(dim, concepts, bias=False)
        self.value = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.mix = nn.Linear(concepts, concepts)

    def alignment(self, u: Tensor) -> Tensor:
        """Logits S (B, N, K) of how much each position belongs to each concept."""
        return self.align(u.flatten(1, 2))

    def forward(self, u: Tensor, weight: Tensor | None = None) -> Tensor:
        """Forward flow (tokens to concepts), exchange, backward flow (concepts to tokens).

        With a `weight` (C, C) the result is projected by it, where that costs least: K concepts
        before they are given back, in place of all N tokens after.
        """
        logits = self.alignment(u).float()  # softmax over N tokens wants fp32
        # The weights of a concept sum to 1, so gathering first and projecting K tokens after
        # equals projecting all N tokens first, at K/N of the cost.
        gathered = logits.softmax(dim=1).to(u.dtype).transpose(1, 2) @ u.flatten(1, 2)
        concepts = self.value(gathered)  # (B, K, C)
        concepts = concepts + self.mix(self.norm(concepts).transpose(1, 2)).transpose(1, 2)
        if weight is not None:
            concepts = F.linear(concepts, weight)
        return (logits.softmax(dim=2).to(u.dtype) @ concepts).view_as(u)


class Interaction(nn.Module):
    """EI(y) = W_o [y; acp; cat] on a grid (B, H, W, C), with W_o = [I 0 0] at the start.

    An enhanced model's output at initialisation therefore equals its baseline's. Inside a
    `Stream` W_o starts at 0, which has the same effect there.
    """

    def __init__(self, dim: int, spec: InteractionSpec) -> None:
        super().__init__()
        self.copies = spec.copies
        self.acp = ACP(dim, spec.pool_layers, spec.pool_stride) if spec.pool_layers else None
        self.cat = CAT(dim, spec.concepts) if spec.concepts else None
        parts = 1 + (self.acp is not None) + (self.cat is not None)
        if self.copies:
            self.acp = self.cat = None
        self.parts = parts
        self.aggregate = nn.Linear(parts * dim, dim)
        self.reset_identity()

    def reset_identity(self) -> None:
        """Let EI be the identity: W_o = [I 0 0]."""
        nn.init.zeros_(self.aggregate.weight)
        nn.init.zeros_(self.aggregate.bias)
        with torch.no_grad():
            self.aggregate.weight[:, : self.aggregate.out_features].fill_diagonal_(1.0)

    def reset_zero(self) -> None:
        """Let EI be zero, for use as a residual."""
        nn.init.zeros_(self.aggregate.weight)
        nn.init.zeros_(self.aggregate.bias)

    def forward(self, y: Tensor) -> Tensor:
        """Join a position's features with its surroundings and its concepts."""
        if self.copies:
            return self.aggregate(torch.cat([y] * self.parts, dim=-1))
        own, *weights = self.aggregate.weight.chunk(self.parts, dim=1)
        joined, u = F.linear(y, own, self.aggregate.bias), y
        if self.acp is not None:
            acp = self.acp(y)
            u = y + acp
            joined = joined + F.linear(acp, weights[0])
        if self.cat is not None:
            joined = joined + self.cat(u, weights[-1])
        return joined


class Stream(nn.Module):
    """The residual sub-block x + EI(LN(x)), on a grid (B, H, W, C)."""

    def __init__(self, dim: int, spec: InteractionSpec) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.interaction = Interaction(dim, spec)
        self.interaction.reset_zero()

    def forward(self, x: Tensor) -> Tensor:
        """Add the interaction to the stream."""
        return x + self.interaction(self.norm(x))


def reset_interactions(model: nn.Module) -> None:
    """Restore the start values of gates and W_o after an initialisation that touched all layers."""
    for module in model.modules():
        if isinstance(module, ACP):
            nn.init.ones_(module.gates)
        if isinstance(module, Interaction):
            module.reset_identity()
    for module in model.modules():
        if isinstance(module, Stream):
            module.interaction.reset_zero()

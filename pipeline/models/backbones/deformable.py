"""Deformable attention: all queries attend to a few points that the image itself moves.

After "DAT++: Spatially Dynamic Vision Transformer with Deformable Attention" (arXiv 2309.01430),
with figures checked against its released code:

    p = clamp(r + offsets(q), -1, 1)      points: a uniform grid r, moved per group of channels
    k, v = projections of x sampled at p
    out = softmax(q k / sqrt(d) + bias(u - p)) v      u: the queries' own places, -1 to 1

The relative position bias is sampled from a table whose size is fixed, so any map will do.

Notation: B batch, C channels, H W grid, h heads, d channels of a head, g groups with C/g channels
each, n points on a grid H" W" (about H/32 x W/32 of the image's pixels in every stage).
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.backbones.attention import keys_first_attention
from pipeline.models.backbones.sampling import sample_points, sample_tables, to_index


class DeformableAttention(nn.Module):
    """Deformable attention on (B, H, W, C).

    Parameters
    ----------
    dim, heads, groups : int
        Channels, heads, and groups with points of their own.
    kernel, stride : int
        Of the offset network's depthwise convolution.
    table : int
        Side, in positions of a query, of the map that the bias table is made for; 2 * table - 1
        entries per axis.
    centred : bool
        Reference points in the centres of their cells, (i + 0.5) / n. The reference divides by
        n - 1 instead, which moves all points towards the lower right.
    still : bool
        Start with offsets of zero. In the reference they start at random, a quarter of the image
        long on average.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        groups: int,
        *,
        kernel: int,
        stride: int,
        table: int,
        centred: bool = False,
        still: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.groups, self.centred, self.still = heads, groups, centred, still
        own = dim // groups
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.offset_conv = nn.Conv2d(own, own, kernel, stride, kernel // 2, groups=own)
        self.offset_norm = nn.LayerNorm(own)
        self.offset = nn.Linear(own, 2, bias=False)  # (y, x)
        self.table = nn.Parameter(torch.zeros(heads, 2 * table - 1, 2 * table - 1))

    def reset_parameters(self) -> None:
        """Draw what torch's layers do not draw by themselves."""
        nn.init.trunc_normal_(self.table, std=0.01)
        if self.still:
            nn.init.zeros_(self.offset.weight)

    def forward(self, x: Tensor, plain: Tensor | None = None) -> Tensor:
        """Map (B, H, W, C) to the same shape; `plain` replaces x in the offset network."""
        _, q, k, v, bias = self.parts(x, plain)
        mixed = keys_first_attention(q, k, v, bias)  # (B, h, H*W, d)
        return self.proj(mixed.transpose(1, 2).reshape(x.shape))

    def parts(self, x: Tensor, plain: Tensor | None = None) -> tuple[Tensor, ...]:
        """Points (B, g, n, 2), and what meets in the attention.

        Queries (B, h, H*W, d), keys and values (B, h, n, d), bias (B, g, h/g, n, H, W).
        """
        b, height, width, _ = x.shape
        q = self.q(x)
        points = self.points(q if plain is None else self.q(plain))
        sampled = sample_points(x, points)  # (B, n, C)
        k, v = (f(sampled).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.k, self.v))
        bias = self.bias(points, height, width).to(q.dtype)
        return points, q.view(b, height * width, self.heads, -1).transpose(1, 2), k, v, bias

    def points(self, q: Tensor) -> Tensor:
        """Points (B, g, n, 2) as (y, x), -1 to 1, in fp32 or better, for queries (B, H, W, C)."""
        conv = self.offset_conv  # its weights are shared by all groups
        weight = conv.weight.repeat(self.groups, 1, 1, 1)
        bias = cast(Tensor, conv.bias).repeat(self.groups)
        f = F.conv2d(q.permute(0, 3, 1, 2), weight, bias, conv.stride, conv.padding, 1, len(weight))
        f = f.permute(0, 2, 3, 1).unflatten(3, (self.groups, -1))  # (B, H", W", g, C/g)
        offset = self.offset(F.gelu(self.offset_norm(f)))
        offset = offset.to(torch.promote_types(offset.dtype, torch.float32))
        rows, columns = (self._axis(side, offset) for side in offset.shape[1:3])
        y, x = offset[..., 0] + rows[:, None, None], offset[..., 1] + columns[:, None]
        return torch.stack([y, x], dim=-1).clamp(-1, 1).flatten(1, 2).transpose(1, 2)

    def _axis(self, points: int, like: Tensor) -> Tensor:
        """Uniform reference places along an axis."""
        index = torch.arange(points, dtype=like.dtype, device=like.device)
        parts = points if self.centred else max(points - 1, 1)  # one point: the centre
        return (index + 0.5) * 2 / parts - 1

    def bias(self, points: Tensor, height: int, width: int) -> Tensor:
        """Relative position bias (B, g, h/g, n, H, W) between the points and all positions."""
        entries = self.table.shape[-1]
        positions = []
        for axis, side in enumerate((height, width)):
            index = torch.arange(side, dtype=points.dtype, device=points.device)
            own = index * 2 / max(side - 1, 1) - 1  # -1 to 1, ends included
            apart = (own - points[..., axis, None]) / 2  # (B, g, n, side)
            positions.append(to_index(apart, entries))
        tables = self.table.unflatten(0, (self.groups, -1))
        return sample_tables(tables, *positions)

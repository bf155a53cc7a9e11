"""GLMix: soft clustering of all positions into slots, beside a convolution for detail.

After "Revisiting the Integration of Convolution and Attention for Vision Backbone"
(Zhu et al., NeurIPS 2024, arXiv 2411.14429), with figures checked against its released code:

    S = A(x)                                        (M, C)   slots: x averaged over 8x8 parts
    L = s * norm(S) norm(y)^T                       (M, N)   cosine logits, s learnable
    S' = MHSA(softmax_N(L) y)                                cluster, let the slots meet
    GLMix(y) = softmax_M(L)^T S' + Conv(y)                   dispatch, add the local branch

Both steps share the logits L and differ in the axis of the softmax. Notation: B batch, C channels,
H W grid, N = H*W positions, M slots, `cells` (B, 2) the rows and columns that hold image.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def pool_matrix(extent: int | Tensor, length: int, bins: int, like: Tensor) -> Tensor:
    """Weights that average `bins` parts of the first `extent` of `length` cells.

    Two of them, one per axis, are exactly ``F.adaptive_avg_pool2d``, whose backward pass has no
    deterministic kernel on CUDA. Parts overlap where `extent` is no multiple of `bins`.

    Parameters
    ----------
    extent : int or Tensor
        Cells that hold image: one number, or (B, 1) for a number per image.
    length : int
        Cells along the axis.
    bins : int
        Number of parts.
    like : Tensor
        Gives the dtype and the device.

    Returns
    -------
    Tensor
        (bins, length), or (B, bins, length) for a number per image.
    """
    part = torch.arange(bins, device=like.device)
    start = part * extent // bins
    end = ((part + 1) * extent + bins - 1) // bins
    cell = torch.arange(length, device=like.device)
    inside = (cell >= start[..., None]) & (cell < end[..., None])
    return inside.to(like.dtype) / (end - start)[..., None]


def inside_mask(cells: Tensor, height: int, width: int) -> Tensor:
    """Which of the N positions hold image, (B, N), from the rows and columns that do, (B, 2)."""
    rows = torch.arange(height, device=cells.device) < cells[:, :1]
    columns = torch.arange(width, device=cells.device) < cells[:, 1:]
    return (rows[:, :, None] & columns[:, None, :]).flatten(1)


def at_least_fp32(x: Tensor) -> Tensor:
    """Raise half precision to fp32; leave fp32 and fp64 alone."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class SelfAttention(nn.Module):
    """Multi-head self-attention of tokens (B, N, C); parameters as `nn.MultiheadAttention`'s."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """Let tokens attend to all tokens, or to those that `keep` (B, N) marks."""
        parts = self.qkv(tokens).unflatten(2, (3, self.heads, -1))  # (B, N, 3, heads, C / heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mask = None if keep is None else keep[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(out.transpose(1, 2).flatten(2))

    def reset_parameters(self) -> None:
        """Xavier for the joint projection, truncated normal for the output."""
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.trunc_normal_(self.proj.weight, std=0.02)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.proj.bias)


class LocalMix(nn.Sequential):
    """The local branch on a grid (B, H, W, C): linear, depthwise 5x5, linear."""

    def __init__(self, dim: int, kernel: int = 5) -> None:
        conv = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        super().__init__(nn.Linear(dim, dim), conv, nn.Linear(dim, dim))

    def forward(self, input: Tensor) -> Tensor:
        """Mix each position with its surroundings."""
        before, conv, after = self
        return after(conv(before(input).permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class GLMix(nn.Module):
    """Global exchange through slots plus the local branch, on a grid (B, H, W, C).

    Parameters
    ----------
    dim, heads : int
        Channels C; heads of the attention among slots.
    slots : int
        Number of slots M, a square.
    scale : float, optional
        Start value of the logit scale s. The paper's C**-0.5 leaves the clusters within a few
        percent of uniform at the start; a larger value is our deviation, for small datasets.
    learned : bool
        Start from learned slots instead of pooled ones (the paper's "paramslot" ablation).
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        slots: int = 64,
        scale: float | None = None,
        learned: bool = False,
    ) -> None:
        super().__init__()
        self.bins = math.isqrt(slots)
        if self.bins**2 != slots:
            raise ValueError(f"slots must be a square such as 64, not {slots}")
        self.start_scale = dim**-0.5 if scale is None else scale
        self.slot_scale = nn.Parameter(torch.tensor(self.start_scale))
        self.slots = nn.Parameter(torch.empty(1, slots, dim)) if learned else None
        self.attention = SelfAttention(dim, heads)
        self.local = LocalMix(dim)

    def forward(self, y: Tensor, x: Tensor, cells: Tensor | None = None) -> Tensor:
        """Mix normed features `y`; `x` is the block's input, which the slots start from."""
        return self.exchange(y, x, cells) + self.local(y)

    def exchange(self, y: Tensor, x: Tensor, cells: Tensor | None = None) -> Tensor:
        """The global branch: cluster, slot attention, dispatch."""
        logits = self.logits(y, x, cells)
        keys = logits
        if cells is not None:
            inside = inside_mask(cells, y.shape[1], y.shape[2])
            keys = logits.masked_fill(~inside[:, None], -torch.inf)
        slots = keys.softmax(2).to(y.dtype) @ y.flatten(1, 2)  # (B, M, C)
        slots = self.attention(slots)
        return (logits.softmax(1).to(slots.dtype).transpose(1, 2) @ slots).view_as(y)

    def logits(self, y: Tensor, x: Tensor, cells: Tensor | None = None) -> Tensor:
        """Scaled cosines between slots and positions, (B, M, N), in fp32 or better."""
        tokens = y.flatten(1, 2)
        slots = F.normalize(at_least_fp32(self.initial_slots(x, cells)), dim=2)
        # Dividing M*N products by the norms spares a normed copy of the N*C features.
        length = torch.linalg.vector_norm(at_least_fp32(tokens), dim=2).clamp_min(1e-12)
        products = slots.to(tokens.dtype) @ tokens.transpose(1, 2)
        return products * (self.slot_scale / length)[:, None]

    def assignments(self, y: Tensor, x: Tensor, cells: Tensor | None = None) -> Tensor:
        """How much each position belongs to each slot, (B, M, H, W); sums to 1 over M."""
        return self.logits(y, x, cells).softmax(1).unflatten(2, y.shape[1:3])

    def initial_slots(self, x: Tensor, cells: Tensor | None = None) -> Tensor:
        """Averages over a grid of parts of the image, or the learned slots, (B or 1, M, C)."""
        if self.slots is not None:
            return self.slots
        _, height, width, _ = x.shape
        tall, wide = (height, width) if cells is None else (cells[:, :1], cells[:, 1:])
        rows = pool_matrix(tall, height, self.bins, x)
        columns = pool_matrix(wide, width, self.bins, x)
        pooled = (rows @ x.flatten(2)).unflatten(2, (width, -1))  # (B, bins, W, C)
        pooled = columns.unsqueeze(-3) @ pooled  # (B, bins, bins, C)
        return pooled.flatten(1, 2)

    def reset_parameters(self) -> None:
        """Scale and slots; the layers inside reset themselves."""
        nn.init.constant_(self.slot_scale, self.start_scale)
        if self.slots is not None:
            nn.init.normal_(self.slots, std=0.02)

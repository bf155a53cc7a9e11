"""ACmix-Swin: Swin whose window attention shares its projections with a convolution.

After "On the Integration of Self-Attention and Convolution" (Pan et al., CVPR 2022,
arXiv 2111.14556), with figures checked against its released code:

    out = rate1 * proj(window_attention(q, k, v)) + rate2 * shift_and_sum(q, k, v)

The rest is Swin's, ACP and CAT included. In the reference the convolution sees the map as the
windows do, rolled and filled up: in shifted blocks the first rows meet the last ones, and rows on
either side of the roll's cut do not see each other. `seam=False` gives it the plain map.

The convolution (stage II of the paper) is one of 3x3 out of the attention's own projections: a
k x k convolution is k*k shifted 1x1 projections, summed. Here the 3h maps of queries, keys and
values, h heads of d channels, are mixed into 9 maps, each is shifted by its own step of -1, 0 or
1, and all are added. The shift is a grouped convolution, at first exactly that and learned from
there.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.backbones.swin import WINDOW, Block, Swin, WindowAttention
from pipeline.models.backbones.windows import window_attention
from pipeline.models.params import PLAIN, AcmixSwinOptions, InteractionSpec

KERNEL = 3
TAPS = KERNEL * KERNEL


class ShiftAndSum(nn.Module):
    """Mix 3h head maps into 9, shift each by one of the 3x3 steps, add up.

    Group g of the grouped convolution holds channel g of every head, so the outputs are ordered
    by channel, then head, where attention's are ordered by head, then channel. The reference adds
    the two as they are, and so do we.

    Parameters
    ----------
    dim, heads : int
        Channels C and heads h; d = C / h.
    stride : int
        Step of the output over the input; sides come out as ceil(side / stride).
    bias : bool
        Whether the mix has a bias: the Swin form's does, the ResNet form's does not.
    """

    def __init__(self, dim: int, heads: int, *, stride: int = 1, bias: bool) -> None:
        super().__init__()
        self.stride, self.groups = stride, dim // heads
        self.mix = nn.Linear(3 * heads, TAPS, bias=bias)
        self.shift = nn.Parameter(torch.empty(dim, TAPS, KERNEL, KERNEL))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Torch's default for the mix; tap t sees the neighbour at (t // 3 - 1, t % 3 - 1)."""
        self.mix.reset_parameters()
        with torch.no_grad():
            self.shift.copy_(torch.eye(TAPS).view(TAPS, KERNEL, KERNEL))

    def forward(self, parts: Tensor) -> Tensor:
        """Map queries, keys and values (B, H, W, 3, h, d) to (B, H', W', C)."""
        return self.add(self.taps(parts))

    def taps(self, parts: Tensor) -> Tensor:
        """The nine maps of each channel, before they are shifted, (B, H, W, d * 9)."""
        return self.mix(parts.flatten(3, 4).transpose(3, 4)).flatten(3)

    def add(self, taps: Tensor) -> Tensor:
        """Shift the taps and add them up; beyond the border they are zero."""
        taps = taps.permute(0, 3, 1, 2)  # channels last in memory
        summed = F.conv2d(taps, self.shift, None, self.stride, 1, groups=self.groups)
        return summed.permute(0, 2, 3, 1)


class AcmixAttention(WindowAttention):
    """Window attention and shift-and-sum on shared projections, on (B, H, W, C)."""

    def __init__(self, dim: int, heads: int, shift: int, mask_padding: bool, seam: bool) -> None:
        super().__init__(dim, heads, shift, mask_padding)
        self.seam = seam
        self.conv = ShiftAndSum(dim, heads, bias=True)
        self.rate1 = nn.Parameter(torch.empty(1))
        self.rate2 = nn.Parameter(torch.empty(1))

    def reset_parameters(self) -> None:
        """What ACmix adds: shifts that are shifts, rates of one half."""
        self.conv.reset_parameters()
        nn.init.constant_(self.rate1, 0.5)
        nn.init.constant_(self.rate2, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Both branches, weighed; the convolution's has no output projection."""
        qkv = self.qkv(x)
        bias = self.table[self.places].permute(2, 0, 1)  # (h, w*w, w*w)
        padding = None if self.mask_padding else self.qkv.bias
        mixed = window_attention(qkv, self.heads, bias, shift=self.shift, padding=padding)
        return self.rate1 * self.proj(mixed) + self.rate2 * self.convolve(qkv)

    def convolve(self, qkv: Tensor) -> Tensor:
        """Shift-and-sum of the projections (B, H, W, 3*C), on the map that `seam` says."""
        taps = self.conv.taps(qkv.unflatten(3, (3, self.heads, -1)))
        if not self.seam:
            return self.conv.add(taps)
        _, height, width, _ = taps.shape
        down = self.shift if height > WINDOW else 0  # one window is not shifted
        across = self.shift if width > WINDOW else 0
        taps = self._fill_windows(taps).roll((-down, -across), (1, 2))
        summed = self.conv.add(taps).roll((down, across), (1, 2))
        for axis, side in ((1, height), (2, width)):
            summed = _first(summed, axis, side)
        return summed

    def _fill_windows(self, taps: Tensor) -> Tensor:
        """Fill up (B, H, W, E) to whole windows with the taps of padding tokens."""
        _, height, width, _ = taps.shape
        bottom, right = -height % WINDOW, -width % WINDOW
        if not (torch.compiler.is_compiling() or bottom or right):
            return taps
        parts = torch.zeros_like(self.qkv.bias) if self.mask_padding else self.qkv.bias
        fill = self.conv.taps(parts.view(1, 1, 1, 3, self.heads, -1)).to(taps.dtype)
        rows = torch.arange(height + bottom, device=taps.device) < height
        columns = torch.arange(width + right, device=taps.device) < width
        inside = (rows[:, None] & columns)[:, :, None]
        return torch.where(inside, F.pad(taps, (0, 0, 0, right, 0, bottom)), fill)


def _first(x: Tensor, axis: int, side: int) -> Tensor:
    """The first `side` positions along an axis."""
    if torch.compiler.is_compiling():
        # a slice would tie an exported graph to sides that are, or are not, whole windows
        return x.index_select(axis, torch.arange(side, device=x.device))
    return x.narrow(axis, 0, side)


class AcmixSwin(Swin):
    """ACmix in the form of Swin, feature maps of strides 8, 16 and 32.

    Parameters
    ----------
    size : {"micro", "tiny", "small", "base"}
        Swin's sizes; the paper has "tiny" and "small".
    interaction, drop_path, checkpointing
        As in `Swin`.
    options : AcmixSwinOptions
    """

    def __init__(
        self,
        size: str = "tiny",
        *,
        interaction: InteractionSpec = PLAIN,
        drop_path: float | None = None,
        checkpointing: bool = False,
        options: AcmixSwinOptions = AcmixSwinOptions(),
    ) -> None:
        super().__init__(
            size,
            interaction=interaction,
            drop_path=drop_path,
            checkpointing=checkpointing,
            options=options,
        )
        for blocks in self.stages:
            for block in cast("list[Block]", blocks):
                dim, swin = block.norm1.normalized_shape[0], block.attn
                block.attn = AcmixAttention(
                    dim, swin.heads, swin.shift, options.mask_padding, options.seam
                )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Swin's, then what ACmix adds."""
        super().reset_parameters()
        for module in self.modules():
            if isinstance(module, AcmixAttention):
                module.reset_parameters()

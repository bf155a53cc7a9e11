"""ACmix's convolution branch: a 3x3 convolution out of the attention's own projections.

After "On the Integration of Self-Attention and Convolution" (Pan et al., CVPR 2022,
arXiv 2111.14556), stage II, with figures checked against its released code. A k x k convolution
is k*k shifted 1x1 projections, summed. Here the 3h maps of queries, keys and values, h heads of
d channels, are mixed into 9 maps, each is shifted by its own step of -1, 0 or 1, and all are
added. The shift is a grouped convolution, at first exactly that and learned from there.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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

"""A convolutional stem for a ViT, in place of one convolution of 16 x 16 px.

"Early Convolutions Help Transformers See Better" (arXiv 2106.14881): 3 x 3 convolutions of stride
2, each with twice the channels of the last, then one of the blocks' width. Theirs have batch norms
and ReLU, these group norms, which do not care how large a batch is, and GELU. The stride-8 map
that it passes through is kept for the pyramid: a plain patch has no fine detail to give it.
"""

from itertools import pairwise
from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUP = 8  # channels that share a norm, or fewer where 8 do not divide the width


class ConvStem(nn.Module):
    """Images (B, 3, H, W) to maps of strides 8 and 16, of C / 2 and C channels.

    Parameters
    ----------
    dim : int
        C, even.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        widths = (3, _whole(dim / 8), _whole(dim / 4), dim // 2)
        pairs = list(pairwise(widths))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1, bias=False) for a, b in pairs)
        self.norms = nn.ModuleList(nn.GroupNorm(b // gcd(b, GROUP), b) for _, b in pairs)
        self.patch = nn.Conv2d(dim // 2, dim, 3, 2, 1)

    def reset_parameters(self) -> None:
        """He's normal for convolutions, whose inputs GELU has halved."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The map of stride 8, and the one of stride 16 that blocks start from.

        Channels last: a CPU takes half the time for a convolution of few channels and its gradient.
        """
        x = images.contiguous(memory_format=torch.channels_last)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.gelu(norm(conv(x)))
        return x, self.patch(x)


def _whole(width: float) -> int:
    """The nearest multiple of `GROUP`, at least one."""
    return max(GROUP, round(width / GROUP) * GROUP)

"""Norms that several backbones share: a batch norm for tiny maps, and norms of the outputs."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, except where a channel holds one single value while training.

    That happens at stride 32 for one image of 32x32 px. A batch of one value has no variance, and
    torch raises an error; here the running statistics normalise it and are left as they are.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, H, W) per channel."""
        batch, _, height, width = input.shape
        if self.training and batch * height * width == 1:
            mean, var = self.running_mean, self.running_var
            return F.batch_norm(input, mean, var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class OutputNorms(nn.ModuleList):
    """A LayerNorm over the channels of each returned map, or nothing at all.

    Detectors add them to trunks whose stages end without a norm; the next stage goes on from the
    map as it was.
    """

    def __init__(self, channels: Sequence[int], eps: float, *, active: bool) -> None:
        super().__init__(nn.LayerNorm(dim, eps=eps) for dim in channels if active)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Normalise each (B, C, H, W) per position."""
        if not len(self):
            return maps
        pairs = zip(self, maps, strict=True)
        return [norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for norm, x in pairs]

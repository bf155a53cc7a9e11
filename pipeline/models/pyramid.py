"""Backbone maps of strides 8, 16, 32 to the five levels of RetinaNet (strides 8 to 128).

Feature Pyramid Networks (arXiv 1612.03144) as torchvision builds them, with P6 and P7 of
RetinaNet (arXiv 1708.02002) from C5.
"""

from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from pipeline.models.backbones.base import STRIDES, Backbone

LEVEL_STRIDES = (*STRIDES, 64, 128)


class Pyramid(nn.Module):
    """A backbone with its FPN, as torchvision's detectors want it.

    Attributes
    ----------
    out_channels : int
        Channels of each of the five levels.
    """

    def __init__(self, backbone: Backbone, out_channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.out_channels = out_channels
        extra = LastLevelP6P7(backbone.channels[-1], out_channels)
        extra.use_P5 = False  # else P6 comes from P5 where these two numbers happen to be equal
        self.fpn = FeaturePyramidNetwork(list(backbone.channels), out_channels, extra)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Levels P3 to P7 of images (B, 3, H, W), finest first."""
        maps = self.backbone(images)
        return self.fpn({f"c{i}": features for i, features in enumerate(maps, start=3)})

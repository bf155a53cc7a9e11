"""The detectors that are compared: ours, plain and enhanced, and what others would use."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNet, retinanet_resnet50_fpn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

from pipeline.models.build import build_detector
from pipeline.models.interaction import Interaction
from pipeline.models.params import DetectorSpec, checked

CLASSES = 3
SIZES = {"swin": "tiny", "vit": "small", "dat": "tiny"}
ENHANCED = "+acp+cat"
R50, TIMM = "torchvision retinanet-r50", "timm swin-t in torchvision retinanet"
PEERS = (R50, TIMM)
Build = Callable[[], nn.Module]


def ours(family: str, size: str, *, enhanced: bool) -> nn.Module:
    """A detector of this project; pyramid and anchors as large as the peers', save for micro."""
    values = {
        "backbone": family,
        "size": size,
        "num_classes": CLASSES,
        "fpn_channels": 32 if size == "micro" else 256,
        "pool_layers": 2 if enhanced else 0,
        "concepts": 16 if enhanced else 0,
    }
    return build_detector(checked(DetectorSpec, values))


class TimmSwin(nn.Module):
    """timm's Swin-T with torchvision's pyramid, as torchvision's detectors want it."""

    out_channels = 256

    def __init__(self, side: int) -> None:
        super().__init__()
        import timm

        self.swin = timm.create_model(
            "swin_tiny_patch4_window7_224",
            pretrained=False,
            features_only=True,
            out_indices=(1, 2, 3),  # strides 8, 16, 32
            img_size=side,
            drop_path_rate=0.0,
        )
        channels = cast(Any, self.swin).feature_info.channels()
        extra = LastLevelP6P7(channels[-1], self.out_channels)
        self.fpn = FeaturePyramidNetwork(channels, self.out_channels, extra)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Levels P3 to P7 of images (B, 3, side, side)."""
        maps = (m.permute(0, 3, 1, 2) for m in self.swin(images))  # timm has channels last
        return self.fpn({f"c{i}": features for i, features in enumerate(maps, start=3)})


def peer(name: str, side: int) -> nn.Module:
    """RetinaNet of torchvision, from scratch; images come in the right size and stay so."""
    fixed: dict[str, Any] = {"min_size": side, "max_size": side, "_skip_resize": True}
    if name == R50:
        return retinanet_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=CLASSES, **fixed
        )
    return RetinaNet(TimmSwin(side), CLASSES, **fixed)


def arms(families: Sequence[str], side: int, small: bool) -> dict[str, Build]:
    """All arms by name; `small` takes micro sizes of ours, for smoke tests."""
    built: dict[str, Build] = {}
    for family in families:
        size = "micro" if small else SIZES[family]
        for enhanced in (False, True):
            name = f"{family}-{size}" + ENHANCED * enhanced
            built[name] = partial(ours, family, size, enhanced=enhanced)
    for name in PEERS:
        if name != TIMM or find_spec("timm"):
            built[name] = partial(peer, name, side)
    return built


def move_interactions(model: nn.Module) -> None:
    """Take the projections away from zero, where ACP and CAT would get no gradient."""
    for module in model.modules():
        if isinstance(module, Interaction):
            nn.init.normal_(module.aggregate.weight, std=0.02)


def synthetic(side: int, batch: int, device: str) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """uint8 images (B, 3, side, side) with eight boxes each; the last has none if B > 1."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, generator=draw)
    targets = []
    for i in range(batch):
        count = 0 if batch > 1 and i == batch - 1 else 8
        corner = torch.rand(count, 2, generator=draw) * side * 0.6
        extent = (0.1 + 0.25 * torch.rand(count, 2, generator=draw)) * side
        labels = torch.randint(0, CLASSES, (count,), generator=draw)
        boxes = torch.cat([corner, corner + extent], dim=1)
        targets.append({"boxes": boxes.to(device), "labels": labels.to(device)})
    return images.to(device), targets

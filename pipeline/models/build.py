"""From a few plain values to a detector: the one place that knows all backbones."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pipeline.errors import DescryError
from pipeline.models import acmix_resnet, dat, glnet, swin, vit
from pipeline.models.acmix import AcmixSwin
from pipeline.models.acmix_resnet import AcmixResNet
from pipeline.models.backbone import Backbone
from pipeline.models.dat import Dat
from pipeline.models.detector import Detector
from pipeline.models.glnet import GLNet
from pipeline.models.interaction import InteractionSpec
from pipeline.models.swin import Swin
from pipeline.models.vit import ViT

BACKBONES: dict[str, type[Backbone]] = {
    "vit": ViT,
    "swin": Swin,
    "dat": Dat,
    "acmix_swin": AcmixSwin,
    "acmix_resnet": AcmixResNet,
    "glnet": GLNet,
}
SIZES: dict[str, Collection[str]] = {
    "vit": vit.SIZES,
    "swin": swin.SIZES,
    "dat": dat.SIZES,
    "acmix_swin": swin.SIZES,
    "acmix_resnet": acmix_resnet.SIZES,
    "glnet": glnet.SIZES,
}
# Families whose published sizes have names of their own.
SIZE_NAMES = {
    "glnet": {"tiny": "4g", "small": "9g", "base": "16g"},
    "acmix_resnet": {"tiny": "26", "small": "38", "base": "50"},
}


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """Everything that decides a detector's parameters and its output.

    `size` is "micro", "tiny", "small", "base" or a family's own name for a size; `width` replaces
    the width of a ViT's size (0: as the size says); `drop_path` is stochastic depth.
    """

    backbone: str
    size: str
    num_classes: int
    fpn_channels: int
    anchor_scale: float
    score_threshold: float
    nms_threshold: float
    max_detections: int
    pool_layers: int = 0
    concepts: int = 0
    placement: str = "stream"
    pool_stride: int = 1
    copies: bool = False
    width: int = 0
    drop_path: float = 0.0


def build_backbone(spec: DetectorSpec, **options: Any) -> Backbone:
    """The backbone of a detector, with freshly drawn weights.

    Raises
    ------
    DescryError
        When the family has no such size or cannot be widened.
    """
    interaction = InteractionSpec(
        spec.pool_layers, spec.concepts, spec.placement, spec.pool_stride, spec.copies
    )
    if spec.width:
        if spec.backbone != "vit":
            raise DescryError(f"model.width = {spec.width}: only vit can be widened, set it to 0")
        options["width"] = spec.width
    size = SIZE_NAMES.get(spec.backbone, {}).get(spec.size, spec.size)
    family = BACKBONES[spec.backbone]
    if size not in SIZES[spec.backbone]:
        known = ", ".join(SIZES[spec.backbone])
        raise DescryError(f"backbone {spec.backbone} has no size {spec.size!r}: use one of {known}")
    return family(size, interaction=interaction, drop_path=spec.drop_path, **options)


def build_detector(spec: DetectorSpec, **options: Any) -> Detector:
    """A detector with freshly drawn weights; `options` go to the backbone."""
    return Detector(
        build_backbone(spec, **options),
        spec.num_classes,
        fpn_channels=spec.fpn_channels,
        anchor_scale=spec.anchor_scale,
        score_threshold=spec.score_threshold,
        nms_threshold=spec.nms_threshold,
        max_detections=spec.max_detections,
    )

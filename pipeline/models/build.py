"""From a few plain values to a detector: the one place that knows all backbones."""

from dataclasses import dataclass

from pipeline.models.backbone import Backbone
from pipeline.models.detector import Detector
from pipeline.models.interaction import InteractionSpec
from pipeline.models.vit import ViT

BACKBONES: dict[str, type[Backbone]] = {"vit": ViT}


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """Everything that decides a detector's parameters and its output."""

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


def build_detector(spec: DetectorSpec) -> Detector:
    """A detector with freshly drawn weights."""
    interaction = InteractionSpec(
        spec.pool_layers, spec.concepts, spec.placement, spec.pool_stride, spec.copies
    )
    backbone = BACKBONES[spec.backbone](spec.size, interaction=interaction)
    return Detector(
        backbone,
        spec.num_classes,
        fpn_channels=spec.fpn_channels,
        anchor_scale=spec.anchor_scale,
        score_threshold=spec.score_threshold,
        nms_threshold=spec.nms_threshold,
        max_detections=spec.max_detections,
    )

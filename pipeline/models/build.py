"""From a few plain values to a detector: the one place that knows all backbones and heads."""

from pipeline.errors import DescryError
from pipeline.models.backbones.acmix import AcmixSwin
from pipeline.models.backbones.acmix_resnet import AcmixResNet
from pipeline.models.backbones.base import Backbone, StagedBackbone
from pipeline.models.backbones.dat import Dat
from pipeline.models.backbones.glnet import GLNet
from pipeline.models.backbones.swin import Swin
from pipeline.models.backbones.vit import ViT
from pipeline.models.detector import Detector
from pipeline.models.heads.aligned import AlignedHead
from pipeline.models.heads.base import Head
from pipeline.models.heads.mask import MaskHead
from pipeline.models.heads.retinanet import RetinaNetHead
from pipeline.models.heads.semantic import SemanticHead
from pipeline.models.params import DetectorSpec

BACKBONES: dict[str, type[Backbone]] = {
    "vit": ViT,
    "swin": Swin,
    "dat": Dat,
    "acmix_swin": AcmixSwin,
    "acmix_resnet": AcmixResNet,
    "glnet": GLNet,
}
HEADS: dict[str, type[Head]] = {"retinanet": RetinaNetHead, "aligned": AlignedHead}


def build_backbone(spec: DetectorSpec, *, checkpointing: bool = False) -> Backbone:
    """The backbone of a detector, with freshly drawn weights.

    Raises
    ------
    DescryError
        When the family has no such size or cannot be widened.
    """
    family = BACKBONES[spec.backbone]
    size = family.size_names.get(spec.size, spec.size)
    if size not in family.sizes:
        known = ", ".join(family.sizes)
        raise DescryError(f"backbone {spec.backbone} has no size {spec.size!r}: use one of {known}")
    if spec.width and spec.backbone != "vit":
        raise DescryError(f"model.width = {spec.width}: only vit can be widened, set it to 0")
    backbone = family(
        size,
        interaction=spec.interaction,
        drop_path=spec.drop_path,
        checkpointing=checkpointing,
        options=spec.backbone_options(),
        **({"width": spec.width, "stem": spec.stem} if spec.backbone == "vit" else {}),
    )
    if spec.detail == "sum" and isinstance(backbone, StagedBackbone):
        backbone.add_detail()
    return backbone


def build_detector(spec: DetectorSpec, *, checkpointing: bool = False) -> Detector:
    """A detector with freshly drawn weights; `checkpointing` recomputes its backbone's blocks."""
    backbone = build_backbone(spec, checkpointing=checkpointing)
    family = SemanticHead if spec.task == "semantic" else HEADS[spec.head]
    head = family(spec.fpn_channels, spec.num_classes, spec.rules)
    masks = MaskHead(spec.fpn_channels) if spec.task == "instances" else None
    normalisation = (spec.mean, spec.std)
    return Detector(backbone, head, spec.fpn_channels, spec.selection, normalisation, masks)

"""What decides a detector, as frozen groups of plain values: each knob is declared here, once.

`pipeline.config` puts `Model`, `Scale` and `Selection` into params.yaml, a saved model writes all
of them as its `DetectorSpec`, and the parts of a detector take the group that they need. Nothing
here imports torch, so that a mistake shows at once.
"""

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.errors import DescryError
from pipeline.schema import FROZEN, Fraction, Positive, Schema

BackboneName = Literal["vit", "swin", "dat", "acmix_swin", "acmix_resnet", "glnet"]
HeadName = Literal["retinanet", "aligned"]
DetailName = Literal["none", "sum"]
TaskName = Literal["detect", "instances", "semantic"]
StemName = Literal["patch", "convolutions"]
SizeName = Literal["micro", "tiny", "small", "base", "stl", "4g", "9g", "16g", "26", "38", "50"]
Group = TypeVar("Group")


@dataclass(frozen=True, config=FROZEN)
class InteractionSpec:
    """Which interaction a backbone's blocks get; see `pipeline.models.interaction`.

    Attributes
    ----------
    pool_layers : int
        Depth L of ACP; 0 leaves it out.
    concepts : int
        Number K of concept tokens of CAT; 0 leaves it out.
    placement : {"stream", "branch"}
        A residual sub-block of its own before attention, or inside the attention branch.
    pool_stride : {1, 2}
        Stride of ACP's pooling: 1 keeps the grid, 2 makes a pyramid that is brought back.
    copies : bool
        Control for ablations: the aggregation sees copies of its input in place of the ACP and
        CAT features, so that it has its parameters but no interaction.
    """

    pool_layers: Annotated[int, Field(ge=0, le=8)] = 2
    concepts: Annotated[int, Field(ge=0, le=256)] = 16
    placement: Literal["stream", "branch"] = "stream"
    pool_stride: Literal[1, 2] = 1
    copies: bool = False

    @property
    def active(self) -> bool:
        """Whether there is any interaction at all."""
        return self.pool_layers > 0 or self.concepts > 0


PLAIN = InteractionSpec(pool_layers=0, concepts=0)


@dataclass(frozen=True, config=FROZEN)
class ViTOptions:
    """Options of `ViT`.

    Attributes
    ----------
    class_token : bool
        Carry a class token through the blocks, as ViTs for classification have it. The maps are
        made of the other tokens.
    """

    class_token: bool = False


@dataclass(frozen=True, config=FROZEN)
class SwinOptions:
    """Options of `Swin`.

    Attributes
    ----------
    output_norms : bool
        A LayerNorm per returned map, as detectors have them; the classifier form has none.
    mask_padding : bool
        Keep the tokens that fill up windows from being attended to. In the reference they take
        part, and change what stands near the lower and right border.
    """

    output_norms: bool = True
    mask_padding: bool = False


@dataclass(frozen=True, config=FROZEN)
class AcmixSwinOptions(SwinOptions):
    """Options of `AcmixSwin`: Swin's and its own.

    Attributes
    ----------
    seam : bool
        Let the convolution see the rolled and filled map, as in the reference.
    """

    seam: bool = True


@dataclass(frozen=True, config=FROZEN)
class DatOptions:
    """Options of `Dat`.

    Attributes
    ----------
    output_norms : bool
        A LayerNorm per returned map, as detectors have them; the classifier form has none.
    convolutions : bool
        False leaves out what makes DAT+ into DAT++: overlapping patches, local perception and
        the convolution in the MLP.
    centred_points : bool
        Reference points in the centres of their cells; see `DeformableAttention`.
    still_points : bool
        Offsets start at zero; see `DeformableAttention`.
    plain_offsets : bool
        With an interaction inside the attention branch: let the offset network see the features
        without it.
    """

    output_norms: bool = True
    convolutions: bool = True
    centred_points: bool = False
    still_points: bool = False
    plain_offsets: bool = False


@dataclass(frozen=True, config=FROZEN)
class AcmixResNetOptions:
    """Options of `AcmixResNet`.

    Attributes
    ----------
    output_norms : bool
        A LayerNorm per returned map; none in the release.
    """

    output_norms: bool = False


@dataclass(frozen=True, config=FROZEN)
class GLNetOptions:
    """Options of `GLNet`.

    Attributes
    ----------
    output_norms : bool
        A LayerNorm per returned map. The released trunk has none.
    learned_slots : bool
        Start from learned slots instead of pooled ones ("paramslot").
    slot_scale : float or None
        Start value of every block's logit scale; None is the paper's C**-0.5. See `GLMix`.
    mask_padding : bool
        Keep padding out of clusters and attention also where `forward` gets no sizes. Off as in
        the release, where padding takes part and changes all slots. Convolutions and batch norms
        see the padding either way.
    """

    output_norms: bool = False
    learned_slots: bool = False
    slot_scale: float | None = None
    mask_padding: bool = False


OPTIONS: dict[str, type] = {
    "vit": ViTOptions,
    "swin": SwinOptions,
    "dat": DatOptions,
    "acmix_swin": AcmixSwinOptions,
    "acmix_resnet": AcmixResNetOptions,
    "glnet": GLNetOptions,
}


@dataclass(frozen=True, config=FROZEN)
class Model(InteractionSpec):
    """Backbone and interaction; how large they are, and the head, stand in `Scale`.

    Attributes
    ----------
    backbone : str
    task : {"detect", "instances", "semantic"}
        What is learned: boxes; boxes with a mask for each; the class of each pixel, whose connected
        parts are the objects. The latter two need a dataset with masks.
    options : dict
        What only this backbone has, by the names of its group in `OPTIONS`; what is not named is
        as there.
    width : int
        Control: channels of a wider ViT in place of its size's; 0: as the size says.
    drop_path : float or None
        Stochastic depth of the last block, falling linearly to 0 at the first. None takes the
        rate that was published for the backbone's size, for training on ImageNet (0 for a ViT and
        the ResNet form of ACmix, which were published without).
    """

    backbone: BackboneName = "vit"
    task: TaskName = "detect"
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    width: Annotated[int, Field(ge=0, le=4096)] = 0
    drop_path: Annotated[float, Field(ge=0.0, lt=1.0)] | None = 0.0

    def __post_init__(self) -> None:
        self.backbone_options()

    def backbone_options(self) -> Any:
        """`options` as the backbone's group in `OPTIONS`, checked.

        Raises
        ------
        DescryError
            For an option that this backbone does not have, or a value that is not allowed.
        """
        return checked(OPTIONS[self.backbone], self.options, "model", "options")


@dataclass(frozen=True, config=FROZEN)
class HeadRules:
    """What a head learns from; see `pipeline.models.heads`.

    Attributes
    ----------
    anchor_scale : float
        Side of the smallest anchor in units of its level's stride, for heads with anchors; of the
        one square that stands for a place, where a head without is assigned by ATSS.
    assignment : {"own", "atss"}
        Which places stand for a box: as the head has it (IoU with anchors of at least .5;
        alignment of score and IoU), or those near its centre whose IoU is above the mean and
        deviation of them all (arXiv 1912.02424).
    box_loss : {"l1", "giou"}
        Of a head with anchors: distance of the coded sides, as in the paper, or GIoU of the boxes.
        A head without has GIoU.
    score_loss : {"cross_entropy", "quality_focal"}
        Of a head without anchors; the second is that of arXiv 2006.04388. With anchors it is the
        focal loss.
    """

    anchor_scale: Positive = 4.0
    assignment: Literal["own", "atss"] = "own"
    box_loss: Literal["l1", "giou"] = "l1"
    score_loss: Literal["cross_entropy", "quality_focal"] = "cross_entropy"


PAPER = HeadRules()


@dataclass(frozen=True, config=FROZEN)
class Scale(HeadRules):
    """How large a detector is, and in which form: the paper's, or one that learns sooner.

    Attributes
    ----------
    size : str
        Of the backbone, "micro" to "base"; the rest are some families' own names for theirs.
    stem : {"patch", "convolutions"}
        What a ViT's blocks start from: one convolution of 16 x 16 px, as in the paper, or four of
        3 x 3, whose stride-8 map the pyramid sees as well. Other backbones have stems of their own.
    detail : {"none", "sum"}
        What becomes of the stride-4 map of other backbones: nothing, as in the paper, or it is
        brought to stride 8 and added to that map.
    head : {"retinanet", "aligned"}
        With anchors, as in the paper, or without; see `pipeline.models.heads`. A model of the
        task "semantic" has none of these.
    fpn_channels : int
        Channels of the pyramid and of the head.
    """

    size: SizeName = "small"
    stem: StemName = "patch"
    detail: DetailName = "none"
    head: HeadName = "retinanet"
    fpn_channels: Annotated[int, Field(ge=16, le=1024, multiple_of=16)] = 256


@dataclass(frozen=True, config=FROZEN)
class Selection:
    """Which detections leave the model.

    Attributes
    ----------
    score_threshold : float
        Detections below are dropped.
    nms_threshold : float
        IoU from which on the weaker one of two boxes of a class is dropped.
    max_detections : int
        Per image, the strongest.
    """

    score_threshold: Fraction = 0.05
    nms_threshold: Fraction = 0.5
    max_detections: Annotated[int, Field(ge=1, le=1000)] = 100


@dataclass(frozen=True, config=FROZEN, kw_only=True)
class DetectorSpec(Selection, Scale, Model):
    """Everything that decides a detector's parameters and its output.

    Attributes
    ----------
    num_classes : int
    mean, std : tuple of float
        Of each colour channel (RGB from 0 to 1), subtracted and divided by: ImageNet's, or what the
        weights were trained with that a training started from.
    """

    num_classes: Annotated[int, Field(ge=1)]
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[Positive, Positive, Positive] = (0.229, 0.224, 0.225)

    @classmethod
    def of(
        cls, model: Model, scale: Scale, selection: Selection, num_classes: int
    ) -> "DetectorSpec":
        """From the groups of params.yaml and the number of classes."""
        parts = ((Model, model), (Scale, scale), (Selection, selection))
        values = {one.name: getattr(of, one.name) for kind, of in parts for one in fields(kind)}
        return cls(num_classes=num_classes, **values)

    @property
    def interaction(self) -> InteractionSpec:
        """What the backbone's blocks take of it."""
        return _part(InteractionSpec, self)

    @property
    def rules(self) -> HeadRules:
        """What the head learns from."""
        return _part(HeadRules, self)

    @property
    def selection(self) -> Selection:
        """What inference takes of it."""
        return _part(Selection, self)


def _part(group: type[Group], spec: DetectorSpec) -> Group:
    names = [one.name for one in fields(cast(Any, group))]
    return group(**{name: getattr(spec, name) for name in names})


def checked(group: type[Group], values: Mapping[str, Any], *place: str) -> Group:
    """A group from a mapping of plain values; `place` are the keys that lead to it.

    Raises
    ------
    DescryError
        Naming each key and value at fault and what is allowed.
    """
    mistakes: list[str] = []
    found = Schema(group, place).read(dict(values), mistakes)
    if found is None:
        raise DescryError("\n".join(mistakes))
    return found

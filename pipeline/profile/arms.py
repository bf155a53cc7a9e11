"""Which detectors are profiled beside each other: a baseline and its enhanced forms."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.errors import DescryError
from pipeline.models.build import BACKBONES, SIZE_NAMES, SIZES, DetectorSpec
from pipeline.models.controls import controls
from pipeline.models.interaction import InteractionSpec

BASELINE = "baseline"


@dataclass(frozen=True, slots=True)
class Shape:
    """What all arms share.

    Attributes
    ----------
    num_classes, fpn_channels, anchor_scale
        Of the RetinaNet around the backbone, see `Detector`.
    placement, pool_stride
        Of the interaction, see `InteractionSpec`.
    """

    num_classes: int = 1
    fpn_channels: int = 256
    anchor_scale: float = 4.0
    placement: str = "stream"
    pool_stride: int = 1

    def __post_init__(self) -> None:
        if self.fpn_channels < 16 or self.fpn_channels % 16:
            raise DescryError(f"fpn_channels {self.fpn_channels}: must be a multiple of 16")
        try:
            InteractionSpec(placement=self.placement, pool_stride=self.pool_stride)
        except ValueError as error:
            raise DescryError(str(error)) from None


def arms(
    backbone: str,
    size: str,
    pool_layers: Sequence[int],
    concepts: Sequence[int],
    shape: Shape,
    *,
    with_controls: bool = False,
) -> dict[str, DetectorSpec]:
    """The baseline, then every combination of `pool_layers` and `concepts`, by name.

    Raises
    ------
    DescryError
        For a backbone, size or number that is not allowed.
    """
    _check(backbone, size, pool_layers, concepts)
    plain = DetectorSpec(
        backbone=backbone,
        size=size,
        num_classes=shape.num_classes,
        fpn_channels=shape.fpn_channels,
        anchor_scale=shape.anchor_scale,
        score_threshold=0.05,
        nms_threshold=0.5,
        max_detections=100,
        placement=shape.placement,
        pool_stride=shape.pool_stride,
    )
    found = {BASELINE: plain}
    for layers in pool_layers:
        for number in concepts:
            if layers or number:
                spec = replace(plain, pool_layers=layers, concepts=number)
                found |= _with_controls(spec) if with_controls else {arm_name(spec): spec}
    return found


def arm_name(spec: DetectorSpec) -> str:
    """For example "acp2+cat16"."""
    acp = [f"acp{spec.pool_layers}"] if spec.pool_layers else []
    cat = [f"cat{spec.concepts}"] if spec.concepts else []
    return "+".join(acp + cat) or BASELINE


def _with_controls(spec: DetectorSpec) -> dict[str, DetectorSpec]:
    """A detector's controls; those that others may have too are named after their own form."""
    named = {}
    for name, arm in controls(spec).items():
        own = f"{name} of {arm_name(spec)}" if name in ("wider", "copies") else arm_name(arm)
        named[own] = arm
    return named


def _check(backbone: str, size: str, pool_layers: Sequence[int], concepts: Sequence[int]) -> None:
    if backbone not in BACKBONES:
        raise DescryError(f"backbone {backbone!r}: must be one of {', '.join(BACKBONES)}")
    sizes = [*SIZES[backbone], *SIZE_NAMES.get(backbone, {})]
    if size not in sizes:
        raise DescryError(f"size {size!r} of {backbone}: must be one of {', '.join(sizes)}")
    for name, values in (("pool_layers", pool_layers), ("concepts", concepts)):
        if not values or min(values) < 0:
            raise DescryError(f"{name} {list(values)}: must be one or more numbers from 0")

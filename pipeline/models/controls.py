"""The arms of an honest comparison: what an enhanced detector has to be measured against.

More parameters may help by themselves. Beside the plain baseline stand therefore a wider one with
as many parameters as the enhanced model, each half of the interaction alone, and the interaction's
projection on copies of its input, which has its parameters but mixes no positions.
"""

from dataclasses import replace
from math import lcm

import torch

from pipeline.errors import DescryError
from pipeline.models.backbones.vit import SIZES
from pipeline.models.build import build_backbone
from pipeline.models.params import DetectorSpec

# Only a plain ViT can be widened finely enough. In the others the number of heads follows from
# the width at 32 channels a head, so that the next wider model has up to three quarters more
# parameters; matching them would change heads or depth as well.
WIDTH_FAMILIES = ("vit",)
# Shares of the enhanced model's parameters. Widths go in steps of about 5 % of them, so that not
# every model is met to 1 %: what the control has too many is to its own advantage, not to ours.
FEWER, MORE = 0.01, 0.02


def controls(spec: DetectorSpec) -> dict[str, DetectorSpec]:
    """Name the arms of a comparison with an enhanced detector.

    Parameters
    ----------
    spec : DetectorSpec
        The enhanced detector, with ACP, CAT or both.

    Returns
    -------
    dict
        "baseline"; "wider" (width-matched, for families in `WIDTH_FAMILIES`); "acp" and "cat"
        where the detector has both; "copies"; "full". All else is equal in all of them.

    Raises
    ------
    DescryError
        When the detector has no interaction, or is itself a control.
    """
    if spec.copies or spec.width or not (spec.pool_layers or spec.concepts):
        raise DescryError(
            "controls: need an enhanced detector (pool_layers or concepts above 0, copies false, "
            f"width 0), not pool_layers={spec.pool_layers}, concepts={spec.concepts}, "
            f"copies={spec.copies}, width={spec.width}"
        )
    baseline = replace(spec, pool_layers=0, concepts=0)
    arms = {"baseline": baseline}
    if spec.backbone in WIDTH_FAMILIES:
        arms["wider"] = replace(baseline, width=matched_width(spec))
    if spec.pool_layers and spec.concepts:
        arms["acp"] = replace(spec, concepts=0)
        arms["cat"] = replace(spec, pool_layers=0)
    return arms | {"copies": replace(spec, copies=True), "full": spec}


def matched_width(spec: DetectorSpec) -> int:
    """Width of the plain ViT whose backbone has as many parameters as the enhanced one.

    Depth and number of heads stay; heads become wider. Bisection over the widths that the heads
    divide and that are even (the stride-8 map has half of them).

    Raises
    ------
    DescryError
        When no width comes within `FEWER` and `MORE`, or the family cannot be matched by width.
    """
    if spec.backbone not in WIDTH_FAMILIES:
        raise DescryError(
            f"backbone {spec.backbone!r} cannot be matched by its width alone; "
            f"allowed: {', '.join(WIDTH_FAMILIES)}"
        )
    target = backbone_parameters(spec)
    width, _, heads = SIZES[spec.size]
    step = lcm(heads, 2)
    plain = replace(spec, pool_layers=0, concepts=0)

    def count(width: int) -> int:
        return backbone_parameters(replace(plain, width=width))

    low, high = width // step, 4 * width // step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle * step) <= target else (low, middle)
    best = min((low * step, high * step), key=lambda w: abs(count(w) - target))
    if not -FEWER <= count(best) / target - 1 <= MORE:
        raise DescryError(
            f"backbone {spec.backbone}, size {spec.size}: no width that {heads} heads divide has "
            f"{target} parameters, {FEWER:.0%} fewer or {MORE:.0%} more; the nearest is {best}"
        )
    return best


def backbone_parameters(spec: DetectorSpec) -> int:
    """Number of parameters of a detector's backbone, counted without memory for them."""
    with torch.device("meta"):
        built = build_backbone(spec)
    return sum(parameter.numel() for parameter in built.parameters())

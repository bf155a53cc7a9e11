"""Which detectors are profiled beside each other: a baseline and its enhanced forms."""

from collections.abc import Sequence
from dataclasses import asdict

from pipeline.errors import DescryError
from pipeline.models.controls import controls
from pipeline.models.params import DetectorSpec, checked

BASELINE = "baseline"


def arms(
    backbone: str,
    size: str,
    pool_layers: Sequence[int],
    concepts: Sequence[int],
    shared: dict[str, object],
    *,
    with_controls: bool = False,
) -> dict[str, DetectorSpec]:
    """The baseline, then every combination of `pool_layers` and `concepts`, by name.

    `shared` holds further fields of `DetectorSpec`, for all of them.

    Raises
    ------
    DescryError
        For a backbone, size or number that is not allowed.
    """
    for name, values in (("pool_layers", pool_layers), ("concepts", concepts)):
        if not values:
            raise DescryError(f"{name}: must be one or more numbers from 0")
    plain = spec_of(shared | {"backbone": backbone, "size": size})
    found = {BASELINE: plain}
    for layers in pool_layers:
        for number in concepts:
            if layers or number:
                spec = spec_of(asdict(plain) | {"pool_layers": layers, "concepts": number})
                found |= _with_controls(spec) if with_controls else {arm_name(spec): spec}
    return found


def spec_of(values: dict[str, object]) -> DetectorSpec:
    """A detector of one class without interaction, but for the given values."""
    plain = {"num_classes": 1, "pool_layers": 0, "concepts": 0}
    return checked(DetectorSpec, plain | values)


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

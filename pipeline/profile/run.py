"""Profile backbones, interactions and image sizes; baseline and enhanced in one run."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.atomic import replacing, write_json
from pipeline.errors import DescryError
from pipeline.models.controls import controls
from pipeline.models.params import DetectorSpec, checked
from pipeline.profile.count import NOT_COUNTED, count
from pipeline.profile.measure import Load, clock, make_step, peak_bytes, summarise
from pipeline.profile.table import baseline_of, machine, markdown

_LOG = logging.getLogger(__name__)
FORMAT = 1
BASELINE = "baseline"


@dataclass(frozen=True, slots=True)
class Settings:
    """How to measure.

    Attributes
    ----------
    batch_size : int
    repeats : int
        Timed steps; 0 leaves time out.
    warmup : int
        Steps before them.
    training : bool
        Measure training steps beside inference.
    memory : bool
        Measure peak memory, with a process per arm.
    precision : {"fp32", "bf16"}
    device : {"cpu", "cuda"}
    threads : int
        CPU threads; 0 leaves PyTorch's choice.
    """

    batch_size: int = 1
    repeats: int = 10
    warmup: int = 3
    training: bool = True
    memory: bool = True
    precision: str = "fp32"
    device: str = "cpu"
    threads: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1 or min(self.repeats, self.warmup, self.threads) < 0:
            raise DescryError(
                f"batch_size={self.batch_size} must be at least 1; repeats={self.repeats}, "
                f"warmup={self.warmup} and threads={self.threads} at least 0"
            )
        if self.precision not in ("fp32", "bf16") or self.device not in ("cpu", "cuda"):
            raise DescryError(
                f"precision={self.precision!r} must be fp32 or bf16, "
                f"device={self.device!r} cpu or cuda"
            )


def profile(
    backbones: Sequence[str] = ("vit",),
    sizes: Sequence[str] = ("micro",),
    image_sizes: Sequence[int] = (256,),
    pool_layers: Sequence[int] = (2,),
    concepts: Sequence[int] = (16,),
    *,
    detector: dict[str, object] | None = None,
    settings: Settings = Settings(),
    with_controls: bool = False,
    out: Path | None = None,
) -> dict[str, Any]:
    """Profile every combination of the given values, each beside its baseline.

    Parameters
    ----------
    backbones, sizes : sequence of str
        Names; every backbone must have every size.
    image_sizes : sequence of int
        Sides in pixels.
    pool_layers, concepts : sequence of int
        Every pair is an arm; (0, 0) is the baseline, which is always there.
    detector : dict, optional
        Further fields of `DetectorSpec`, for all arms.
    settings : Settings
    with_controls : bool
        Add the controls of `pipeline.models.controls`.
    out : Path, optional
        JSON file to write; the table goes beside it as ``.md``.

    Returns
    -------
    dict
        The JSON content; `pipeline.profile.table.markdown` makes a table of it.
    """
    chosen = [
        (b, s, side, arms(b, s, pool_layers, concepts, detector or {}, with_controls=with_controls))
        for b in backbones
        for s in sizes
        for side in _checked_sides(image_sizes)
    ]
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads or before)
    try:
        rows = [row for group in chosen for row in _group(*group, settings)]
        about = machine(settings.device)
    finally:
        torch.set_num_threads(before)
    for row in rows:
        row["ratio"] = _ratios(row, baseline_of(row, rows))
    report = {
        "format": FORMAT,
        "machine": about,
        "settings": asdict(settings),
        "detector": detector or {},
        "not_counted": list(NOT_COUNTED),
        "rows": rows,
    }
    if out is not None:
        write_json(out, report)
        with replacing(out.with_suffix(".md")) as stream:
            stream.write(markdown(report) + "\n")
    return report


def _checked_sides(image_sizes: Sequence[int]) -> Sequence[int]:
    if not image_sizes or min(image_sizes) < 32:
        raise DescryError(f"image_size {list(image_sizes)}: must be one or more sides from 32 px")
    return image_sizes


def _group(
    backbone: str, size: str, side: int, specs: dict[str, DetectorSpec], settings: Settings
) -> Iterator[dict[str, Any]]:
    """Rows of one backbone and size at one image size; their steps are timed in turn."""
    _LOG.info("profile: %s %s at %d px, %d arms", backbone, size, side, len(specs))
    counts = {name: count(spec, side) for name, spec in specs.items()}
    modes = ("inference", "training") if settings.training else ("inference",)
    measured = {mode: _measure(specs, side, mode == "training", settings) for mode in modes}
    for name, spec in specs.items():
        row = {"backbone": backbone, "size": size, "image_size": side, "arm": name}
        yield {
            **row,
            "pool_layers": spec.pool_layers,
            "concepts": spec.concepts,
            "copies": spec.copies,
            "width": spec.width,
            **_split(asdict(counts[name])),
            **{mode: measured[mode][name] for mode in modes if measured[mode][name]},
        }


def _split(counts: dict[str, int]) -> dict[str, dict[str, int]]:
    names = ("total", "backbone", "interaction")
    return {
        "parameters": {name: counts[name] for name in names},
        "flops": {name: value for name, value in counts.items() if name not in names},
    }


def _measure(
    specs: dict[str, DetectorSpec], side: int, training: bool, settings: Settings
) -> dict[str, dict[str, Any]]:
    """Time and memory by arm."""
    load = Load(side, settings.batch_size, training, settings.device, settings.precision)
    found: dict[str, dict[str, Any]] = {name: {} for name in specs}
    if settings.repeats:
        steps = [make_step(spec, load) for spec in specs.values()]
        times = clock(steps, settings.warmup, settings.repeats)
        for name, seconds in zip(specs, times, strict=True):
            found[name] = asdict(summarise(seconds, settings.batch_size))
    if settings.memory:
        for name, spec in specs.items():
            found[name]["peak_bytes"] = peak_bytes(spec, load, torch.get_num_threads())
    return found


def _ratios(row: dict[str, Any], plain: Any) -> dict[str, float]:
    """Every number of a row over its baseline's, where that is not 0 or unknown."""
    ratios = {}
    for part in ("parameters", "flops", "inference", "training"):
        for name, value in row.get(part, {}).items():
            base = plain[part][name]
            if name not in ("repeats", "q1_ms", "q3_ms") and base and value is not None:
                ratios[f"{part}.{name}"] = round(value / base, 4)
    return ratios


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

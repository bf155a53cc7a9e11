"""The plan: which units of work there are, with the parameters that decide their result.

Their order is that of their worth: device time may end at any point.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

PIECES = ("bits", "throughput", "memory", "study")
PRECISIONS = ("fp32", "bf16")
OURS = ("swin", "vit", "dat")
COMPILED = ("torch.compile",)  # apart: it may take minutes, or fail, and the others need not wait
UNCOMPILED = ("channels_last", "fused AdamW", "deterministic")
STUDY_ARMS = ("baseline", "wider", "acp", "cat", "copies", "full")
WITH_DATA = ("training", "study")  # kinds that need a converted dataset
CUBLAS = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # read when CUDA starts, so set for the process


@dataclass(frozen=True, slots=True)
class Settings:
    """Sizes of everything; `small` models and the other numbers of `TINY` are no measurement.

    Attributes
    ----------
    batches : tuple of (side in px, images a step)
    bits : tuple
        Side in px, images a step, steps.
    training : tuple
        Side in px, epochs.
    rounds, visit, warm_up : int
        Times that every arm has its turn, steps of a turn, steps before the first.
    matrix : int
        Side of the matrices whose product gives the device's rate.
    compiler : str
        Backend of torch.compile.
    study : tuple of (recipe of params.yaml, image size in px or 0 for the recipe's own)
    """

    batches: tuple[tuple[int, int], ...] = ((512, 16), (800, 8))
    bits: tuple[int, int, int] = (256, 8, 5)
    training: tuple[int, int] = (224, 2)
    rounds: int = 10
    visit: int = 5
    warm_up: int = 5
    matrix: int = 8192
    compiler: str = "inductor"
    small: bool = False
    arms: tuple[str, ...] = OURS
    precisions: tuple[str, ...] = PRECISIONS
    study: tuple[tuple[str, int], ...] = (("paper", 512), ("sample", 0))
    study_arms: tuple[str, ...] = STUDY_ARMS
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 30


FULL = Settings()
TINY = replace(
    FULL,
    batches=((64, 2),),
    bits=(96, 2, 2),
    training=(96, 1),
    rounds=2,
    visit=1,
    warm_up=1,
    matrix=128,
    compiler="eager",
    small=True,
    arms=("swin",),
    study=(("sample", 64),),
    study_arms=("baseline", "full"),
    seeds=(0,),
    epochs=1,
)


@dataclass(frozen=True, slots=True)
class Unit:
    """One process's work.

    Attributes
    ----------
    piece, kind : str
        Which of `PIECES`, and which function does it (see `gpu_pieces.child`).
    name : str
        File name of its JSON, without the ending.
    parameters : dict
        Plain values that decide the result.
    seconds : float
        A guess of its duration, until one like it has been measured.
    environment : dict
        Variables that must be set before the process starts.
    """

    piece: str
    kind: str
    name: str
    parameters: dict[str, Any]
    seconds: float
    environment: dict[str, str]


def planned(settings: Settings, families: Sequence[str], device: str) -> list[Unit]:
    """All units, in the order in which they are done."""
    first, *others = settings.batches
    units = [*_bits(settings, families), *_steps(settings, first), *_gains(settings, UNCOMPILED)]
    units += _study(settings)
    units += [unit for batch in others for unit in _steps(settings, batch)]
    units += [_rate(settings, ""), *_gains(settings, COMPILED), _rate(settings, settings.compiler)]
    return [replace(u, parameters={"device": device, **u.parameters}) for u in units]


def _bits(settings: Settings, families: Sequence[str]) -> Iterator[Unit]:
    side, batch, steps = settings.bits
    for family in families:
        values = {"family": family, "side": side, "batch": batch, "steps": steps}
        yield Unit("bits", "bits", family, values, 60, CUBLAS)
    side, epochs = settings.training
    for precision in settings.precisions:
        values = {"recipe": "sample", "side": side, "epochs": epochs, "precision": precision}
        yield Unit("bits", "training", f"descry-train-{precision}", values, 90, CUBLAS)


def _timing(settings: Settings) -> dict[str, Any]:
    return {"rounds": settings.rounds, "visit": settings.visit, "warm_up": settings.warm_up}


def _steps(settings: Settings, batch: tuple[int, int]) -> Iterator[Unit]:
    """Speed and memory of one side and batch."""
    shared = {"families": list(settings.arms), "small": settings.small}
    for piece, seconds, more in (("throughput", 150, _timing(settings)), ("memory", 60, {})):
        for precision in settings.precisions:
            values = {"side": batch[0], "batch": batch[1], "precision": precision}
            name = f"{batch[0]}px-{precision}"
            yield Unit(piece, piece, name, values | shared | more, seconds, {})


def _first(settings: Settings) -> dict[str, Any]:
    side, batch = settings.batches[0]
    return {"side": side, "batch": batch, "small": settings.small, **_timing(settings)}


def _gains(settings: Settings, variants: Sequence[str]) -> Iterator[Unit]:
    name, seconds = ("compile", 300) if variants == COMPILED else ("gains", 90)
    values = _first(settings) | {"variants": list(variants), "compiler": settings.compiler}
    for family in settings.arms:
        unit_values = {"family": family, **values}
        yield Unit("throughput", "gains", f"{name}-{family}", unit_values, seconds, CUBLAS)


def _rate(settings: Settings, compiler: str) -> Unit:
    values = _first(settings) | {"matrix": settings.matrix, "compiler": compiler}
    name, seconds = ("rate-compiled", 240) if compiler else ("rate", 60)
    return Unit("throughput", "rate", name, values, seconds, {})


def _study(settings: Settings) -> Iterator[Unit]:
    """Seed by seed, so that whatever is there when time runs out compares all arms."""
    for recipe, side in settings.study:
        for seed in settings.seeds:
            for arm in settings.study_arms:
                values = {"recipe": recipe, "side": side, "arm": arm, "seed": seed}
                values["epochs"] = settings.epochs
                name = f"{recipe}-{arm}-seed{seed}"
                yield Unit(
                    "study", "study", name, values, 300 if recipe == "paper" else 120, CUBLAS
                )

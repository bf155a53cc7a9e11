"""The plan: which units of work there are, with the parameters that decide their result."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

PIECES = ("bits", "throughput", "memory", "study")
PRECISIONS = ("fp32", "bf16")
OURS = ("swin", "vit", "dat")
STUDY_ARMS = ("baseline", "wider", "acp", "cat", "copies", "full")
CUBLAS = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # read when CUDA starts, so set for the process


@dataclass(frozen=True, slots=True)
class Settings:
    """Sizes of everything; `small` models and the other numbers of `TINY` are no measurement.

    Attributes
    ----------
    batches : tuple of (side in px, images a step)
    bits : tuple
        Side in px, images a step, steps.
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
    rounds: int = 10
    visit: int = 5
    warm_up: int = 5
    matrix: int = 8192
    compiler: str = "inductor"
    small: bool = False
    arms: tuple[str, ...] = OURS
    precisions: tuple[str, ...] = PRECISIONS
    study: tuple[tuple[str, int], ...] = (("sample", 0), ("paper", 512))
    study_arms: tuple[str, ...] = STUDY_ARMS
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 30


FULL = Settings()
TINY = replace(
    FULL,
    batches=((64, 2),),
    bits=(96, 2, 2),
    rounds=2,
    visit=1,
    warm_up=1,
    matrix=128,
    compiler="eager",
    small=True,
    arms=("swin",),
    precisions=("fp32",),
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
    units = [*_bits(settings, families), *_throughput(settings), *_memory(settings)]
    units += _study(settings)
    return [replace(u, parameters={"device": device, **u.parameters}) for u in units]


def _bits(settings: Settings, families: Sequence[str]) -> Iterator[Unit]:
    side, batch, steps = settings.bits
    for family in families:
        values = {"family": family, "side": side, "batch": batch, "steps": steps}
        yield Unit("bits", "bits", family, values, 60, CUBLAS)


def _timing(settings: Settings) -> dict[str, Any]:
    return {"rounds": settings.rounds, "visit": settings.visit, "warm_up": settings.warm_up}


def _throughput(settings: Settings) -> Iterator[Unit]:
    shared = {"families": list(settings.arms), "small": settings.small}
    for side, batch in settings.batches:
        for precision in settings.precisions:
            values = {"side": side, "batch": batch, "precision": precision} | shared
            values |= _timing(settings)
            yield Unit("throughput", "throughput", f"{side}px-{precision}", values, 150, {})
    side, batch = settings.batches[0]
    fixed = {"side": side, "batch": batch, "small": settings.small, **_timing(settings)}
    fixed["compiler"] = settings.compiler
    yield Unit("throughput", "rate", "rate", fixed | {"matrix": settings.matrix}, 180, {})
    for family in settings.arms:
        values = fixed | {"family": family}
        yield Unit("throughput", "gains", f"gains-{family}", values, 240, CUBLAS)


def _memory(settings: Settings) -> Iterator[Unit]:
    shared = {"families": list(settings.arms), "small": settings.small}
    for side, batch in settings.batches:
        for precision in settings.precisions:
            values = {"side": side, "batch": batch, "precision": precision} | shared
            yield Unit("memory", "memory", f"{side}px-{precision}", values, 60, {})


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

"""What each switch is worth for a training step, one at a time, in bf16 autocast."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from gpu_pieces.arms import SIZES, ours, synthetic
from gpu_pieces.steps import Trainee, arithmetic, attempt, free, ratios, spread, take_turns


def run(
    device: str,
    family: str,
    side: int,
    batch: int,
    small: bool,
    rounds: int,
    visit: int,
    warm_up: int,
    variants: Sequence[str],
    compiler: str,
) -> dict[str, Any]:
    """Gain of each of the variants over the base, for a family with ACP and CAT.

    "deterministic" shows the price of strict mode, unset memory left unfilled as in training.
    cuBLAS has the fixed workspace that strict mode demands in all variants, because it is chosen
    when CUDA starts.
    """
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    images, targets = synthetic(side, batch, device)
    actions: dict[str, Callable[[], object]] = {}
    left_out: dict[str, str] = {}
    for name in ("base", *variants):
        torch.manual_seed(0)
        model = ours(family, "micro" if small else SIZES[family], enhanced=True)
        fused = True if name == "fused AdamW" else None
        trainee = Trainee(prepared(model, name, compiler), images, targets, "bf16", fused=fused)
        action = strictly(trainee.step) if name == "deterministic" else trainee.step
        reason = attempt(action, device, warm_up)
        if reason:
            left_out[name] = reason
        else:
            actions[name] = action
        del trainee, action, model
        free(device)
    times = take_turns(actions, device, rounds, visit)
    return {
        "images per step": batch,
        "precision": "bf16",
        "compiler": compiler,
        "arithmetic": arithmetic(),
        "variants": {name: _figures(name, times, batch) for name in times},
        "left out": left_out,
    }


def prepared(model: nn.Module, variant: str, compiler: str) -> nn.Module:
    """The model in another memory layout or compiled; the loss, with its loops, stays eager."""
    if variant == "channels_last":
        return model.to(memory_format=torch.channels_last)
    if variant == "torch.compile":
        for part in (model.backbone, model.head):
            cast(nn.Module, part).compile(backend=compiler)
    return model


def strictly(action: Callable[[], object]) -> Callable[[], object]:
    """The action in strict deterministic mode."""

    def run_strictly() -> object:
        with strict_mode():
            return action()

    return run_strictly


@contextmanager
def strict_mode() -> Iterator[None]:
    """Deterministic algorithms or an error, inside the block."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _figures(name: str, times: dict[str, list[float]], batch: int) -> dict[str, Any]:
    """Speed of one variant; a gain above 1 means that it is faster than the base."""
    found: dict[str, Any] = {"images per second": spread([batch / t for t in times[name]])}
    if name != "base" and "base" in times:
        found["gain"] = ratios(times["base"], times[name])
    return found

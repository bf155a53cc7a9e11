"""Training steps a second, ours and the peers' taking turns in one process."""

from collections.abc import Sequence
from typing import Any

import torch

from gpu_pieces.arms import ENHANCED, PEERS, arms, synthetic
from gpu_pieces.steps import Trainee, arithmetic, attempt, free, ratios, spread, take_turns


def run(
    device: str,
    side: int,
    batch: int,
    precision: str,
    families: Sequence[str],
    small: bool,
    rounds: int,
    visit: int,
    warm_up: int,
) -> dict[str, Any]:
    """Images a second of every arm, and how much faster it is than each peer.

    All arms are on the device at once. One that cannot be warmed up leaves, with its reason.
    """
    images, targets = synthetic(side, batch, device)
    trainees: dict[str, Trainee] = {}
    left_out: dict[str, str] = {}
    for name, build in arms(families, side, small).items():
        torch.manual_seed(0)
        trainee = Trainee(build(), images, targets, precision)
        reason = attempt(trainee.step, device, warm_up)
        if reason:
            left_out[name] = reason
        else:
            trainees[name] = trainee
        del trainee
        free(device)
    left_out |= dict.fromkeys(set(PEERS) - {*trainees, *left_out}, "timm is not installed")
    actions = {name: trainee.step for name, trainee in trainees.items()}
    times = take_turns(actions, device, rounds, visit)
    return {
        "images per step": batch,
        "arithmetic": arithmetic(),
        "arms": {name: _figures(name, times, batch, trainees[name]) for name in times},
        "left out": left_out,
    }


def _figures(
    name: str, times: dict[str, list[float]], batch: int, trainee: Trainee
) -> dict[str, Any]:
    """Speed of one arm. A ratio above 1 means that this arm is the faster one."""
    found: dict[str, Any] = {
        "parameters": sum(p.numel() for p in trainee.model.parameters()),
        "milliseconds per step": spread([1000 * t for t in times[name]]),
        "images per second": spread([batch / t for t in times[name]]),
        "speed against": {p: ratios(times[p], times[name]) for p in PEERS if p in times},
        "last loss": f"{float(trainee.step()):.4g}",
    }
    plain = name.removesuffix(ENHANCED)
    if plain != name and plain in times:
        found["time against its baseline"] = ratios(times[name], times[plain])
    return found

"""Largest allocated memory of a training step, one arm on the device at a time."""

from collections.abc import Sequence
from typing import Any

import torch

from gpu_pieces.arms import PEERS, Build, arms, synthetic
from gpu_pieces.steps import Trainee, attempt, free

STEPS = 3  # AdamW's state exists from the second on
MIB = 2**20


def run(
    device: str, side: int, batch: int, precision: str, families: Sequence[str], small: bool
) -> dict[str, Any]:
    """Memory of every arm, and its ratio to each peer's."""
    found = {
        name: measured(build, device, side, batch, precision)
        for name, build in arms(families, side, small).items()
    }
    peaks = {name: f["peak in MiB"] for name, f in found.items() if f.get("peak in MiB")}
    for name, peak in peaks.items():
        against = {p: round(peak / peaks[p], 3) for p in PEERS if p in peaks}
        found[name]["memory against"] = against
    note = "" if device == "cuda" else "torch counts memory on CUDA devices only; steps ran"
    return {"images per step": batch, "arms": found, "note": note}


def measured(build: Build, device: str, side: int, batch: int, precision: str) -> dict[str, Any]:
    """Peak during steps, and what stays between them: weights, gradients, optimiser, batch."""
    free(device)
    torch.manual_seed(0)
    trainee = Trainee(build(), *synthetic(side, batch, device), precision)
    reason = attempt(trainee.step, device, STEPS)
    if reason:
        return {"left out": reason}
    if device != "cuda":
        return {"peak in MiB": None}
    torch.cuda.reset_peak_memory_stats()
    trainee.step()
    torch.cuda.synchronize()
    return {
        "peak in MiB": round(torch.cuda.max_memory_allocated() / MIB, 1),
        "between steps in MiB": round(torch.cuda.memory_allocated() / MIB, 1),
    }

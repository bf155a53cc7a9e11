"""Where and how comfortably a stage is computed: the parameters under `machine`."""

import os
from pathlib import Path

import torch

from pipeline.config import Params
from pipeline.data.cache import CachePlan
from pipeline.errors import DescryError


def pick_device(wanted: str) -> str:
    """The device in words that torch understands.

    Raises
    ------
    DescryError
        When a GPU is asked for and there is none.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise DescryError(f"device {wanted!r}: must be one of auto, cpu, cuda")
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise DescryError("device cuda: torch sees no GPU here; use auto or cpu")
    return wanted


def loader_workers(params: Params, device: str) -> int:
    """Loader processes: as asked; by default one per core for a GPU, none beside CPU training."""
    if params.machine.workers >= 0:
        return params.machine.workers
    return 0 if device == "cpu" else os.cpu_count() or 1


def picture_cache(params: Params, device: str) -> CachePlan | None:
    """Where decoded training images are kept: as asked; by default only where a GPU waits."""
    chosen = params.machine
    if chosen.cache == "none" or (chosen.cache == "auto" and device == "cpu"):
        return None
    own = lasting(chosen.scratch) / "pictures"
    return CachePlan(own if chosen.cache == "auto" else lasting(chosen.cache), chosen.cache_gib)


def lasting(folder: str) -> Path:
    """A folder of `machine`, where it outlives the copy of the repository that this may run in.

    ``dvc queue`` and ``dvc exp run --temp`` run their stages in copies that they remove, and name
    the repository itself in DVC_ROOT; so a relative path counts from there.
    """
    return Path(os.environ.get("DVC_ROOT", ""), folder)

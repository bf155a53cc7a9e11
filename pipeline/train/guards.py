"""What stops a run, and says why and what to do about it."""

import errno
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.atomic import unwritable, write_json
from pipeline.errors import DescryError, first_line, is_out_of_memory

MIB = 2**20


def check_precision(precision: str, device: str, side: int) -> None:
    """Refuse what torch 2.15 computes wrongly: bf16 on a CPU with a pyramid level of one cell.

    oneDNN's gradient of a bf16 convolution of stride 2 over a map of 1 x 1, which level P6 is at
    64 px, reads memory that nobody has set.

    Raises
    ------
    DescryError
    """
    if precision == "bf16" and device == "cpu" and side <= 64:
        raise DescryError(
            f"train.precision = bf16 at image_size = {side} on a CPU gives wrong gradients: "
            "use fp32, or 96 px and more"
        )


def check_finite(
    parts: Mapping[str, float], image_ids: list[int], step: int, lr: float, dump: Path
) -> None:
    """Stop at a loss that is not finite; what led to it is written to `dump` first.

    Raises
    ------
    DescryError
        With loss parts, image ids, learning rate and step, naming the dump.
    """
    if all(map(math.isfinite, parts.values())):
        return
    shown = {name: repr(value) for name, value in parts.items()}  # JSON has no nan
    write_json(dump, {"losses": shown, "image_ids": image_ids, "step": step, "lr": lr})
    words = ", ".join(f"{name} {value}" for name, value in shown.items())
    raise DescryError(
        f"the loss is not finite at step {step} ({words}; learning rate {lr:.3g}; image ids "
        f"{', '.join(map(str, image_ids))}; see {dump}). Lower train.lr, lengthen train.warmup "
        "or look at these images' boxes"
    )


@contextmanager
def naming_knobs(knobs: Mapping[str, Any]) -> Iterator[None]:
    """Turn "out of memory" inside the block into an error that says which parameters help.

    Parameters
    ----------
    knobs : mapping
        Parameters and their present values.

    Raises
    ------
    DescryError
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not (is_out_of_memory(error) or isinstance(error, torch.OutOfMemoryError)):
            raise
        now = ", ".join(f"{name} = {value}" for name, value in knobs.items())
        raise DescryError(
            f"out of memory ({first_line(error)}). Now: {now}. "
            "What helps, in this order: half the batch_size and twice train.accumulate (as many "
            "images a step), train.precision: bf16, train.gradient_checkpointing: true, a "
            "smaller image_size (memory grows with its square, or faster)"
        ) from error


@contextmanager
def naming_the_disk(out: Path) -> Iterator[None]:
    """Turn what a full or read-only disk raises inside the block into an error that says where.

    Raises
    ------
    DescryError
        With the path at fault; `out` where the system names none.
    """
    try:
        yield
    except OSError as error:
        if not (error.filename or _is_full(error)):
            raise
        raise DescryError(unwritable(error, out)) from error


@contextmanager
def naming_a_full_disk(path: Path, needed: int) -> Iterator[None]:
    """Turn "no space left" inside the block into an error that says where and how much.

    Raises
    ------
    DescryError
        With the path, the bytes needed and the bytes free, in MiB.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save hides the former behind the latter
        if not _is_full(error):
            raise
        free = shutil.disk_usage(path.parent).free
        raise DescryError(
            f"{path}: no space left on the disk: about {needed / MIB:.0f} MiB are needed, "
            f"{free / MIB:.0f} MiB are free. Make room and start again: the last complete "
            "checkpoint is still there"
        ) from error


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False

"""A training step, and arms that take turns with it under a clock."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.detector import Detector

Targets = list[dict[str, Tensor]]


class Trainee:
    """A model with AdamW; `step` is forward, backward and update on one batch of 8-bit images.

    Our detectors take the batch as `descry train` hands it over, torchvision's the list of floats
    that they want.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        targets: Targets,
        precision: str,
        *,
        fused: bool | None = None,
    ) -> None:
        self.model = model.to(images.device).train()
        self.images, self.targets, self.precision = images, targets, precision
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-4, weight_decay=0.05, fused=fused
        )

    def step(self) -> Tensor:
        """Update once; the loss, not yet waited for."""
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.images.device, self.precision):
            losses = self.model(self._batch(), [dict(target) for target in self.targets])
            total = torch.stack(list(losses.values())).sum()
        total.backward()
        self.optimizer.step()
        return total.detach()

    def _batch(self) -> Tensor | list[Tensor]:
        if isinstance(self.model, Detector):
            return self.images
        return [image.float() / 255 for image in self.images]


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 where asked for; fp32 stays as torch has it by default (see `arithmetic`)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def arithmetic() -> dict[str, Any]:
    """The switches of torch that change speed and rounding, the same for all arms."""
    return {
        "float32 matrix products": torch.get_float32_matmul_precision(),
        "TF32 in cuDNN": torch.backends.cudnn.allow_tf32,
        "cuDNN benchmark": torch.backends.cudnn.benchmark,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def seconds(action: Callable[[], object], device: str, repeats: int) -> float:
    """Mean duration of `repeats` calls, from an idle device until it is idle again."""
    if device != "cuda":
        start = time.perf_counter()
        for _ in range(repeats):
            action()
        return (time.perf_counter() - start) / repeats
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(repeats):
        action()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1000 / repeats


def take_turns(
    actions: Mapping[str, Callable[[], object]], device: str, rounds: int, visit: int
) -> dict[str, list[float]]:
    """Seconds a call, per action and round; every other round goes backwards.

    So a device that slows down in the course of the measurement slows all of them down alike.
    """
    times: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(rounds):
        for name in list(actions)[:: 1 if turn % 2 == 0 else -1]:
            times[name].append(seconds(actions[name], device, visit))
    return times


def attempt(action: Callable[[], object], device: str, repeats: int = 1) -> str | None:
    """Call it `repeats` times; the reason if it cannot be done on this device.

    Out of memory, an operation without deterministic form and a failed compilation are all
    RuntimeErrors. They are results here, so their text is kept.
    """
    try:
        for _ in range(repeats):
            action()
        if device == "cuda":
            torch.cuda.synchronize()
    except torch.OutOfMemoryError:
        return "out of memory; try a smaller batch (--batches)"
    except RuntimeError as error:
        return f"{type(error).__name__}: {str(error).strip()[:500]}"
    return None


def free(device: str) -> None:
    """Give back the memory of models that are gone."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles, to five significant digits."""
    if len(values) < 2:
        low = high = values[0]
    else:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    named = {"low quartile": low, "median": statistics.median(values), "high quartile": high}
    return {name: float(f"{value:.5g}") for name, value in named.items()}


def ratios(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    """Spread of the ratio round by round, which the drift between rounds does not touch."""
    return spread([a / b for a, b in zip(numerator, denominator, strict=True)])

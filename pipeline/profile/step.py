"""One unit of work to be measured: an inference or a training step of a detector.

Weights and images are random and seeded. With untrained weights no score passes the threshold,
so that non-maximum suppression has next to nothing to do; a trained model adds that.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pipeline.models.build import build_detector
from pipeline.models.params import DetectorSpec

Step = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Load:
    """What is run, and where.

    Attributes
    ----------
    image_size : int
        Side of the square images in pixels.
    batch_size : int
        Images of a step.
    training : bool
        Forward, loss, backward and an AdamW update; otherwise detection.
    device : {"cpu", "cuda"}
    precision : {"fp32", "bf16"}
        bf16: autocast, weights stay fp32.
    """

    image_size: int
    batch_size: int = 1
    training: bool = False
    device: str = "cpu"
    precision: str = "fp32"


def make_step(spec: DetectorSpec, load: Load) -> Step:
    """Build a detector and return its step, which waits for the device before it returns."""
    torch.manual_seed(0)
    detector = build_detector(spec).to(load.device).train(load.training)
    side = load.image_size
    images = list(torch.rand(load.batch_size, 3, side, side, device=load.device))
    box = torch.tensor([[side / 4, side / 4, side / 2, side / 2]], device=load.device)
    target = {"boxes": box, "labels": torch.zeros(1, dtype=torch.int64, device=load.device)}
    autocast = torch.autocast(load.device, torch.bfloat16, enabled=load.precision == "bf16")
    optimiser = torch.optim.AdamW(detector.parameters(), 1e-4) if load.training else None

    def detect() -> None:
        with torch.inference_mode(), autocast:
            detector(images)
        _wait(load.device)

    def learn() -> None:
        assert optimiser is not None
        with autocast:
            losses = detector(images, [target] * load.batch_size)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        _wait(load.device)

    return learn if load.training else detect


def _wait(device: str) -> None:
    """CUDA returns before it has computed."""
    if device == "cuda":
        torch.cuda.synchronize()

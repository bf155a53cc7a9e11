"""The device's bf16 matrix rate, measured, and the share of it that training a ViT-B reaches.

FLOPs are counted by torch's FlopCounterMode: matrix products, convolutions and attention, forward
and backward, a multiplication and an addition as two. Attention's backward is counted with the
recomputation that its kernels do.
"""

import statistics
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gpu_pieces.arms import ours, synthetic
from gpu_pieces.gains import prepared
from gpu_pieces.steps import Trainee, attempt, autocast, seconds, spread

PRODUCTS = 20  # of a turn


def run(
    device: str,
    side: int,
    batch: int,
    small: bool,
    rounds: int,
    visit: int,
    warm_up: int,
    matrix: int,
    compiler: str,
) -> dict[str, Any]:
    """Rate of plain products, and of ViT-B: its backbone alone and the whole training step.

    Without a `compiler` ViT-B is not compiled.
    """
    rate = matrix_rate(device, matrix, rounds, warm_up)
    torch.manual_seed(0)
    model = ours("vit", "micro" if small else "base", enhanced=False)
    trainee = Trainee(model, *synthetic(side, batch, device), "bf16")
    backbone = model.backbone.backbone  # type: ignore[union-attr]
    alone = cast(Callable[[Tensor], list[Tensor]], backbone)
    flops = {
        "backbone": counted(backbone_pass(trainee, alone)),
        "detector": counted(trainee.step),
    }
    if compiler:
        alone = torch.compile(alone, backend=compiler)
        prepared(model, "torch.compile", compiler)
    actions = {"backbone": backbone_pass(trainee, alone), "detector": trainee.step}
    steps = {}
    for what, action in actions.items():
        found = _measured(action, device, rounds, visit, warm_up)
        steps[what] = found | _shares(found, flops[what], rate["median"])
    shape = {"images per step": batch, "side": side, "matrix side": matrix, "compiler": compiler}
    return shape | {"matrix rate in TFLOP/s": rate, "vit-base bf16": steps}


def matrix_rate(device: str, side: int, rounds: int, warm_up: int) -> dict[str, float]:
    """TFLOP/s of square bf16 products on random data (zeros run faster, and prove nothing)."""
    torch.manual_seed(0)
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)

    def product() -> object:
        return torch.mm(a, b, out=out)

    for _ in range(warm_up):
        product()
    times = [seconds(product, device, PRODUCTS) for _ in range(rounds)]
    return spread([2 * side**3 / t / 1e12 for t in times])


def backbone_pass(
    trainee: Trainee, backbone: Callable[[Tensor], list[Tensor]]
) -> Callable[[], object]:
    """Forward and backward of the backbone without pyramid, heads and update."""

    def both_ways() -> None:
        trainee.optimizer.zero_grad(set_to_none=True)
        with autocast(trainee.images.device, trainee.precision):
            maps = backbone(trainee.images.float() / 255)
        torch.autograd.backward(maps, [torch.ones_like(m) for m in maps])

    return both_ways


def counted(action: Callable[[], object]) -> dict[str, int]:
    """FLOPs of one call, by operation."""
    with FlopCounterMode(display=False) as counter:
        action()
    return {str(name): int(n) for name, n in counter.get_flop_counts()["Global"].items()}


def _measured(
    action: Callable[[], object], device: str, rounds: int, visit: int, warm_up: int
) -> dict[str, Any]:
    reason = attempt(action, device, warm_up)
    if reason:
        return {"left out": reason}
    return {"seconds": [seconds(action, device, visit) for _ in range(rounds)]}


def _shares(found: dict[str, Any], flops: dict[str, int], rate: float) -> dict[str, Any]:
    """TFLOP/s and share of the rate, or only the count where there is no time."""
    total = sum(flops.values())
    figures: dict[str, Any] = {"GFLOP": round(total / 1e9, 3), "GFLOP by operation": flops}
    figures["GFLOP by operation"] = {name: round(n / 1e9, 3) for name, n in flops.items()}
    if "seconds" in found:
        reached = total / statistics.median(found["seconds"]) / 1e12
        figures |= {"TFLOP/s": float(f"{reached:.5g}"), "share": round(reached / rate, 4)}
        figures["seconds"] = spread(found["seconds"])
    return figures

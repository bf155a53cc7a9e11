"""What a detector computes on its way, for one image: hooks that look and change nothing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.explain.attention import KINDS, received, received_by_points
from pipeline.models.backbones.base import Backbone
from pipeline.models.backbones.deformable import DeformableAttention
from pipeline.models.backbones.glmix import GLMix
from pipeline.models.interaction import CAT


@dataclass(frozen=True, slots=True)
class Seen:
    """One result of one module.

    Attributes
    ----------
    kind : str
        "attention": (H, W), the attention that positions receive, mean over heads and queries;
        "attention-from": (H, W), of the chosen point; "concepts-gather": (K, H, W), how much each
        position gives to a concept, summing to 1 over positions; "concepts-return": (K, H, W),
        how much of each concept a position gets back, summing to 1 over K; "slots": (M, H, W),
        how much a position belongs to each slot, summing to 1 over M; "points": (G, n, 3), where
        the keys of each group are taken, as (y, x) from 0 to 1 over the image, and the attention
        that each receives, summing to 1 over n.
    block : int
        Which block of the backbone, from 0.
    values : Tensor
        On the CPU, fp32.
    point : (x, y), optional
        Of "attention-from": the chosen point, from 0 to 1 over the square.
    """

    kind: str
    block: int
    values: Tensor
    point: tuple[float, float] | None = None


def blocks_of(backbone: nn.Module) -> list[nn.Module]:
    """The blocks of any of our backbones, first to last: what may hold an interaction."""
    return [m for m in backbone.modules() if hasattr(m, "stream") and hasattr(m, "branch")]


@contextmanager
def recording(backbone: Backbone, point: tuple[float, float] | None = None) -> Iterator[list[Seen]]:
    """Record while the block runs; one image at a time.

    Parameters
    ----------
    backbone : Backbone
    point : (x, y), optional
        From 0 to 1 over the square that the backbone sees: whose attention to record as well.
    """
    found: list[Seen] = []
    handles = []
    for number, block in enumerate(blocks_of(backbone)):
        for module in block.modules():
            look = _look_of(module, point)
            if look is not None:
                hook = partial(_record, found, number, look, point)
                handles.append(module.register_forward_pre_hook(hook))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


Look = Callable[[Any, tuple[Any, ...]], list[tuple[str, Tensor]]]


def _record(
    found: list[Seen],
    number: int,
    look: Look,
    point: tuple[float, float] | None,
    module: nn.Module,
    args: tuple[Any, ...],
) -> None:
    with torch.no_grad():
        for kind, values in look(module, args):
            chosen = point if kind == "attention-from" else None
            found.append(Seen(kind, number, values.detach().float().cpu(), chosen))


def _look_of(module: nn.Module, point: tuple[float, float] | None) -> Look | None:
    """What there is to see of a module, if anything."""
    if isinstance(module, KINDS):
        return partial(_attention, point)
    looks: dict[type, Look] = {CAT: _concepts, GLMix: _slots, DeformableAttention: _points}
    return next((look for kind, look in looks.items() if isinstance(module, kind)), None)


def _attention(
    point: tuple[float, float] | None, module: Any, args: tuple[Any, ...]
) -> list[tuple[str, Tensor]]:
    """From every position, and from the chosen one."""
    mean = received(module, args[0], None)
    if point is None:
        return [("attention", mean)]
    height, width = mean.shape
    query = (min(int(point[1] * height), height - 1), min(int(point[0] * width), width - 1))
    return [("attention", mean), ("attention-from", received(module, args[0], query))]


def _concepts(module: CAT, args: tuple[Tensor, ...]) -> list[tuple[str, Tensor]]:
    grid = args[0].shape[1:3]
    logits = module.alignment(args[0]).float()[0]  # (N, K)
    return [
        ("concepts-gather", logits.softmax(dim=0).T.unflatten(1, grid)),
        ("concepts-return", logits.softmax(dim=1).T.unflatten(1, grid)),
    ]


def _slots(module: GLMix, args: tuple[Any, ...]) -> list[tuple[str, Tensor]]:
    return [("slots", module.assignments(*args)[0])]


def _points(module: DeformableAttention, args: tuple[Any, ...]) -> list[tuple[str, Tensor]]:
    """Normalised points as parts of the image: -1 is the middle of the first cell."""
    x, plain = (*args, None)[:2]
    places, weights = received_by_points(module, x, plain)
    sides = torch.tensor(x.shape[1:3], device=places.device)
    places = ((places + 1) / 2 * (sides - 1) + 0.5) / sides
    return [("points", torch.cat([places, weights[..., None]], dim=-1))]

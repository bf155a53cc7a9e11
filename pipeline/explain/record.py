"""What a detector computes on its way, for one image: hooks that look and change nothing.

How much attention each position receives, whatever the kind of attention: it is linear in its
values, out_q = sum_k w_qk v_k. The gradient of out_q, summed over channels, to v_k is therefore
w_qk, whatever the windows, shifts, masks and biases are; averaged over all channels it is the mean
over heads. That spares an explicit weight matrix, and it uses the very code that the model runs.

Notation: B batch, C channels, H W grid, h heads, P prefix tokens, N = H*W tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.backbones.acmix_resnet import KERNEL as ACMIX_KERNEL
from pipeline.models.backbones.acmix_resnet import ACmix
from pipeline.models.backbones.attention import keys_first_attention
from pipeline.models.backbones.base import Backbone
from pipeline.models.backbones.dat import KERNEL, NeighbourhoodAttention
from pipeline.models.backbones.deformable import DeformableAttention
from pipeline.models.backbones.glmix import GLMix
from pipeline.models.backbones.glnet import Attention as GridAttention
from pipeline.models.backbones.local_attention import neighbourhood_attention
from pipeline.models.backbones.swin import WindowAttention
from pipeline.models.backbones.vit import Attention
from pipeline.models.backbones.windows import window_attention
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


KINDS = (Attention, GridAttention, WindowAttention, NeighbourhoodAttention, ACmix)


def received(module: nn.Module, x: Tensor, query: tuple[int, int] | None) -> Tensor:
    """Attention that positions receive, as a mean over heads.

    Parameters
    ----------
    module : nn.Module
        One of `KINDS` (ACmix-Swin's attention is Swin's).
    x : Tensor
        Its input (1, H, W, C), or (1, P + N, C) with as many rows as columns.
    query : (row, column) or None
        The position that attends; None: the mean over all positions.

    Returns
    -------
    Tensor
        (H, W), sums to 1 up to what tokens of padding and of the prefix receive.
    """
    if x.ndim == 3:
        side = isqrt(x.shape[1])
        prefix = x.shape[1] - side * side
        place = None if query is None else (prefix + query[0] * side + query[1], 0)
        return received(module, x[:, :, None], place).flatten()[prefix:].unflatten(0, (side, side))
    with torch.enable_grad():
        qkv = module.qkv(x).detach()  # type: ignore[operator]
        q, k, v = qkv.float().chunk(3, dim=-1)
        v = torch.zeros_like(v, requires_grad=True)
        out = _mix(module)(torch.cat([q, k, v], dim=-1))[0]  # (H, W, C), less if strided
        stride = module.stride if isinstance(module, ACmix) else 1
        wanted = (
            out.mean(dim=(0, 1)) if query is None else out[query[0] // stride, query[1] // stride]
        )
        (weights,) = torch.autograd.grad(wanted.sum(), v)
    return weights[0].mean(dim=-1)


def received_by_points(
    module: DeformableAttention, x: Tensor, plain: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Points of deformable attention and how much attention they receive.

    Parameters
    ----------
    module : DeformableAttention
    x, plain : Tensor
        Its inputs (1, H, W, C).

    Returns
    -------
    Tensor, Tensor
        Places (G, n, 2) as (y, x), -1 to 1; the attention each receives, (G, n), as a mean over
        all positions and the group's heads, which sums to 1 over n.
    """
    with torch.no_grad():
        points, q, k, v, bias = module.parts(x, plain)
    with torch.enable_grad():
        v = torch.zeros_like(v, dtype=torch.float32, requires_grad=True)
        out = keys_first_attention(q.float(), k.float(), v, bias.float())  # (1, h, H*W, d)
        (weights,) = torch.autograd.grad(out.mean(dim=2).sum(), v)
    heads = weights[0].mean(dim=-1)  # (h, n)
    return points[0], heads.unflatten(0, (module.groups, -1)).mean(dim=1)


def _mix(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """The attention of a module without its projections, (1, H, W, 3C) to (1, H, W, C)."""
    if isinstance(module, WindowAttention):
        return lambda qkv: _windows(module, qkv)
    if isinstance(module, NeighbourhoodAttention):
        return lambda qkv: _neighbourhood(module, qkv)
    if isinstance(module, ACmix):
        return lambda qkv: _mirrored(module, qkv)
    assert isinstance(module, Attention | GridAttention)
    return lambda qkv: _everywhere(module.heads, qkv)


def _everywhere(heads: int, qkv: Tensor) -> Tensor:
    parts = qkv.flatten(1, 2).unflatten(2, (3, heads, -1))  # (1, N, 3, h, C / h)
    q, k, v = (part.transpose(1, 2) for part in parts.unbind(2))
    mixed = F.scaled_dot_product_attention(q, k, v)  # (1, h, N, C / h)
    return mixed.transpose(1, 2).flatten(2).unflatten(1, qkv.shape[1:3])


def _windows(module: WindowAttention, qkv: Tensor) -> Tensor:
    bias = module.table[module.places].permute(2, 0, 1).float()
    padding = None if module.mask_padding else module.qkv.bias
    return window_attention(qkv, module.heads, bias, shift=module.shift, padding=padding)


def _neighbourhood(module: NeighbourhoodAttention, qkv: Tensor) -> Tensor:
    height, width = qkv.shape[1:3]
    down, across = (max(KERNEL - side, 0) for side in (height, width))
    if down or across:  # padding's projection is the bias, as in the module
        bias = module.qkv.bias.detach().to(qkv.dtype)
        filled = bias.expand(1, height + down, width + across, -1).clone()
        filled[:, :height, :width] = qkv
        qkv = filled
    q, k, v = qkv.unflatten(3, (3, module.heads, -1)).unbind(3)
    mixed = neighbourhood_attention(q, k, v, KERNEL, bias=module.table.float())
    return mixed[:, :height, :width].flatten(3)


def _mirrored(module: ACmix, qkv: Tensor) -> Tensor:
    q, k, v = qkv.unflatten(3, (3, module.heads, -1)).unbind(3)
    k = k - module.encoding(qkv).detach()[:, :, None].float()
    q = q[:, :: module.stride, :: module.stride]
    kernel, stride = ACMIX_KERNEL, module.stride
    return neighbourhood_attention(q, k, v, kernel, edge="reflect", stride=stride).flatten(3)

"""How much attention each position receives, for every kind of attention of our backbones.

Attention is linear in its values: out_q = sum_k w_qk v_k. The gradient of out_q, summed over
channels, to v_k is therefore w_qk, whatever the windows, shifts, masks and biases are; averaged
over all channels it is the mean over heads. That spares an explicit weight matrix, and it uses
the very code that the model runs.

Notation: B batch, C channels, H W grid, h heads.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.backbones.acmix_resnet import KERNEL as ACMIX_KERNEL
from pipeline.models.backbones.acmix_resnet import ACmix
from pipeline.models.backbones.attention import keys_first_attention
from pipeline.models.backbones.dat import KERNEL, NeighbourhoodAttention
from pipeline.models.backbones.deformable import DeformableAttention
from pipeline.models.backbones.glnet import Attention as GridAttention
from pipeline.models.backbones.local_attention import neighbourhood_attention
from pipeline.models.backbones.swin import WindowAttention
from pipeline.models.backbones.vit import Attention
from pipeline.models.backbones.windows import window_attention

KINDS = (Attention, GridAttention, WindowAttention, NeighbourhoodAttention, ACmix)


def received(module: nn.Module, x: Tensor, query: tuple[int, int] | None) -> Tensor:
    """Attention that positions receive, as a mean over heads.

    Parameters
    ----------
    module : nn.Module
        One of `KINDS` (ACmix-Swin's attention is Swin's).
    x : Tensor
        Its input (1, H, W, C), or (1, N, C) with as many rows as columns.
    query : (row, column) or None
        The position that attends; None: the mean over all positions.

    Returns
    -------
    Tensor
        (H, W), sums to 1 up to what tokens of padding receive.
    """
    if x.ndim == 3:
        side = round(x.shape[1] ** 0.5)
        x = x.unflatten(1, (side, side))
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

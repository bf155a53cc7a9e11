"""Attention with an additive bias over small sets of keys (windows, tiles, sampled points).

On a CPU the products are written out: for up to a few hundred keys and a bias that needs a
gradient this takes about two thirds of the time of PyTorch's fused function, which serves all
other devices.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

MASKED = -1e4  # a bias that leaves a key no weight, yet is finite and fits in half precision


def biased_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v.

    Parameters
    ----------
    q : Tensor
        Queries (A, B, Q, d).
    k, v : Tensor
        Keys and values (A, B, K, d).
    bias : Tensor
        Broadcastable to (A, B, Q, K), of the queries' type.

    Returns
    -------
    Tensor
        Mixed values (A, B, Q, d).
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    logits += bias  # in place: it is large, and nothing else needs it
    return torch.softmax(logits, dim=-1).to(v.dtype) @ v


def keys_first_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """`biased_attention` for a large bias that lies in memory with the keys outside.

    To turn such a bias round costs a CPU as much as the rest of the attention, so the logits
    follow its order there.

    Parameters
    ----------
    q : Tensor
        Queries (A, B, Q, d).
    k, v : Tensor
        Keys and values (A, B, K, d).
    bias : Tensor
        As many entries as (A, B, K, Q), in that order, on any split of the axes: its own
        strides need not allow the view of that shape.

    Returns
    -------
    Tensor
        Mixed values (A, B, Q, d).
    """
    shape = (*k.shape[:-1], q.shape[-2])  # (A, B, K, Q)
    if q.device.type != "cpu":
        mask = bias.reshape(shape).transpose(-2, -1).contiguous()
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    logits = k @ (q * q.shape[-1] ** -0.5).transpose(-2, -1)
    logits = (logits.view(bias.shape) + bias).view(shape)
    return torch.softmax(logits, dim=-2).to(v.dtype).transpose(-2, -1) @ v


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Switch autocast off; on device "meta", which counts and never computes, there is none."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)

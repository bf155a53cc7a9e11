"""Attention inside the windows of a grid, shifted or not, on maps of any size.

After "Swin Transformer" (arXiv 2103.14030): the map is padded to whole windows, rolled by the
shift, cut, and attended to window by window with a relative position bias; tokens that the roll
made neighbours do not see each other. Used by Swin and by ACmix in its Swin form.

Projections come before the padding and the roll here, which gives the same result for less work:
a padding token's projection is known beforehand.

Notation: B batch, h heads, d channels of a head, C = h*d, H W grid, w window side, n m windows
along rows and columns.
"""

from functools import lru_cache

import torch
from torch import Tensor

from pipeline.models.attention import MASKED, biased_attention


def relative_places(window: int) -> Tensor:
    """Which entry of a bias table belongs to a query and a key, (w*w, w*w) of 0 to (2w-1)**2 - 1.

    Entry [i, j] is (row_i - row_j + w - 1) * (2w - 1) + column_i - column_j + w - 1, as in the
    reference, so that its tables can be used.
    """
    row, column = torch.arange(window * window) // window, torch.arange(window * window) % window
    down = row[:, None] - row[None, :] + window - 1
    across = column[:, None] - column[None, :] + window - 1
    return down * (2 * window - 1) + across


def window_attention(
    qkv: Tensor,
    heads: int,
    bias: Tensor,
    *,
    shift: int = 0,
    padding: Tensor | None = None,
) -> Tensor:
    """Attention within windows.

    Parameters
    ----------
    qkv : Tensor
        Queries, keys and values (B, H, W, 3*C), each C ordered by head, then channel.
    heads : int
        Number of heads h.
    bias : Tensor
        Relative position bias (h, w*w, w*w); its size says how large windows are.
    shift : int
        How far windows are shifted up and left. An axis that one window covers is not shifted.
    padding : Tensor, optional
        (3*C,) projection of the tokens that pad the map, which attend and are attended to as in
        the reference (there it is the bias of the projection). None masks them.

    Returns
    -------
    Tensor
        (B, H, W, C), before the output projection.
    """
    batch, height, width, _ = qkv.shape
    window = int(bias.shape[-1] ** 0.5)
    n, m = -(-height // window), -(-width // window)
    down, across = shift if n > 1 else 0, shift if m > 1 else 0
    fill = qkv.new_zeros(qkv.shape[-1]) if padding is None else padding.to(qkv.dtype)
    x = _roll_in(_roll_in(qkv, 1, n * window, down, fill), 2, m * window, across, fill)
    parts = x.view(batch, n, window, m, window, 3, heads, -1).unbind(5)
    q, k, v = (p.permute(0, 1, 3, 5, 2, 4, 6) for p in parts)  # (B, n, m, h, w, w, d)
    shape = (batch * n * m, heads, window * window, qkv.shape[-1] // (3 * heads))
    seen = (height, width) if padding is None else (n * window, m * window)
    if down or across or seen != (n * window, m * window):
        mask_of = _mask if torch.compiler.is_compiling() else _mask_once
        rows, columns = (n * window, down, seen[0]), (m * window, across, seen[1])
        mask = mask_of(rows, columns, window, x.device)
        bias = (bias + mask.to(bias.dtype)).flatten(0, 1)[None]  # (1, n*m*h, w*w, w*w)
        shape = (batch, n * m * heads, *shape[2:])
    q, k, v = q.reshape(shape), k.reshape(shape), v.reshape(shape)
    x = biased_attention(q, k, v, bias.to(q.dtype))
    x = x.reshape(batch, n, m, heads, window, window, -1).permute(0, 1, 4, 2, 5, 3, 6)
    x = x.reshape(batch, n * window, m * window, -1)
    return _roll_out(_roll_out(x, 1, height, down), 2, width, across)


def _roll_in(x: Tensor, axis: int, length: int, shift: int, fill: Tensor) -> Tensor:
    """Pad (B, H, W, E) along an axis with `fill` (E,) to `length`, and roll it back by `shift`."""
    size = x.shape[axis]
    if shift == 0 and not torch.compiler.is_compiling() and size == length:
        return x
    shape = list(x.shape)
    shape[axis] = length - size
    # split, since the gradient of its parts is one concatenation
    first, rest = x.split([shift, size - shift], dim=axis)
    return torch.cat([rest, fill.expand(shape), first], dim=axis)


def _roll_out(x: Tensor, axis: int, size: int, shift: int) -> Tensor:
    """Undo `_roll_in`: the `size` tokens of the map, in place."""
    padding = x.shape[axis] - size
    if shift == 0 and not torch.compiler.is_compiling() and padding == 0:
        return x
    rest, _, first = x.split([size - shift, padding, shift], dim=axis)
    return torch.cat([first, rest], dim=axis)


@lru_cache(maxsize=64)
def _mask_once(
    rows: tuple[int, int, int], columns: tuple[int, int, int], window: int, device: torch.device
) -> Tensor:
    """`_mask`, remembered; an ordinary tensor even if the first call is an inference."""
    with torch.inference_mode(False), torch.no_grad():
        return _mask(rows, columns, window, device)


def _mask(
    rows: tuple[int, int, int], columns: tuple[int, int, int], window: int, device: torch.device
) -> Tensor:
    """0 where a key may be seen, `MASKED` where not, (n*m, 1, w*w, w*w).

    `rows` and `columns` hold for their axis the padded length, the shift and the number of tokens
    that may be seen, the rest being padding.
    """
    wrapped, hidden = [], []
    for length, shift, visible in (rows, columns):
        place = torch.arange(length, device=device)
        wrapped.append((place >= length - shift).view(-1, window))
        hidden.append(((place + shift) % length >= visible).view(-1, window))
    region = wrapped[0][:, None, :, None] * 2 + wrapped[1][None, :, None, :] * 1  # (n, m, w, w)
    region = region.reshape(-1, window * window)  # (n*m, w*w)
    key_hidden = hidden[0][:, None, :, None] | hidden[1][None, :, None, :]
    apart = region[:, :, None] != region[:, None, :]
    apart = apart | key_hidden.reshape(-1, 1, window * window)
    return torch.zeros(apart.shape, device=device).masked_fill(apart, MASKED)[:, None]

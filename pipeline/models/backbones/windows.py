"""Attention inside the windows of a grid, shifted or not, on maps of any size.

After "Swin Transformer" (arXiv 2103.14030): the map is padded to whole windows, rolled by the
shift, cut, and attended to window by window with a relative position bias; tokens that the roll
made neighbours do not see each other. Used by Swin and by ACmix in its Swin form.

Projections come before the padding and the roll here, which gives the same result for less work:
a padding token's projection is known beforehand.

Notation: B batch, h heads, d channels of a head, C = h*d, H W grid, w window side, n m windows
along rows and columns.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.models.backbones.attention import MASKED, biased_attention


def relative_places(window: int) -> Tensor:
    """Which entry of a bias table belongs to a query and a key, (w*w, w*w) of 0 to (2w-1)**2 - 1.

    Entry [i, j] is (row_i - row_j + w - 1) * (2w - 1) + column_i - column_j + w - 1, as in the
    reference, so that its tables can be used.
    """
    row, column = torch.arange(window * window) // window, torch.arange(window * window) % window
    down = row[:, None] - row[None, :] + window - 1
    across = column[:, None] - column[None, :] + window - 1
    return down * (2 * window - 1) + across


class Cut(NamedTuple):
    """How a map of height x width is cut into n x m windows after a roll by `down`, `across`."""

    height: int
    width: int
    window: int
    n: int
    m: int
    down: int
    across: int

    @property
    def padded(self) -> bool:
        """Whether windows overhang the map; taken for granted where sizes are symbols."""
        if torch.compiler.is_compiling():
            return True
        return (self.height, self.width) != (self.n * self.window, self.m * self.window)


def window_attention(
    x: Tensor,
    heads: int,
    bias: Tensor,
    *,
    shift: int = 0,
    padding: Tensor | None = None,
    project: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Attention within windows.

    Parameters
    ----------
    x : Tensor
        Queries, keys and values (B, H, W, 3*C), each C ordered by head, then channel; or what
        `project` makes them of.
    heads : int
        Number of heads h.
    bias : Tensor
        Relative position bias (h, w*w, w*w); its size says how large windows are.
    shift : int
        How far windows are shifted up and left. An axis that one window covers is not shifted.
    padding : Tensor, optional
        (3*C,) projection of the tokens that pad the map, which attend and are attended to as in
        the reference (there it is the bias of the projection). None masks them.
    project : callable, optional
        From (B, H, W, E) to (B, H, W, 3*C), position by position. Applied before the padding,
        or after the roll where nothing is padded: the same result for the least work.

    Returns
    -------
    Tensor
        (B, H, W, C), before the output projection.
    """
    _, height, width, _ = x.shape
    window = int(bias.shape[-1] ** 0.5)
    n, m = -(-height // window), -(-width // window)
    cut = Cut(height, width, window, n, m, shift if n > 1 else 0, shift if m > 1 else 0)
    x = _enter(x, cut, padding, project)
    q, k, v = _windows(x, cut, heads)
    masked = cut.padded and padding is None
    if cut.down or cut.across or masked:
        seen = (height, width) if masked else (n * window, m * window)
        bias = bias + _mask(cut, seen, x.device).to(bias.dtype)  # (n*m, h, w*w, w*w)
        q, k, v = (t.flatten(1, 2) for t in (q, k, v))  # windows join the heads
        bias = bias.flatten(0, 1)[None]
    else:
        q, k, v = (t.flatten(0, 1) for t in (q, k, v))  # windows join the batch
    return _leave(biased_attention(q, k, v, bias.to(q.dtype)), cut, heads)


def _enter(
    x: Tensor, cut: Cut, padding: Tensor | None, project: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """Project, pad and roll, the cheapest way: (B, n*w, m*w, 3*C)."""
    project = project or torch.nn.Identity()
    if not cut.padded:
        rolled = cut.down or cut.across
        return project(x.roll((-cut.down, -cut.across), (1, 2)) if rolled else x)
    x = project(x)
    fill = x.new_zeros(x.shape[-1]) if padding is None else padding.to(x.dtype)
    for axis, count, shift in ((1, cut.n, cut.down), (2, cut.m, cut.across)):
        x = _pad_and_roll(x, axis, count * cut.window, shift, fill)
    return x


def _pad_and_roll(x: Tensor, axis: int, length: int, shift: int, fill: Tensor) -> Tensor:
    """Pad an axis of (B, H, W, E) with `fill` (E,) to `length` and roll it back by `shift`."""
    size = x.shape[axis]
    if torch.compiler.is_compiling():  # a graph for all sizes has no pieces of size 0 or 1
        place = (torch.arange(length, device=x.device) + shift) % length
        exists = (place < size).view(-1, 1) if axis == 2 else (place < size).view(-1, 1, 1)
        return torch.where(exists, x.index_select(axis, place.clamp(max=size - 1)), fill)
    shape = list(x.shape)
    shape[axis] = length - size
    # split, since the gradient of its parts is one concatenation
    first, rest = x.split([shift, size - shift], dim=axis)
    return torch.cat([rest, fill.expand(shape), first], dim=axis)


def _unroll_and_crop(x: Tensor, axis: int, size: int, shift: int) -> Tensor:
    """Undo `_pad_and_roll`."""
    length = x.shape[axis]
    if torch.compiler.is_compiling():
        place = torch.arange(size, device=x.device)
        return x.index_select(axis, (place - shift) % length)
    rest, _, first = x.split([size - shift, length - size, shift], dim=axis)
    return torch.cat([first, rest], dim=axis)


def _windows(x: Tensor, cut: Cut, heads: int) -> list[Tensor]:
    """Cut (B, n*w, m*w, 3*C) into queries, keys and values, each (B, n*m, h, w*w, d)."""
    w = cut.window
    x = x.view(x.shape[0], cut.n, w, cut.m, w, 3, heads, -1)
    parts = (part.permute(0, 1, 3, 5, 2, 4, 6) for part in x.unbind(5))  # (B, n, m, h, w, w, d)
    return [p.reshape(p.shape[0], cut.n * cut.m, heads, w * w, -1) for p in parts]


def _leave(x: Tensor, cut: Cut, heads: int) -> Tensor:
    """Put windows (B*n*m*h*w*w*d) together, roll them back and cut the padding off."""
    w = cut.window
    x = x.reshape(-1, cut.n, cut.m, heads, w, w, x.shape[-1]).permute(0, 1, 4, 2, 5, 3, 6)
    x = x.reshape(x.shape[0], cut.n * w, cut.m * w, -1)
    if not cut.padded:
        rolled = cut.down or cut.across
        return x.roll((cut.down, cut.across), (1, 2)) if rolled else x
    for axis, size, shift in ((1, cut.height, cut.down), (2, cut.width, cut.across)):
        x = _unroll_and_crop(x, axis, size, shift)
    return x


def _mask(cut: Cut, seen: tuple[int, int], device: torch.device) -> Tensor:
    """`_make_mask`, remembered while sizes are plain numbers."""
    rows, columns = (cut.n, cut.down, seen[0]), (cut.m, cut.across, seen[1])
    make = _make_mask if torch.compiler.is_compiling() else _make_mask_once
    return make(rows, columns, cut.window, device)


@lru_cache(maxsize=64)
def _make_mask_once(
    rows: tuple[int, int, int], columns: tuple[int, int, int], window: int, device: torch.device
) -> Tensor:
    """A mask for later calls too; an ordinary tensor even if the first call is an inference."""
    with torch.inference_mode(False), torch.no_grad():
        return _make_mask(rows, columns, window, device)


def _make_mask(
    rows: tuple[int, int, int], columns: tuple[int, int, int], window: int, device: torch.device
) -> Tensor:
    """0 where a key may be seen, `MASKED` where not, (n*m, 1, w*w, w*w).

    `rows` and `columns` hold for their axis the number of windows, the shift and the number of
    tokens that may be seen, the rest being padding.
    """
    wrapped, hidden = [], []
    for count, shift, visible in (rows, columns):
        length = count * window
        place = torch.arange(length, device=device)
        wrapped.append((place >= length - shift).view(count, window))
        hidden.append(((place + shift) % length >= visible).view(count, window))
    region = wrapped[0][:, None, :, None] * 2 + wrapped[1][None, :, None, :] * 1  # (n, m, w, w)
    region = region.reshape(-1, window * window)  # (n*m, w*w)
    key_hidden = hidden[0][:, None, :, None] | hidden[1][None, :, None, :]
    apart = region[:, :, None] != region[:, None, :]
    apart = apart | key_hidden.reshape(-1, 1, window * window)
    return torch.zeros(apart.shape, device=device).masked_fill(apart, MASKED)[:, None]

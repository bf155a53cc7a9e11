"""Local attention as halo tiles: each query sees a kernel x kernel neighbourhood of the keys.

The queries are cut into square tiles; a tile's keys are the tile and a rim ("halo") around it. One
attention call serves all tiles, and a mask leaves each query its own neighbourhood. Exact, without
unfolding the keys kernel**2 times, deterministic in both directions.

Two families use it, and differ at the border of the map:

* ``edge="clamp"`` (DAT++; "Neighborhood Attention Transformer", arXiv 2204.07143): the window is
  moved inside the map, so that every query sees kernel**2 different keys;
* ``edge="reflect"`` (ACmix in ResNets, arXiv 2111.14556): keys beyond the border are mirrored,
  the border itself not repeated. Maps smaller than the rim are mirrored several times.

Notation: B batch, h heads, d channels of a head, H W grid of keys, H' W' grid of queries, T and S
sides of a tile in queries and in keys, n and m tiles along rows and columns, P = 2*kernel places
of a key relative to a query, the last of which means "not seen".
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.backbones.attention import MASKED, biased_attention, without_autocast

TILE = 8  # keys that a tile's queries span per axis; 4 and 7 cost about the same, 14 more
EDGES = ("clamp", "reflect")


class Axis(NamedTuple):
    """One axis, cut into tiles.

    Attributes
    ----------
    tiles : int
        Their number n.
    queries : Tensor
        (n*T,) index of each query, the last repeated where the last tile overhangs.
    keys : Tensor
        (n*S,) index of each key.
    kind : Tensor
        (n,) which kind a tile is of, or (1,) where all tiles are alike.
    place : Tensor
        (kinds, T, S, P), one-hot at key - query + kernel - 1, or at P - 1 where the query does
        not see the key.
    """

    tiles: int
    queries: Tensor
    keys: Tensor
    kind: Tensor
    place: Tensor


def neighbourhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel: int,
    *,
    bias: Tensor | None = None,
    edge: str = "clamp",
    stride: int = 1,
) -> Tensor:
    """Attention of each query to the kernel x kernel keys around it, logits q k / sqrt(d) + bias.

    Parameters
    ----------
    q : Tensor
        Queries (B, H', W', h, d), H' = ceil(H / stride); query i stands at key position
        i * stride. Any memory layout; heads and channels adjacent are the fastest.
    k, v : Tensor
        Keys and values (B, H, W, h, d).
    kernel : int
        Odd side of the neighbourhood.
    bias : Tensor, optional
        Relative position bias (h, 2*kernel - 1, 2*kernel - 1), entry [:, y, x] for a key that
        lies y - kernel + 1 rows below and x - kernel + 1 columns right of the query.
    edge : {"clamp", "reflect"}
        What happens at the border. "clamp" needs maps of at least `kernel` in both sides.
    stride : int
        Step of the queries over the keys.

    Returns
    -------
    Tensor
        (B, H', W', h, d).
    """
    _check(q, k, kernel, edge, stride)
    rows = _axis(q.shape[1], k.shape[1], kernel, stride, edge, k.device)
    columns = _axis(q.shape[2], k.shape[2], kernel, stride, edge, k.device)
    logit_bias = _logit_bias(rows, columns, bias, q)  # (n*m or 1, h or 1, T*T, S*S)
    q_tiles = _tiles(q, rows.queries, columns.queries, rows.tiles, columns.tiles)
    k_tiles = _tiles(k, rows.keys, columns.keys, rows.tiles, columns.tiles)
    v_tiles = _tiles(v, rows.keys, columns.keys, rows.tiles, columns.tiles)
    # tables alike for all tiles: these join the batch; else, alike for all images, the heads
    first = 0 if edge == "reflect" else 1
    if first == 1:
        logit_bias = logit_bias.expand(-1, q.shape[3], -1, -1).flatten(0, 1)[None]
    q_tiles, k_tiles, v_tiles = (t.flatten(first, first + 1) for t in (q_tiles, k_tiles, v_tiles))
    mixed = biased_attention(q_tiles, k_tiles, v_tiles, logit_bias)
    return _untile(mixed, rows, columns, q)


def _check(q: Tensor, k: Tensor, kernel: int, edge: str, stride: int) -> None:
    """Refuse what would give wrong neighbourhoods."""
    if edge not in EDGES:
        raise ValueError(f"edge must be one of {EDGES}, not {edge!r}")
    if kernel % 2 == 0:
        raise ValueError(f"kernel must be odd, not {kernel}")
    if torch.compiler.is_compiling():
        return  # comparisons of sides would pin a dynamic size
    if edge == "clamp" and min(k.shape[1:3]) < kernel:
        raise ValueError(f"a map of {k.shape[1]}x{k.shape[2]} is smaller than the kernel {kernel}")
    expected = tuple(-(-side // stride) for side in k.shape[1:3])
    if tuple(q.shape[1:3]) != expected:
        raise ValueError(f"queries {tuple(q.shape[1:3])} must be {expected} for stride {stride}")


def _axis(
    queries: int, keys: int, kernel: int, stride: int, edge: str, device: torch.device
) -> Axis:
    """`_cut`, remembered while sizes are plain numbers."""
    if torch.compiler.is_compiling():
        return _cut(queries, keys, kernel, stride, edge, device)
    return _cut_once(queries, keys, kernel, stride, edge, device)


@lru_cache(maxsize=64)
def _cut_once(
    queries: int, keys: int, kernel: int, stride: int, edge: str, device: torch.device
) -> Axis:
    """Tables for later calls; made as ordinary tensors even if the first call is an inference.

    On the CPU first: a device, or "meta", which computes nothing, is not asked what is unique.
    """
    with torch.inference_mode(False), torch.no_grad():
        tiles, *tables = _cut(queries, keys, kernel, stride, edge, torch.device("cpu"))
        return Axis(tiles, *(table.to(device) for table in tables))


def _cut(
    queries: int, keys: int, kernel: int, stride: int, edge: str, device: torch.device
) -> Axis:
    """Cut one axis of `queries` and `keys` positions into tiles."""
    tiles, side, halo = _sides(queries, kernel, stride)
    if edge == "clamp" and not torch.compiler.is_compiling():
        halo = min(halo, keys)
    first = torch.arange(tiles, device=device) * side  # (n,) first query of each tile
    query = first[:, None] + torch.arange(side, device=device)  # (n, T)
    start = first * stride - kernel // 2  # (n,) first key of each tile
    window = query * stride - kernel // 2  # (n, T) first key of each query
    if edge == "clamp":
        start = start.clamp(max=keys - halo).clamp(min=0)
        window = window.clamp(max=keys - kernel).clamp(min=0)
    key = start[:, None] + torch.arange(halo, device=device)  # (n, S)
    seen = key[:, None] - window[:, :, None]  # (n, T, S), 0 to kernel - 1 where seen
    beside = (seen < 0) | (seen >= kernel)
    place = key[:, None] - query[:, :, None] * stride + kernel - 1
    place = place.masked_fill(beside, 2 * kernel - 1)
    kind = torch.arange(tiles, device=device)
    if edge == "reflect":
        place, kind, key = place[:1], kind[:1], _reflect(key, keys)
    elif not torch.compiler.is_compiling():  # tiles differ near the border only
        place, kind = torch.unique(place, dim=0, return_inverse=True)
    one_hot = place[..., None] == torch.arange(2 * kernel, device=device)
    inside = key.flatten().clamp(max=keys - 1)  # a halo wider than the map has unseen keys
    queried = query.flatten().clamp(max=queries - 1)
    return Axis(tiles, queried, inside, kind, one_hot.float())


def _sides(queries: int, kernel: int, stride: int) -> tuple[int, int, int]:
    """Number of tiles, queries in a tile, keys in a tile."""
    side = max(TILE // stride, 1)
    tiles = -(-queries // side)
    if not torch.compiler.is_compiling():  # there it stays a plain number for every map size
        side = -(-queries // tiles)  # even tiles: 20 queries are 3 x 7, not 3 x 8
    return tiles, side, (side - 1) * stride + kernel


def _reflect(index: Tensor, length: int) -> Tensor:
    """Mirror positions into 0 to length - 1, as often as it takes."""
    last = length - 1
    return last - (index.remainder(max(2 * last, 1)) - last).abs()


def _logit_bias(rows: Axis, columns: Axis, bias: Tensor | None, q: Tensor) -> Tensor:
    """Relative bias and mask of all tiles, (n*m or 1, h or 1, T*T, S*S).

    Products with one-hot matrices in place of a lookup: their backward is a product too, fast and
    in a fixed order, where a lookup's would add millions of values one by one.
    """
    side = rows.place.shape[-1]
    with without_autocast(q.device):
        table = q.new_zeros(1, side - 1, side - 1) if bias is None else bias
        table = table.to(torch.promote_types(table.dtype, torch.float32))
        table = F.pad(table, (0, 1, 0, 1), value=MASKED)  # (h, P, P)
        down = rows.place.to(table.dtype).flatten(0, 2)  # (kinds*T*S, P)
        across = columns.place.to(table.dtype).flatten(0, 2)  # (kinds*T*S, P)
        full = (down @ table @ across.T).to(q.dtype)  # (h, kinds*T*S, kinds*T*S)
    full = full.unflatten(2, columns.place.shape[:3]).unflatten(1, rows.place.shape[:3])
    full = full.permute(1, 4, 0, 2, 5, 3, 6)  # (kinds, kinds, h, T, T, S, S)
    full = full.flatten(5, 6).flatten(3, 4)
    return full.index_select(0, rows.kind).index_select(1, columns.kind).flatten(0, 1)


def _tiles(x: Tensor, down: Tensor, across: Tensor, n: int, m: int) -> Tensor:
    """Cut (B, H, W, h, d) by row and column indices into (B, n*m, h, T*T, d)."""
    b, _, _, heads, dim = x.shape
    x = _take(_take(x, 1, down), 2, across)
    x = x.unflatten(2, (m, across.shape[0] // m)).unflatten(1, (n, down.shape[0] // n))
    x = x.permute(0, 1, 3, 5, 2, 4, 6)  # (B, n, m, h, T, T, d)
    return x.reshape(b, n * m, heads, -1, dim)


def _take(x: Tensor, axis: int, index: Tensor) -> Tensor:
    """`index_select`, left out where the index can only be the whole axis."""
    if not torch.compiler.is_compiling() and index.shape[0] == x.shape[axis]:
        return x
    return x.index_select(axis, index)


def _untile(x: Tensor, rows: Axis, columns: Axis, like: Tensor) -> Tensor:
    """Put the tiles together to the shape of `like` (B, H', W', h, d)."""
    n, m = rows.tiles, columns.tiles
    tall, wide = rows.queries.shape[0] // n, columns.queries.shape[0] // m
    x = x.reshape(like.shape[0], n, m, like.shape[3], tall, wide, like.shape[4])
    x = x.permute(0, 1, 4, 2, 5, 3, 6).flatten(3, 4).flatten(1, 2)  # (B, n*T, m*T, h, d)
    # a slice [:H] would tie an exported graph to sides that are, or are not, multiples of T
    x = _take(x, 1, torch.arange(like.shape[1], device=x.device))
    return _take(x, 2, torch.arange(like.shape[2], device=x.device))

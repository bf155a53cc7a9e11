"""Bilinear sampling whose backward adds in a fixed order, on a GPU too.

`F.grid_sample` has no deterministic backward on CUDA. Here are the two uses that deformable
attention makes of it, with the same values and gradients (``align_corners=True``): a few points
on a large map, by a gather of rows; and a small table at all pairs of a row and a column
coordinate, by two products with interpolation matrices, which costs a GEMM and no scatter.
Coordinates are fp32 or better throughout, also under autocast.

Notation: B batch, C channels, H W map, G groups with n points each; tables of A x E entries for
h heads, at Y row and X column coordinates.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.models.backbones.attention import without_autocast

OUTSIDE = ("zeros", "border")


def sample_points(features: Tensor, points: Tensor, *, outside: str = "zeros") -> Tensor:
    """Bilinear samples of a map at points of which each group of channels has its own.

    Parameters
    ----------
    features : Tensor
        Maps (B, H, W, C), channels last.
    points : Tensor
        (B, G, n, 2) places (y, x) for each of the G equal groups of channels; -1 is the centre of
        the first row or column, 1 that of the last.
    outside : {"zeros", "border"}
        What lies outside the map: zeros, or the nearest value of its border.

    Returns
    -------
    Tensor
        Samples (B, n, C), of the features' type.
    """
    if outside not in OUTSIDE:
        raise ValueError(f"outside must be one of {OUTSIDE}, not {outside!r}")
    b, height, width, c = features.shape
    groups = points.shape[1]
    table = features.reshape(b * height * width * groups, c // groups)
    image = torch.arange(b, device=features.device)[:, None, None] * height
    group = torch.arange(groups, device=features.device)[:, None]
    hold = outside == "border"
    samples = []
    for row, down in _corners(points[..., 0], height, hold):
        for column, across in _corners(points[..., 1], width, hold):
            index = ((image + row) * width + column) * groups + group  # (B, G, n)
            samples.append(table[index] * (down * across).to(features.dtype)[..., None])
    total = (samples[0] + samples[1]) + (samples[2] + samples[3])  # (B, G, n, C / G)
    return total.transpose(1, 2).flatten(2)


def _corners(place: Tensor, length: int, hold: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """The two neighbours of each normalised place on an axis, and their weights."""
    place = to_index(place, length)
    if hold:  # no gradient from the border outwards, the border itself included
        inside = (place > 0) & (place < length - 1)
        place = torch.where(inside, place, place.detach().clamp(0, length - 1))
    low = place.detach().floor()
    for index, weight in ((low, low + 1 - place), (low + 1, place - low)):
        exists = (index >= 0) & (index <= length - 1)
        yield index.clamp(0, length - 1).long(), weight * exists


def to_index(place: Tensor, length: int) -> Tensor:
    """Normalised places, -1 to 1, as positions 0 to length - 1, in fp32 or better."""
    place = place.to(torch.promote_types(place.dtype, torch.float32))
    return (place + 1) * ((length - 1) / 2)


def sample_tables(tables: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear samples of tables at all pairs of a row and a column coordinate.

    Parameters
    ----------
    tables : Tensor
        (G, h, A, E), A and E at least 2.
    rows, columns : Tensor
        Positions (B, G, n, Y) from 0 to A - 1 and (B, G, n, X) from 0 to E - 1.

    Returns
    -------
    Tensor
        (B, G, h, n, Y, X), a view, in fp32 or better.
    """
    b, groups, n, y = rows.shape
    heads, height, width = tables.shape[1:]
    # Sides of a multiple of 8 keep products aligned: half as fast again on a CPU.
    bottom, right = -height % 8, -width % 8
    with without_autocast(tables.device):
        tables = tables.to(torch.promote_types(tables.dtype, torch.float32))
        flat = F.pad(tables, (0, right, 0, bottom)).transpose(1, 2).flatten(2)  # (G, A, h*E)
        down = interpolation_weights(rows, height, bottom).to(flat.dtype).flatten(2, 3)
        across = interpolation_weights(columns, width, right).to(flat.dtype).flatten(0, 2)
        stretched = (down @ flat).view(b * groups * n, y * heads, width + right)
        full = stretched @ across.transpose(1, 2)  # (B*G*n, Y*h, X)
    return full.view(b, groups, n, y, heads, -1).permute(0, 1, 4, 2, 3, 5)


def interpolation_weights(positions: Tensor, length: int, unused: int = 0) -> Tensor:
    """Linear interpolation at positions 0 to length - 1 as rows of a matrix, (..., length).

    `unused` columns of zeros can follow.
    """
    low = positions.detach().floor().clamp(0, length - 2)
    far = positions - low
    weights = positions.new_zeros(*positions.shape, length + unused)
    pair = torch.stack([low, low + 1], dim=-1).long()
    return weights.scatter(-1, pair, torch.stack([1 - far, far], dim=-1))

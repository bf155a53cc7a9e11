"""Bilinear sampling whose backward adds in a fixed order, on a GPU too.

`F.grid_sample` has no deterministic backward on CUDA. Here are its two uses in deformable
attention, with the same values and gradients (``align_corners=True``): a few points on a large
map, by a gather of rows; and a small table at all pairs of a row and a column coordinate, by two
products with interpolation matrices. Coordinates are made and kept in fp32 or better.

Notation: B batch, C channels, H W map, n points; G tables of h channels and A x E entries, P
positions with Y row and X column coordinates each.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

OUTSIDE = ("zeros", "border")


def sample_points(features: Tensor, points: Tensor, *, outside: str = "zeros") -> Tensor:
    """Bilinear samples of maps, one list of points per map.

    Parameters
    ----------
    features : Tensor
        Maps (B, H, W, C), channels last.
    points : Tensor
        (B, n, 2) places (y, x); -1 is the centre of the first row or column, 1 that of the last.
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
    rows = features.reshape(b * height * width, c)
    places = [to_index(points[..., axis], side) for axis, side in enumerate((height, width))]
    if outside == "border":
        places = [_hold(p, side) for p, side in zip(places, (height, width), strict=True)]
    y, x = places
    first = torch.arange(b, device=features.device)[:, None] * height  # (B, 1) row of each map
    total = features.new_zeros(())
    for row, row_weight in _corners(y, height):
        for column, column_weight in _corners(x, width):
            index = (first + row) * width + column  # (B, n)
            weight = (row_weight * column_weight).to(features.dtype)
            total = total + F.embedding(index, rows) * weight[..., None]
    return total

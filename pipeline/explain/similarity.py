"""How alike two detectors see: linear CKA between their blocks, principal components as colours.

CKA after "Similarity of Neural Network Representations Revisited" (arXiv 1905.00414), eq. in
section 3 for the linear kernel, over all positions of all images:

    CKA(X, Y) = |Yc^T Xc|^2 / (|Xc^T Xc| |Yc^T Yc|)

with Xc, Yc the centred features and Frobenius norms. It is 1 for features that are equal up to
rotation, shift and one scale. Blocks work on grids of different sizes: features are averaged over
the cells of the coarsest one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.explain.record import blocks_of
from pipeline.models.backbones.base import Backbone


@contextmanager
def outputs(backbone: Backbone) -> Iterator[list[Tensor]]:
    """Collect the blocks' outputs (H, W, C) of one image, in order, on the CPU."""
    found: list[Tensor] = []

    def keep(block: nn.Module, _: object, output: Tensor) -> None:
        found.append(as_grid(output.detach().float().cpu(), block))

    handles = [block.register_forward_hook(keep) for block in blocks_of(backbone)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def as_grid(output: Tensor, block: nn.Module) -> Tensor:
    """A block's output as (H, W, C); of tokens (1, N, C) there are as many rows as columns."""
    if output.ndim == 3:
        side = round(output.shape[1] ** 0.5)
        return output[0].unflatten(0, (side, side))
    # blocks between batch norms have channels first, all others last
    return output[0].permute(1, 2, 0) if hasattr(block, "norm3") else output[0]


def pooled(grid: Tensor, rows: int, columns: int) -> np.ndarray:
    """Features (H, W, C) averaged over rows x columns cells, (rows * columns, C) float64."""
    cells = F.adaptive_avg_pool2d(grid.permute(2, 0, 1).double(), (rows, columns))
    return cells.flatten(1).T.numpy()


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Similarity of features (n, C) and (n, D) of the same n positions, 0 to 1.

    0 where one of them does not vary.
    """
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    norm = float(np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    return float(np.linalg.norm(y.T @ x) ** 2) / norm if norm > 0 else 0.0


def cka_matrix(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> np.ndarray:
    """CKA of each block of `first` (rows) with each of `second` (columns)."""
    return np.array([[linear_cka(x, y) for y in second] for x in first])


def principal_colours(grids: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The first three principal components of features as red, green and blue.

    The components are found over all grids together and scaled to their range there. A
    component's sign, which is arbitrary, is such that its largest weight is positive.

    Parameters
    ----------
    grids : sequence of arrays (H, W, C)
        One block's features, of one or more images.

    Returns
    -------
    list of arrays (H, W, 3), uint8
    """
    channels = grids[0].shape[-1]
    tokens = np.concatenate([grid.reshape(-1, channels) for grid in grids]).astype(np.float64)
    mean = tokens.mean(axis=0)
    _, vectors = np.linalg.eigh((tokens - mean).T @ (tokens - mean))
    axes = vectors[:, ::-1][:, :3]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    low, high = ((tokens - mean) @ axes).min(axis=0), ((tokens - mean) @ axes).max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    return [np.rint(((g - mean) @ axes - low) / span * 255).astype(np.uint8) for g in grids]


@torch.no_grad()
def features(model: nn.Module, backbone: Backbone, images: Sequence[Tensor]) -> list[list[Tensor]]:
    """Blocks' outputs (H, W, C) of each image (3, S, S), by image, then block."""
    found = []
    for image in images:
        with outputs(backbone) as grids:
            model([image])
        found.append(grids)
    return found

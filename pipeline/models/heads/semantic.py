"""Classes of pixels, and the connected parts of a class as its objects.

The semantic branch of "Panoptic Feature Pyramid Networks" (arXiv 1901.02446): all levels on one
grid, added, and a convolution to the classes and the background. Trained with cross-entropy
and Dice loss (V-Net, arXiv 1606.04797). What is found are the 8-connected parts of each class, with
the mean of their pixels' probabilities as score, so that everything that takes detections takes
these.

Notation: B batch, K classes, h w the finest level's grid; channel 0 is the background.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.data.masks import CELL
from pipeline.models.heads.base import Head, Size, Targets, block, share_of_all
from pipeline.models.heads.mask import doubled, summed
from pipeline.models.params import PAPER, HeadRules, Selection
from pipeline.models.pyramid import LEVEL_STRIDES

SPECK = 16  # px of the square that a model sees; smaller parts are left out


class SemanticHead(Head):
    """A class for each cell.

    Parameters
    ----------
    channels : int
        Of the levels; a multiple of 8.
    num_classes : int
        K, without the background.
    rules : HeadRules
        Not used: no box is assigned.
    """

    def __init__(self, channels: int, num_classes: int, rules: HeadRules = PAPER) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(block(channels) for _ in LEVEL_STRIDES)
        self.tower = block(channels)
        self.score = nn.Conv2d(channels, num_classes + 1, 1)

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        """Logits (B, K + 1, h, w)."""
        return {"classes": self.score(self.tower(summed(self.lateral, x)))}

    def loss(
        self, outputs: dict[str, Tensor], grids: Sequence[Size], size: Size, targets: Targets
    ) -> dict[str, Tensor]:
        """Mean cross-entropy of the cells, and one minus the mean Dice of the classes.

        `targets` need "masks" (n, 2 h, 2 w), uint8: the share of each cell in 255ths.
        """
        logits = doubled(outputs["classes"].float())  # (B, K + 1, 2 h, 2 w)
        with torch.no_grad():
            truth = torch.stack([class_shares(target, logits.shape[1:]) for target in targets])
        shares = F.log_softmax(logits, dim=1)
        cells = share_of_all(truth.new_full((), float(truth[:, 0].numel())))
        entropy = -(shares * truth).sum() / cells
        likely, wanted = shares.exp()[:, 1:], truth[:, 1:]
        overlap = 2 * (likely * wanted).sum(dim=(0, 2, 3))
        both = (likely**2).sum(dim=(0, 2, 3)) + (wanted**2).sum(dim=(0, 2, 3))
        return {"classification": entropy, "dice": 1 - ((overlap + 1) / (both + 1)).mean()}

    def coverage(self, boxes: Tensor, grids: Sequence[Size], size: Size) -> tuple[Tensor, Tensor]:
        """Whether a box is a cell or more, and how many cells; see `Head.coverage`."""
        cells = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) / CELL**2
        return cells >= 1, cells.floor()

    def detections(
        self,
        outputs: dict[str, Tensor],
        grids: Sequence[Size],
        size: Size,
        sizes: Sequence[Size],
        chosen: Selection,
    ) -> list[dict[str, Tensor]]:
        """Parts of the classes with "masks" (n, 2 h, 2 w), 0 to 1; see `Head.detections`."""
        logits = doubled(outputs["classes"].float())
        fine = F.interpolate(logits, size, mode="bilinear").softmax(dim=1)
        device, (height, width) = logits.device, logits.shape[-2:]
        found = []
        for likely, image in zip(fine.cpu().numpy(), sizes, strict=True):
            parts = connected(likely[:, : image[0], : image[1]], (height, width), chosen)
            found.append({name: value.to(device) for name, value in parts.items()})
        return found


def class_shares(target: dict[str, Tensor], shape: Sequence[int]) -> Tensor:
    """How much of each cell is of each class, the background first, (K + 1, 2 h, 2 w).

    Where classes lie over each other they share the cell.
    """
    classes, height, width = shape
    masks, labels = target["masks"].float() / 255, target["labels"]
    shares = torch.zeros((classes, height, width), device=masks.device)
    for label in range(classes - 1 if len(masks) else 0):  # a look at labels would wait for a GPU
        shares[label + 1] = (masks * (labels == label)[:, None, None]).amax(dim=0)
    shares[0] = (1 - shares[1:].sum(dim=0)).clamp(min=0)
    return shares / shares.sum(dim=0)


def connected(likely: np.ndarray, grid: Size, chosen: Selection) -> dict[str, Tensor]:
    """The 8-connected parts of all classes, strongest first.

    Parameters
    ----------
    likely : array (K + 1, H, W)
        Probabilities.
    grid : (h, w)
        Cells that the masks are given in; they cover the square of which (H, W) is a part.
    chosen : Selection
    """
    best = likely.argmax(axis=0)  # (H, W)
    parts: list[tuple[float, int, list[int], np.ndarray, int]] = []
    for label in range(1, len(likely)):
        mine = (best == label).astype(np.uint8)
        _, numbers, stats, _ = cv2.connectedComponentsWithStats(mine)  # 0 is what is not of it
        score = np.bincount(numbers.ravel(), likely[label].ravel()) / stats[:, 4]
        wanted = (stats[:, 4] >= SPECK) & (score > chosen.score_threshold)
        for number in (np.flatnonzero(wanted[1:]) + 1).tolist():
            x, y, width, height, _ = stats[number].tolist()
            box = [x, y, x + width, y + height]
            parts.append((float(score[number]), label - 1, box, numbers, number))
    parts.sort(key=lambda part: (-part[0], *part[1:3]))
    parts = parts[: chosen.max_detections]
    cells = np.zeros((len(parts), *grid), dtype=np.float32)
    for place, (_, label, _, numbers, number) in enumerate(parts):
        cells[place] = _in_cells(likely, label + 1, (numbers != number) & (numbers > 0), grid)
    return {
        "boxes": torch.tensor([part[2] for part in parts], dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor([part[0] for part in parts], dtype=torch.float32),
        "labels": torch.tensor([part[1] for part in parts], dtype=torch.int64),
        "masks": torch.from_numpy(cells),
    }


def _in_cells(likely: np.ndarray, label: int, others: np.ndarray, grid: Size) -> np.ndarray:
    """Soft mask of a part in cells: one half where another class is as likely.

    `others` (H, W) are the other parts of its class.
    """
    own, rival = likely[label], np.delete(likely, label, axis=0).max(axis=0)
    square = np.zeros((grid[0] * CELL, grid[1] * CELL), dtype=np.float32)
    square[: own.shape[0], : own.shape[1]] = np.where(others, 0.0, own / (own + rival))
    return cv2.resize(square, grid[::-1], interpolation=cv2.INTER_AREA)

"""What a head has for the boxes of a dataset: fitting anchors or places, and positives of each box.

A box that nothing fits teaches little: smaller anchors, a stride-4 map or more pixels help.
"""

from math import ceil

import numpy as np
import torch

from pipeline.data.index import CocoIndex
from pipeline.models.backbones.base import MIN_SIDE
from pipeline.models.heads.base import Head, Size
from pipeline.models.pyramid import LEVEL_STRIDES

MOST = 1000  # images looked at, evenly chosen


def level_grids(side: int) -> list[Size]:
    """Rows and columns of the levels P3 to P7 for a square of `side` px, a multiple of 32."""
    return [(ceil(side / stride),) * 2 for stride in LEVEL_STRIDES]  # an odd last cell is kept


@torch.no_grad()
def coverage(head: Head, index: CocoIndex, side: int) -> dict[str, dict[str, float]]:
    """Of each class the boxes, the share that nothing fits, and positives per box at most.

    Parameters
    ----------
    side : int
        Of the square in pixels that images are fitted into.

    Returns
    -------
    dict
        Class name -> {"boxes", "unfitted", "positives_per_box"}; classes without boxes are left
        out.
    """
    side = ceil(side / MIN_SIDE) * MIN_SIDE
    grids = level_grids(side)
    labels, fits, positives = [], [], []
    for i in range(0, len(index), ceil(len(index) / MOST)):
        boxes, classes = index.fitted(i, side)
        if len(boxes):
            found = head.coverage(torch.from_numpy(boxes).float(), grids, (side, side))
            fits.append(found[0].numpy())
            positives.append(found[1].numpy())
            labels.append(classes)
    if not labels:
        return {}
    label, fit, positive = (np.concatenate(parts) for parts in (labels, fits, positives))
    return {
        index.categories[i][1]: {
            "boxes": int((label == i).sum()),
            "unfitted": round(1 - float(fit[label == i].mean()), 4),
            "positives_per_box": round(float(positive[label == i].mean()), 2),
        }
        for i in np.unique(label)
    }


def coverage_lines(table: dict[str, dict[str, float]]) -> dict[str, str]:
    """A table of `coverage` in words, by class."""
    return {
        name: f"{row['boxes']:,.0f} boxes, {row['unfitted']:.1%} that no place or anchor fits, "
        f"up to {row['positives_per_box']:g} positives each"
        for name, row in table.items()
    }

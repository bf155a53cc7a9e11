"""From overlapping boxes to one for each object: the ways beside plain non-maximum suppression.

N. Bodla et al., "Soft-NMS: Improving Object Detection With One Line of Code", ICCV 2017 (arXiv
1704.04503), with the Gaussian of its eq. 3; R. Solovyev et al., "Weighted boxes fusion", Image and
Vision Computing 2021 (arXiv 1910.13302), section 3.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import batched_nms

SIGMA = 0.5  # of soft-NMS's Gaussian, as in its paper


@dataclass(frozen=True, slots=True)
class Boxes:
    """Boxes of one image, of one or several sources.

    Attributes
    ----------
    boxes : array (n, 4)
        xyxy in pixels.
    scores : array (n,)
    labels : array (n,), int64
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def chosen(self, rows: np.ndarray) -> "Boxes":
        """Those rows."""
        return Boxes(self.boxes[rows], self.scores[rows], self.labels[rows])

    def ranked(self) -> "Boxes":
        """By descending score, then class and box, so that equal sets are equal arrays."""
        return self.chosen(np.lexsort((*self.boxes.T[::-1], self.labels, -self.scores)))


def nms(every: Boxes, iou: float, sources: int) -> Boxes:
    """Of boxes of a class that overlap by more than `iou`, the one with the highest score."""
    boxes, scores = (torch.from_numpy(v.astype(np.float64)) for v in (every.boxes, every.scores))
    return every.chosen(batched_nms(boxes, scores, torch.from_numpy(every.labels), iou).numpy())


def soft_nms(every: Boxes, iou: float, sources: int) -> Boxes:
    """All boxes, with scores lowered by what overlaps them: exp(-IoU^2 / `SIGMA`) for each."""
    scores, waiting = every.scores.astype(np.float64), np.ones(len(every.scores), dtype=bool)
    for _ in range(len(scores)):
        best = int(np.argmax(np.where(waiting, scores, -1.0)))
        waiting[best] = False
        rivals = np.flatnonzero(waiting & (every.labels == every.labels[best]))
        overlap = iou_with(every.boxes[best], every.boxes[rivals])
        scores[rivals] *= np.exp(-(overlap**2) / SIGMA)
    return Boxes(every.boxes, scores, every.labels)


def weighted_box_fusion(every: Boxes, iou: float, sources: int) -> Boxes:
    """Mean boxes of clusters, weighted by score; what few of the sources saw loses score.

    By descending score each box joins the cluster of its class whose mean box it overlaps most, by
    more than `iou`, or begins one. A cluster's score is the mean of its boxes', times the share of
    the sources that it has boxes of (at most 1).
    """
    clusters: list[list[int]] = []
    means = np.zeros((len(every.scores), 4))
    labels = np.zeros(len(every.scores), dtype=np.int64)
    for row in np.argsort(-every.scores, kind="stable").tolist():
        box, count = every.boxes[row], len(clusters)
        overlap = iou_with(box, means[:count])
        overlap[labels[:count] != every.labels[row]] = -1.0
        place = int(np.argmax(overlap)) if count else 0
        if not count or overlap[place] <= iou:
            place = count
            clusters.append([])
            labels[place] = every.labels[row]
        clusters[place].append(row)
        weight = every.scores[clusters[place]].astype(np.float64)
        means[place] = np.average(every.boxes[clusters[place]], axis=0, weights=weight + 1e-12)
    scores = [
        every.scores[rows].mean(dtype=np.float64) * min(len(rows), sources) / sources
        for rows in clusters
    ]
    count = len(clusters)
    return Boxes(means[:count], np.array(scores, dtype=np.float64), labels[:count])


# (boxes of an image, IoU, number of sources that they are from) -> what is left
FUSIONS: dict[str, Callable[[Boxes, float, int], Boxes]] = {
    "nms": nms,
    "soft_nms": soft_nms,
    "wbf": weighted_box_fusion,
}


def iou_with(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU of one box (4,) with others (n, 4), all xyxy; 0 where both are without area."""
    corners = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.clip(corners, 0, None).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - shared
    return np.divide(shared, union, out=np.zeros(len(boxes)), where=union > 0)

"""How good masks are: COCO's AP of masks, and the Dice and boundary F of an image's classes.

Mask AP is that of boxes with the overlap of masks in the place of the overlap of boxes
(`pipeline.evaluate.coco_matching`). Dice and boundary F look at all pixels of a class in an image
at once, whichever object they are of, for the detections that count at the operating point.
Boundary F is that of F. Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video
Object Segmentation", CVPR 2016: precision and recall of boundary pixels that lie within `NEAR` of
the diagonal of a boundary pixel of the other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from pipeline.evaluate.coco_arrays import GroundTruth, Predictions
from pipeline.evaluate.coco_matching import Limit, match
from pipeline.evaluate.coco_metrics import CocoMetrics, rounded

NEAR = 0.008  # of the image's diagonal
PIXELS = ("dice", "boundary_f")
FIGURES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR100")


@dataclass(frozen=True)
class MaskMetrics:
    """The figures of masks.

    Attributes
    ----------
    truth, found
        With masks.
    limit : float or array (K,)
        The lowest score of each class that counts for Dice and boundary F.
    """

    truth: GroundTruth
    found: Predictions
    limit: Limit

    @cached_property
    def score(self) -> CocoMetrics:
        """COCO's figures of the masks."""
        return CocoMetrics(match(self.truth, self.found))

    @cached_property
    def of_images(self) -> list[tuple[int, int, float, float]]:
        """Place of the image, label, Dice and boundary F wherever one of the two has the class."""
        return [
            (image, label, dice(found, truth), boundary_f(found, truth))
            for image, label, found, truth in self._unions()
        ]

    def _unions(self) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
        truth, lowest = self.truth, np.broadcast_to(self.limit, self.truth.classes)
        found = self.found.where(self.found.score >= lowest[self.found.label])
        assert truth.masks is not None and found.masks is not None
        real = ~truth.crowd
        ours = found.image * truth.classes + found.label
        theirs = truth.image[real] * truth.classes + truth.label[real]
        for key in np.union1d(ours, theirs).tolist():
            pair = (found.masks[ours == key], truth.masks[real][theirs == key])
            size = next(one["size"] for masks in pair for one in masks)
            image, label = divmod(key, truth.classes)
            yield image, label, *(_union(masks, size) for masks in pair)

    def flat(self) -> dict[str, float | None]:
        """The figures that experiments are compared by; Dice and boundary F are classes' means."""
        figures = {f"mask_{name}": self.score.value(name) for name in FIGURES}
        means = self.means(np.ones(self.truth.images))
        return figures | {n: rounded(v) for n, v in zip(PIXELS, means, strict=True)}

    def means(self, weight: np.ndarray) -> np.ndarray:
        """Dice and boundary F, (2,), with a weight for each image; NaN where nothing counts."""
        rows = np.array(self.of_images, dtype=np.float64).reshape(-1, 4)
        image, label = rows[:, :2].astype(np.int64).T
        mine = weight[image]
        total = np.bincount(label, mine, self.truth.classes)
        with np.errstate(invalid="ignore"):
            sums = [np.bincount(label, mine * v, self.truth.classes) / total for v in rows[:, 2:].T]
        known = np.array(sums)[:, total > 0]  # (2, classes)
        return known.mean(axis=1) if known.size else np.full(2, np.nan)

    def per_class(self) -> list[dict[str, Any]]:
        """Mask AP of each class, and the means of Dice and boundary F over its images."""
        rows = []
        for label, (_, name) in enumerate(self.truth.categories):
            mine = np.array([row[2:] for row in self.of_images if row[1] == label]).reshape(-1, 2)
            means = [rounded(v) for v in mine.mean(axis=0)] if len(mine) else [None, None]
            row = {"class": name, "mask_AP": self.score.value("AP", label)}
            row |= {"mask_AP50": self.score.value("AP50", label), "images": len(mine)}
            rows.append(row | {"dice": means[0], "boundary_f": means[1]})
        return rows


def _union(masks: np.ndarray, size: list[int]) -> np.ndarray:
    """All pixels (H, W), bool, of masks."""
    from pycocotools import mask as coco

    if not len(masks):
        return np.zeros(size, dtype=bool)
    return coco.decode(coco.merge(masks.tolist())).astype(bool)


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    """Twice the shared pixels over the sum of both; not both may be empty."""
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def boundary_f(found: np.ndarray, truth: np.ndarray) -> float:
    """F of the boundary pixels of masks (H, W), bool; 0 where one of them is empty."""
    if not (found.any() and truth.any()):
        return 0.0
    near = max(1.0, NEAR * float(np.hypot(*found.shape)))
    edges = [_edge(found), _edge(truth)]
    precision, recall = (
        float((_distance(other)[edge] <= near).mean())
        for edge, other in ((edges[0], edges[1]), (edges[1], edges[0]))
    )
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _edge(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask that touch what is not of it, at a side; the image's border is no edge."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner = cv2.erode(mask.astype(np.uint8), cross, borderType=cv2.BORDER_REPLICATE)
    edge = mask & ~inner.astype(bool)
    return edge if edge.any() else mask  # an object that fills the image


def _distance(edge: np.ndarray) -> np.ndarray:
    """Distance of every pixel from the nearest of an edge, in pixels."""
    return cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)

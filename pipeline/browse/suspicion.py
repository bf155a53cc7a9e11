"""How likely a label is wrong, judged by a model that says something else.

Two measures of a box, in the spirit of U. Tkachenko, A. Thyagarajan, J. Mueller, "ObjectLab:
Automated Diagnosis of Mislabeled Images in Object Detection Data" (arXiv 2309.00832), which ranks
overlooked, badly placed and swapped boxes by the scores of a trained detector:

* **loss**: what the box adds to a cross entropy. An object costs -ln p, where p is the highest
  score that a detection of its class has on it (IoU at least 0.5); a wrong detection -ln(1 - s).
* **disagreement**: how far label and model are apart, from 0 to 1. An object has 1 - max(s x IoU)
  over the detections of its class; a wrong detection s x (1 - IoU) with the nearest object of its
  class.

Both mean little where the model learned from the very labels that it judges.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.evaluate.coco_arrays import GroundTruth, Predictions
from pipeline.evaluate.coco_matching import overlaps

FOREGROUND = 0.5  # IoU
LEAST = 0.01  # of a probability, so that one box costs 4.6 at most


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Loss and disagreement of the boxes of one table, (n,) each."""

    loss: np.ndarray
    disagreement: np.ndarray


def of_objects(truth: GroundTruth, found: Predictions) -> Suspicion:
    """Objects, by all detections of any score; 0 for crowds."""
    d, g, iou = _same_class(truth, found)
    probability, agreement = np.zeros(len(truth.area)), np.zeros(len(truth.area))
    np.maximum.at(agreement, g, found.score[d] * iou)
    near = iou >= FOREGROUND
    np.maximum.at(probability, g[near], found.score[d[near]])
    loss = -np.log(np.clip(probability, LEAST, 1.0))
    return Suspicion(
        np.where(truth.crowd, 0.0, np.abs(loss)), np.where(truth.crowd, 0.0, 1 - agreement)
    )


def of_detections(truth: GroundTruth, found: Predictions, wrong: np.ndarray) -> Suspicion:
    """Detections, of which `wrong` (d,) have no object; 0 for the others."""
    d, _, iou = _same_class(truth, found)
    nearest = np.zeros(len(found))
    np.maximum.at(nearest, d, iou)
    loss = -np.log(np.clip(1 - found.score, LEAST, 1.0))
    return Suspicion(
        np.where(wrong, np.abs(loss), 0.0), np.where(wrong, found.score * (1 - nearest), 0.0)
    )


def _same_class(
    truth: GroundTruth, found: Predictions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detection, object and IoU of all pairs of one class that touch."""
    least = np.finfo(np.float64).tiny
    d, g, iou = overlaps(
        found.boxes, found.image, truth.boxes, truth.image, truth.crowd, float(least)
    )
    same = found.label[d] == truth.label[g]
    return d[same], g[same], iou[same]

"""Curves over the score threshold and the confusion matrix, all at IoU 0.5."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.evaluate.coco_arrays import GroundTruth, Predictions
from pipeline.evaluate.coco_matching import AREAS, HIT, IGNORED, Matches, match
from pipeline.evaluate.coco_metrics import rounded
from pipeline.evaluate.operating_point import by_threshold

FROC_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false positives per image
BINS = 10
LONGEST = 1000  # rows of a curve's file
BACKGROUND = "background"


def f1_confidence(matches: Matches) -> list[dict[str, Any]]:
    """Precision, recall and F1 at thresholds 0.00 to 1.00, classes pooled and one by one."""
    truth = matches.truth
    rows = _f1_rows("all", matches, None, int(truth.objects.sum()))
    for k, (_, name) in enumerate(truth.categories):
        rows += _f1_rows(name, matches, k, int(truth.objects[k]))
    return rows


def _f1_rows(name: str, matches: Matches, label: int | None, objects: int) -> list[dict[str, Any]]:
    scores, hits, misses = by_threshold(matches, label)
    grid = np.linspace(0.0, 1.0, 101).round(2)
    place = np.searchsorted(-scores, -grid, "right")  # how many distinct scores are >= the value
    tp, fp = (np.append(0, counts)[place] for counts in (hits, misses))
    return [
        {"class": name, "threshold": threshold, **precision_recall_f1(int(t), int(f), objects)}
        for threshold, t, f in zip(grid.tolist(), tp, fp, strict=True)
    ]


def precision_recall_f1(hits: int, misses: int, objects: int) -> dict[str, float | None]:
    """The three figures; None where a denominator is 0."""
    return {
        "precision": rounded(hits / (hits + misses)) if hits + misses else None,
        "recall": rounded(hits / objects) if objects else None,
        "f1": rounded(2 * hits / (hits + misses + objects)) if objects else None,
    }


@dataclass(frozen=True, slots=True)
class Froc:
    """Sensitivity against false positives per image.

    The curve is the one of MONAI's `compute_froc_curve_data`, with the thresholds kept. It
    starts at (0, 0) with a threshold that nothing reaches.

    Attributes
    ----------
    threshold, rate, sensitivity : array (s + 1,)
        Descending, ascending, ascending.
    """

    threshold: np.ndarray
    rate: np.ndarray
    sensitivity: np.ndarray

    @classmethod
    def of(cls, matches: Matches) -> "Froc | None":
        """The curve; None without images or objects."""
        objects = int(matches.truth.objects.sum())
        if not objects:
            return None
        scores, hits, misses = by_threshold(matches)
        return cls(
            np.append(np.inf, scores),
            np.append(0.0, misses / matches.truth.images),
            np.append(0.0, hits / objects),
        )

    def at(self, rate: float) -> tuple[float, float]:
        """Sensitivity and threshold of the last point with at most `rate` false positives."""
        place = int(np.searchsorted(self.rate, rate, "right")) - 1
        return float(self.sensitivity[place]), float(self.threshold[place])

    def interpolated(self, rate: float) -> float:
        """Sensitivity on the straight line between points, as LUNA16 and MONAI take it."""
        return float(np.interp(rate, self.rate, self.sensitivity))

    def points(self) -> list[dict[str, float | None]]:
        """Figures at `FROC_RATES`."""
        rows = []
        for rate in FROC_RATES:
            sensitivity, threshold = self.at(rate)
            rows.append(
                {
                    "fp_per_image": rate,
                    "sensitivity": rounded(sensitivity),
                    "threshold": None if np.isinf(threshold) else threshold,
                    "interpolated": rounded(self.interpolated(rate)),
                }
            )
        return rows

    def score(self) -> float | None:
        """Mean interpolated sensitivity at `FROC_RATES`."""
        return rounded(float(np.mean([self.interpolated(rate) for rate in FROC_RATES])))

    def rows(self) -> list[dict[str, Any]]:
        """The curve, thinned to `LONGEST` points."""
        columns = (self.rate, self.sensitivity, self.threshold)
        return _thinned(("fp_per_image", "sensitivity", "threshold"), columns)


def image_scores(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """Highest score of each image (-inf without detection), and whether it holds anything.

    An image with only crowds does hold something.
    """
    truth, found = matches.truth, matches.found
    score = np.full(truth.images, -np.inf)
    np.maximum.at(score, found.image, found.score)
    positive = np.zeros(truth.images, dtype=bool)
    positive[truth.image] = True
    return score, positive


def image_roc(matches: Matches) -> list[dict[str, Any]]:
    """ROC of "anything found in this image"; empty without positives or without negatives."""
    score, positive = image_scores(matches)
    if positive.all() or not positive.any():
        return []
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    hits = np.cumsum(positive[order])[last]
    columns = (
        np.append(np.inf, ranked[last]),
        np.append(0.0, (last + 1 - hits) / (~positive).sum()),
        np.append(0.0, hits / positive.sum()),
    )
    return _thinned(("threshold", "false_positive_rate", "true_positive_rate"), columns)


def calibration(matches: Matches) -> tuple[list[dict[str, Any]], float | None]:
    """Share of true positives among the detections of each score bin, and the ECE.

    Defined for detections: the confidence is the score, the outcome is a true positive at IoU
    0.5. The expected calibration error is the mean of ``|mean score - precision|`` over the bins,
    weighted by their detections (Guo et al., arXiv 1706.04599, eq. 3). Missed objects have no
    score and do not enter. None without detections.
    """
    counted = matches.status[0, 0] != IGNORED
    score = matches.found.score[counted]
    hit = matches.status[0, 0][counted] == HIT
    place = np.clip((score * BINS).astype(int), 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    mean = np.bincount(place, score, BINS) / np.maximum(count, 1)
    precision = np.bincount(place, hit, BINS) / np.maximum(count, 1)
    rows = [
        {
            "bin_low": b / BINS,
            "bin_high": (b + 1) / BINS,
            "count": int(count[b]),
            "mean_score": rounded(mean[b]) if count[b] else None,
            "precision": rounded(precision[b]) if count[b] else None,
        }
        for b in range(BINS)
    ]
    gap = float((count * np.abs(mean - precision)).sum())
    return rows, rounded(gap / len(score)) if len(score) else None


def confusion(truth: GroundTruth, found: Predictions) -> list[dict[str, Any]]:
    """Pairs of true and predicted class at IoU 0.5.

    Classes are disregarded in the matching, which is otherwise COCO's. A detection without
    object was found in the background; an object without detection was taken for it.
    """
    kept = found.where(np.lexsort((-found.score, found.image)))  # as if of one class
    one = replace(truth, label=np.zeros_like(truth.label), categories=((1, "any"),))
    blind = replace(kept, label=np.zeros_like(kept.label))
    pairs = match(one, blind, np.array([0.5]), {"all": AREAS["all"]})
    names = [name for _, name in truth.categories] + [BACKGROUND]
    none = truth.classes
    true = np.append(truth.label, none)[pairs.partner]  # partner -1: the background
    counted = pairs.status[0, 0] != IGNORED
    table = np.zeros((none + 1, none + 1), dtype=np.int64)
    np.add.at(table, (true[counted], kept.label[counted]), 1)
    missed = truth.label[~truth.crowd & ~pairs.taken[:, 0, 0]]
    np.add.at(table, (missed, none), 1)
    return [
        {"true": names[i], "predicted": names[j], "count": int(table[i, j])}
        for i in range(none + 1)
        for j in range(none + 1)
        if (i, j) != (none, none)
    ]


def _thinned(names: Sequence[str], columns: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Rows of a curve, at most `LONGEST`, first and last always; infinity becomes None."""
    length = len(columns[0])
    places = np.unique(np.linspace(0, length - 1, min(length, LONGEST)).round().astype(int))
    kept = [[None if np.isinf(v) else rounded(v) for v in column[places]] for column in columns]
    return [dict(zip(names, values, strict=True)) for values in zip(*kept, strict=True)]

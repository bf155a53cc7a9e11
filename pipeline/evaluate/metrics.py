"""COCO average precision and recall, with counts where there is nothing to count.

The figures equal those of pycocotools, which reports -1 where no ground truth of a kind exists
and fails on an empty list of detections; here that is None beside the number of objects, and 0.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.coco import load_coco
from pipeline.data.results import SCORE_DECIMALS
from pipeline.evaluate.average import LIMITS, RECALLS, Averages, accumulate, ranking
from pipeline.evaluate.matching import AREAS, HIT, IGNORED, THRESHOLDS, Matches, match
from pipeline.evaluate.tables import MAX_DETECTIONS, Found, Truth
from pipeline.models.thresholds import OperatingPoint

# Name, and how it is read: (AP or AR, IoU or None for the mean of all, area, detections)
SUMMARY: dict[str, tuple[str, float | None, str, int]] = {
    "AP": ("precision", None, "all", 100),
    "AP50": ("precision", 0.5, "all", 100),
    "AP75": ("precision", 0.75, "all", 100),
    "AP_small": ("precision", None, "small", 100),
    "AP_medium": ("precision", None, "medium", 100),
    "AP_large": ("precision", None, "large", 100),
    "AR1": ("recall", None, "all", 1),
    "AR10": ("recall", None, "all", 10),
    "AR100": ("recall", None, "all", 100),
    "AR_small": ("recall", None, "small", 100),
    "AR_medium": ("recall", None, "medium", 100),
    "AR_large": ("recall", None, "large", 100),
}
DECIMALS = 6
BY_CLASS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR100")
# Objects of a class on the validation split, below which it keeps the threshold of all classes.
# Our choice: one object of 20 moves the sensitivity by 0.05; with fewer, which score has the
# highest F1 is mostly the luck of single boxes.
LEAST_OBJECTS = 20
_HIGHEST_F1 = "highest F1 at IoU 0.5 on the validation split"


def rounded(value: float | None) -> float | None:
    """As figures are written: six decimals, None where there is nothing to say."""
    return None if value is None or np.isnan(value) else round(float(value), DECIMALS)


class CocoScore:
    """The COCO evaluation of one set of detections.

    Attributes
    ----------
    matches : Matches
    averages : Averages
        Over all images.
    """

    def __init__(self, matches: Matches) -> None:
        self.matches = matches

    @classmethod
    def of(cls, path: Path, results: Sequence[dict]) -> "CocoScore":
        """The score of COCO results against a COCO file."""
        return cls.between(load_coco(path), results)

    @classmethod
    def between(
        cls, coco: Mapping[str, Any], results: Sequence[dict], limit: int = MAX_DETECTIONS
    ) -> "CocoScore":
        """The score of COCO results against ground truth as `load_coco` gives it."""
        truth = Truth.of(coco)
        return cls(match(truth, Found.of(truth, results, limit)))

    @cached_property
    def averages(self) -> Averages:
        """Precision and recall at every IoU threshold, class and area range."""
        return accumulate(self.matches)

    def value(self, name: str, label: int | None = None) -> float | None:
        """One figure of `SUMMARY`, of all classes or of one; None without ground truth."""
        kind, iou, area, detections = SUMMARY[name]
        t = slice(None) if iou is None else np.flatnonzero(np.isclose(THRESHOLDS, iou))
        k = slice(None) if label is None else slice(label, label + 1)
        a = list(AREAS).index(area)
        if kind == "precision":
            values = self.averages.precision[t, :, k, a]
        else:
            values = self.averages.recall[t, k, a, LIMITS.index(detections)]
        known = values[values > -1]
        return rounded(known.mean()) if known.size else None

    def summary(self) -> dict[str, Any]:
        """All twelve figures, with the numbers of images and objects behind them."""
        objects = (~self.matches.outside).sum(axis=0).tolist()
        names = ("objects", *(f"objects_{area}" for area in list(AREAS)[1:]))
        figures: dict[str, Any] = {name: self.value(name) for name in SUMMARY}
        counts = {"images": self.matches.truth.images, **dict(zip(names, objects, strict=True))}
        return figures | counts

    def per_class(self) -> list[dict[str, Any]]:
        """The figures of each class, with its number of objects."""
        truth = self.matches.truth
        objects = np.bincount(truth.label[~truth.crowd], minlength=truth.classes).tolist()
        return [
            {"class": name, "objects": objects[k]} | {n: self.value(n, k) for n in BY_CLASS}
            for k, (_, name) in enumerate(truth.categories)
        ]

    def precision_recall(self) -> list[dict[str, Any]]:
        """Interpolated precision at 101 recalls, IoU 0.5, one series per class with objects."""
        rows = []
        for k, (_, name) in enumerate(self.matches.truth.categories):
            curve = self.averages.precision[0, :, k, 0]
            rows += [
                {"class": name, "recall": round(float(r), 2), "precision": round(float(p), 5)}
                for r, p in zip(RECALLS, curve, strict=True)
                if p > -1
            ]
        return rows


def self_test(coco: Mapping[str, Any]) -> float | None:
    """AP of the ground truth as its own detections: 1 on a sound file, None without objects."""
    real = [a for a in coco["annotations"] if not a["iscrowd"]]
    most = max(Counter(a["image_id"] for a in real).values(), default=0)
    perfect = [
        {k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 1.0} for a in real
    ]
    return CocoScore.between(coco, perfect, max(MAX_DETECTIONS, most)).value("AP")


def operating_point(path: Path, results: Sequence[dict]) -> OperatingPoint:
    """The score thresholds with the highest F1 at IoU 0.5 on a validation split.

    One over all classes together and one for each class, from the same matching. Of equal F1 the
    highest threshold is taken, which shows the fewest boxes. A class with fewer objects than
    `LEAST_OBJECTS`, or of which none was found, keeps the threshold of all classes.
    """
    matches = CocoScore.of(path, results).matches
    truth = matches.truth
    objects = np.bincount(truth.label[~truth.crowd], minlength=truth.classes).tolist()
    total = sum(objects)
    if total == 0 or not (matches.status[0, 0] != IGNORED).any():
        threshold = 0.3
        text = "default: the validation split gives no detections or has no objects to choose by"
    else:
        threshold, f1 = _highest_f1(matches, None, total)
        text = f"{_HIGHEST_F1} ({f1:.3f}, {total} objects)"
    by_class, sources = {}, {}
    for k, (_, name) in enumerate(truth.categories):
        score, source = threshold, text
        if truth.classes > 1:
            score, source = _of_class(matches, k, objects[k], threshold)
        by_class[name] = score
        sources[name] = {"objects": objects[k], "source": source}
    return OperatingPoint(threshold, text, by_class, sources)


def _of_class(matches: Matches, label: int, objects: int, common: float) -> tuple[float, str]:
    """A class's own threshold, or the common one and why."""
    kept = "that of all classes together: the validation split has"
    if objects < LEAST_OBJECTS:
        return common, f"{kept} {objects} of the {LEAST_OBJECTS} objects of this class it takes"
    if not (matches.status[0, 0][matches.found.label == label] == HIT).any():
        return common, f"{kept} {objects} objects of this class, and none was found"
    threshold, f1 = _highest_f1(matches, label, objects)
    return threshold, f"{_HIGHEST_F1} ({f1:.3f}, {objects} objects)"


def _highest_f1(matches: Matches, label: int | None, objects: int) -> tuple[float, float]:
    """The threshold with the highest F1, of equal ones the highest, and its F1."""
    thresholds, hits, misses = by_threshold(matches, label)
    f1 = 2 * hits / (hits + misses + objects)
    best = int(np.argmax(f1))  # the first of equal ones, and thresholds descend
    return round(float(thresholds[best]), SCORE_DECIMALS), float(f1[best])


def by_threshold(
    matches: Matches, label: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits and misses at IoU 0.5 of all detections with at least a score.

    Returns
    -------
    (array (s,), array (s,), array (s,))
        The distinct scores, descending; true positives and false positives at each.
    """
    status = matches.status[0, 0]
    chosen = status != IGNORED
    if label is not None:
        chosen &= matches.found.label == label
    rows = ranking(matches.found.score, chosen)
    score = matches.found.score[rows]
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True)) if len(rows) else rows
    hits = np.cumsum(status[rows] == HIT)[last]
    return score[last], hits, last + 1 - hits

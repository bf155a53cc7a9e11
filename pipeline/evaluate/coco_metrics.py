"""COCO average precision and recall, with counts where there is nothing to count.

The figures are those of `COCOeval.accumulate` in pycocotools: precision at a recall is the highest
precision at that recall or above, read at 101 recalls from 0 to 1, and AP is their mean over
recalls, IoU thresholds and classes with objects. pycocotools reports -1 where no ground truth of a
kind exists and fails on an empty list of detections; here that is None beside the number of
objects, and 0.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.coco import load_coco
from pipeline.evaluate.coco_arrays import MAX_DETECTIONS, GroundTruth, Predictions
from pipeline.evaluate.coco_matching import AREAS, HIT, IGNORED, THRESHOLDS, Matches, match

RECALLS = np.linspace(0.0, 1.0, 101)
LIMITS = (1, 10, 100)  # detections of one class in one image, for AR1, AR10 and AR100

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


def rounded(value: float | None) -> float | None:
    """As figures are written: six decimals, None where there is nothing to say."""
    return None if value is None or np.isnan(value) else round(float(value), DECIMALS)


@dataclass(frozen=True, slots=True)
class RankedOutcomes:
    """What became of ranked detections; the one place where precision becomes AP.

    Attributes
    ----------
    hits, ignored : list of T arrays
        At each IoU threshold, the ranks of the hits and of the detections that do not count.
    """

    hits: list[np.ndarray]
    ignored: list[np.ndarray]

    @classmethod
    def of(cls, status: np.ndarray) -> "RankedOutcomes":
        """From the outcomes (T, d) of detections by descending score."""
        return cls(
            [np.flatnonzero(level == HIT) for level in status],
            [np.flatnonzero(level == IGNORED) for level in status],
        )

    def curves(self, weight: np.ndarray, objects: int) -> tuple[np.ndarray, np.ndarray]:
        """Precision at the 101 recalls, (T, 101), and the recall of all detections, (T,).

        Parameters
        ----------
        weight : array (d,), int
            How often each detection counts.
        objects : int
            Above 0.
        """
        precision = np.zeros((len(self.hits), len(RECALLS)))
        recall = np.zeros(len(self.hits))
        everything = np.cumsum(weight)
        for t, (hits, ignored) in enumerate(zip(self.hits, self.ignored, strict=True)):
            counted = everything
            if len(ignored):
                counting = weight.copy()
                counting[ignored] = 0
                counted = np.cumsum(counting)
            found = np.cumsum(weight[hits])
            precision[t] = _at_recalls(found, counted[hits], objects)
            recall[t] = found[-1] / objects if len(found) else 0.0
        return precision, recall


def _at_recalls(hits: np.ndarray, counted: np.ndarray, objects: int) -> np.ndarray:
    """Precision at the 101 recalls, from hits and counted detections so far at each hit.

    Only hits can raise the precision, so nothing else needs to be looked at.
    """
    precision = hits / (counted + np.spacing(1))
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(hits / objects, RECALLS, "left")
    return np.append(highest, 0.0)[places]


def ranking(score: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Rows of the chosen detections by descending score; equal scores in the order of images."""
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(-score[rows], kind="stable")]


@dataclass(frozen=True, slots=True)
class Averages:
    """Precision and recall of every class; -1 where a class has no object in the area range.

    Attributes
    ----------
    precision : array (T, 101, K, A)
        At the IoU thresholds, recalls, classes and area ranges.
    recall : array (T, K, A, 3)
        With the detections per image that `LIMITS` allows.
    """

    precision: np.ndarray
    recall: np.ndarray


def accumulate(matches: Matches) -> Averages:
    """Precision and recall of all classes."""
    truth, found = matches.truth, matches.found
    levels, areas, _ = matches.status.shape
    precision = np.full((levels, len(RECALLS), truth.classes, areas), -1.0)
    recall = np.full((levels, truth.classes, areas, len(LIMITS)), -1.0)
    for k in range(truth.classes):
        rows = ranking(found.score, found.label == k)
        objects = (~matches.outside[truth.label == k]).sum(axis=0)  # (A,)
        for a in np.flatnonzero(objects):
            outcomes = RankedOutcomes.of(matches.status[:, a, rows])
            weight = np.ones(len(rows), dtype=np.int64)
            precision[:, :, k, a], _ = outcomes.curves(weight, objects[a])
            ranks = [found.rank[rows[hits]] for hits in outcomes.hits]
            recall[:, k, a] = [[(r < n).sum() / objects[a] for n in LIMITS] for r in ranks]
    return Averages(precision, recall)


class CocoMetrics:
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
    def of(cls, path: Path, results: Sequence[dict]) -> "CocoMetrics":
        """The score of COCO results against a COCO file."""
        return cls.between(load_coco(path), results)

    @classmethod
    def between(
        cls,
        coco: Mapping[str, Any],
        results: Sequence[dict],
        limit: int = MAX_DETECTIONS,
        *,
        masks: bool = False,
    ) -> "CocoMetrics":
        """The score of COCO results against ground truth as `load_coco` gives it.

        `masks` compares the segmentations and not the boxes; all results must have one.
        """
        truth = GroundTruth.of(coco, masks=masks)
        return cls(match(truth, Predictions.of(truth, results, limit)))

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
        objects = truth.objects.tolist()
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
    return CocoMetrics.between(coco, perfect, max(MAX_DETECTIONS, most)).value("AP")

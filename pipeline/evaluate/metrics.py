"""COCO average precision and recall, by pycocotools, with counts where there is nothing to count.

pycocotools reports -1 where no ground truth of a kind exists and fails on an empty list of
detections; here that is None beside the number of objects, and 0 respectively.
"""

import contextlib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.data.coco import load_coco
from pipeline.errors import DescryError

# Name, and how it is read from pycocotools' arrays: (AP or AR, IoU or None, area, detections)
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
SMALL, MEDIUM = 32**2, 96**2  # px^2, COCO's borders of small, medium and large


class CocoScore:
    """The accumulated COCO evaluation of one set of detections.

    Parameters
    ----------
    coco : mapping
        Ground truth as `load_coco` gives it.
    results : sequence
        COCO results; may be empty.
    max_detections : (int, int, int)
        Detections per image for AR1, AR10 and AR100.
    """

    def __init__(
        self,
        coco: Mapping[str, Any],
        results: Sequence[dict],
        max_detections: tuple[int, int, int] = (1, 10, 100),
    ) -> None:
        _check_ids(coco, results)
        self.coco = coco
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it goes
            truth = COCO()
            truth.dataset = dict(coco)
            truth.createIndex()
            found = truth.loadRes(list(results)) if results else COCO()
            if not results:
                found.dataset = {**coco, "annotations": []}
                found.createIndex()
            self.evaluation = COCOeval(truth, found, "bbox")
            self.evaluation.params.maxDets = list(max_detections)
            self.evaluation.evaluate()
            self.evaluation.accumulate()
        self.max_detections = max_detections

    @classmethod
    def of(cls, path: Path, results: Sequence[dict]) -> "CocoScore":
        """The score of detections against a COCO file."""
        return cls(load_coco(path), results)

    def value(self, name: str, category_id: int | None = None) -> float | None:
        """One figure of `SUMMARY`, of all classes or of one; None without ground truth."""
        kind, iou, area, detections = SUMMARY[name]
        params = self.evaluation.params
        a = params.areaRngLbl.index(area)
        m = self.max_detections.index(detections) if detections != 100 else 2
        k = slice(None) if category_id is None else [params.catIds.index(category_id)]
        t = slice(None) if iou is None else np.flatnonzero(np.isclose(params.iouThrs, iou))
        values = self.evaluation.eval[kind][t]
        values = values[..., k, a, m]
        known = values[values > -1]
        return round(float(known.mean()), DECIMALS) if known.size else None

    def summary(self) -> dict[str, Any]:
        """All twelve figures, with the numbers of images and objects behind them."""
        figures: dict[str, Any] = {name: self.value(name) for name in SUMMARY}
        areas = [a["area"] for a in self.coco["annotations"] if not a["iscrowd"]]
        counts = {
            "images": len(self.coco["images"]),
            "objects": len(areas),
            "objects_small": sum(area < SMALL for area in areas),
            "objects_medium": sum(SMALL <= area < MEDIUM for area in areas),
            "objects_large": sum(area >= MEDIUM for area in areas),
        }
        return figures | counts

    def per_class(self) -> list[dict[str, Any]]:
        """AP, AP50, AP75 and AR100 of each class, with its number of objects."""
        rows = []
        for category in self.coco["categories"]:
            mine = [a for a in self.coco["annotations"] if a["category_id"] == category["id"]]
            row: dict[str, Any] = {"class": category["name"], "objects": len(mine)}
            row |= {n: self.value(n, category["id"]) for n in ("AP", "AP50", "AP75", "AR100")}
            rows.append(row)
        return rows

    def precision_recall(self, iou: float = 0.5) -> list[dict[str, Any]]:
        """Interpolated precision at 101 recalls, one series per class with ground truth."""
        params = self.evaluation.params
        t = int(np.flatnonzero(np.isclose(params.iouThrs, iou))[0])
        rows = []
        for k, category in enumerate(self.coco["categories"]):
            curve = self.evaluation.eval["precision"][t, :, k, 0, 2]
            rows += [
                {"class": category["name"], "recall": float(r), "precision": round(float(p), 5)}
                for r, p in zip(params.recThrs.round(2), curve, strict=True)
                if p > -1
            ]
        return rows


def self_test(coco: Mapping[str, Any]) -> float | None:
    """AP of the ground truth as its own detections: 1 on a sound file, None without objects."""
    real = [a for a in coco["annotations"] if not a["iscrowd"]]
    per_image = max(Counter(a["image_id"] for a in real).values(), default=0)
    perfect = [
        {k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 1.0} for a in real
    ]
    return CocoScore(coco, perfect, (1, 10, max(100, per_image))).value("AP")


def operating_point(path: Path, results: Sequence[dict]) -> tuple[float, str]:
    """The score threshold with the highest F1 at IoU 0.5 over all classes of a validation split.

    Returns
    -------
    (float, str)
        The threshold, and in words where it comes from.
    """
    score = CocoScore.of(path, results)
    matches, objects = _matches(score)
    if objects == 0 or not matches:
        return (
            0.3,
            "default: the validation split gives no detections or has no objects to choose by",
        )
    ordered = sorted(matches, reverse=True)
    scores = np.array([s for s, _ in ordered])
    hits = np.cumsum([hit for _, hit in ordered])
    f1 = 2 * hits / (np.arange(1, len(ordered) + 1) + objects)
    last_of_tie = np.append(scores[1:] != scores[:-1], True)
    best = int(np.argmax(np.where(last_of_tie, f1, -1)))
    text = f"highest F1 at IoU 0.5 on the validation split ({f1[best]:.3f}, {objects} objects)"
    return round(float(scores[best]), 5), text


def _matches(score: CocoScore) -> tuple[list[tuple[float, bool]], int]:
    """(score, is a true positive) of each detection at IoU 0.5, and the number of objects."""
    pairs: list[tuple[float, bool]] = []
    objects = 0
    everything = score.evaluation.params.areaRng[0]
    for image in score.evaluation.evalImgs:
        if image is None or image["aRng"] != everything:
            continue
        objects += int((1 - np.asarray(image["gtIgnore"])).sum())
        counted = ~np.asarray(image["dtIgnore"][0], dtype=bool)
        hits = np.asarray(image["dtMatches"][0]) > 0
        pairs += [
            (float(s), bool(h))
            for s, h, c in zip(image["dtScores"], hits, counted, strict=True)
            if c
        ]
    return pairs, objects


def _check_ids(coco: Mapping[str, Any], results: Sequence[dict]) -> None:
    images = {image["id"] for image in coco["images"]}
    categories = {category["id"] for category in coco["categories"]}
    for row in results:
        if row["image_id"] not in images:
            raise DescryError(
                f"detection of image_id {row['image_id']}: no such image in the COCO file"
            )
        if row["category_id"] not in categories:
            known = ", ".join(map(str, sorted(categories)))
            raise DescryError(f"detection of category_id {row['category_id']}: known are {known}")

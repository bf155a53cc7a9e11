"""The operating point: the scores with the highest F1 on a validation split."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.coco import load_coco
from pipeline.data.results import SCORE_DECIMALS
from pipeline.evaluate.coco_arrays import GroundTruth, Predictions
from pipeline.evaluate.coco_matching import AREAS, HIT, IGNORED, MISS, Matches, match
from pipeline.evaluate.coco_metrics import CocoMetrics, ranking
from pipeline.models.thresholds import LEAST_OBJECTS, OperatingPoint

RSNA_THRESHOLDS = np.linspace(0.4, 0.75, 8)  # IoU
_HIGHEST_F1 = "highest F1 at IoU 0.5 on the validation split"


def validate(
    path: Path, results: list[dict], task: str = "detect"
) -> tuple[dict[str, Any], OperatingPoint]:
    """COCO figures and operating point of COCO results against a COCO file, from one matching.

    With a `task` that has masks also their figures. The regions of the task "semantic" are a map of
    all pixels, which no score may thin out.
    """
    coco = load_coco(path)
    metrics = CocoMetrics.between(coco, results)
    point = operating_point(metrics.matches)
    if task == "detect":
        return metrics.summary(), point
    from pipeline.evaluate.masks import MaskMetrics

    if task == "semantic":
        point = OperatingPoint(0.0, "all regions of a semantic model count")
    truth = GroundTruth.of(coco, masks=True)
    limit = np.array(list(point.lowest(truth.categories).values()))
    masks = MaskMetrics(truth, Predictions.of(truth, results), limit)
    return metrics.summary() | masks.flat(), point


def operating_point(matches: Matches) -> OperatingPoint:
    """The score thresholds with the highest F1 at IoU 0.5.

    One over all classes together and one for each class, from the same matching. Of equal F1 the
    highest threshold is taken, which shows the fewest boxes. A class with fewer objects than
    `LEAST_OBJECTS`, or of which none was found, keeps the threshold of all classes.
    """
    truth = matches.truth
    objects = truth.objects.tolist()
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
        sources[name] |= _finds(matches, k, objects[k], score)
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


def _finds(matches: Matches, label: int, objects: int, threshold: float) -> dict[str, float]:
    """Of a class: the share of its objects that is found, and false boxes per image."""
    if not objects:
        return {}
    scores, hits, misses = by_threshold(matches, label)
    kept = int((scores >= threshold).sum())  # scores descend
    found, wrong = (int(count[kept - 1]) if kept else 0 for count in (hits, misses))
    per_image = wrong / matches.truth.images
    return {"sensitivity": round(found / objects, 4), "fp_per_image": round(per_image, 4)}


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


def rsna_score(at_point: Matches) -> float | None:
    """The metric of the RSNA pneumonia challenge (Kaggle, 2018) of the detections that count.

    Per image TP / (TP + FP + FN), averaged over the IoU thresholds 0.4, 0.45, ..., 0.75; then the
    mean over images. An image without objects counts 0 if anything was found in it, and is left
    out if nothing was. None where no image is left.
    """
    truth, found = at_point.truth, at_point.found
    matches = match(truth, found, RSNA_THRESHOLDS, {"all": AREAS["all"]})

    def per_image(image: np.ndarray, counted: np.ndarray) -> np.ndarray:
        """How many of each image at each threshold, (T, n)."""
        return np.array([np.bincount(image[c], minlength=truth.images) for c in counted])

    hits = per_image(found.image, matches.status[:, 0] == HIT)
    false = per_image(found.image, matches.status[:, 0] == MISS)
    missed = per_image(truth.image, ~matches.taken[:, :, 0].T & ~truth.crowd)
    total = hits + false + missed
    counted = total.all(axis=0)
    return float((hits[:, counted] / total[:, counted]).mean()) if counted.any() else None

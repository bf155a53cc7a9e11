"""Figures of weighted images: what resampling, swapping and subgroups have in common.

Matching does not depend on which other images are in the set. So it is done once, and a figure
of a resampled set is a sum with one weight per image: how often the image was drawn. An image of
weight 2 counts as two copies, one of weight 0 is absent. Subgroups are images by what is known of
them: view, sex, age, plane.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.evaluate.coco_matching import AREAS, HIT, IGNORED, Limit, Matches, reaching
from pipeline.evaluate.coco_metrics import CocoMetrics, RankedOutcomes, ranking, rounded
from pipeline.evaluate.curves import image_scores

FIGURES = (
    "AP",
    "AP50",
    "AP75",
    "AR100",
    "sensitivity_at_1fp",
    "sensitivity",
    "precision",
    "fp_per_image",
    "image_auc",
    "image_sensitivity",
    "image_specificity",
)
_AT_75 = 5  # place of IoU 0.75 among the thresholds
# Keys of COCO image entries or of their ``attributes`` that may divide a test set.
ATTRIBUTES = ("view_position", "view", "sex", "age", "plane", "modality", "finding", "super_class")
AGE_BANDS = (0, 18, 40, 60, 80)  # years; each reaches up to the next


@dataclass(frozen=True, slots=True)
class _Class:
    """Detections of one class, ranked, and its objects."""

    image: np.ndarray  # (d,) place of each detection's image in the weights
    outcomes: RankedOutcomes
    objects: np.ndarray  # (m,) image of each object


class WeightedMetrics:
    """Figures of several runs over the same images, under weights of the images.

    Parameters
    ----------
    runs : sequence of Matches
        One run, or two to be compared; with the same `GroundTruth`.
    limits : sequence
        Operating point of each run; None leaves out the figures that need one.
    """

    def __init__(self, runs: Sequence[Matches], limits: Sequence[Limit | None]) -> None:
        self.truth = runs[0].truth
        self.images = self.truth.images
        found = [run.found for run in runs]
        image = np.concatenate([f.image for f in found])
        source = np.repeat(np.arange(len(runs)), [len(f) for f in found])
        score = np.concatenate([f.score for f in found])
        label = np.concatenate([f.label for f in found])
        status = np.concatenate([run.status[:, 0] for run in runs], axis=1)
        # Equal scores stand in the order of the images, whichever run they are from.
        order = np.argsort(image, kind="stable")
        image, source, score = image[order], source[order], score[order]
        label, status = label[order], status[:, order]
        places = image + source * self.images
        self._classes = [
            self._class(places, status, ranking(score, label == k), k)
            for k in range(self.truth.classes)
        ]
        self.has_point = all(limit is not None for limit in limits)
        above = [
            np.zeros(len(run.found), dtype=bool) if limit is None else reaching(run, limit)
            for run, limit in zip(runs, limits, strict=True)
        ]
        self._pool(places, status[0], score, np.concatenate(above)[order])
        self._rate_images(runs, above)

    def _class(
        self, places: np.ndarray, status: np.ndarray, rows: np.ndarray, label: int
    ) -> _Class:
        mine = self.truth.image[(self.truth.label == label) & ~self.truth.crowd]
        return _Class(places[rows], RankedOutcomes.of(status[:, rows]), mine)

    def _pool(
        self, places: np.ndarray, status: np.ndarray, score: np.ndarray, above: np.ndarray
    ) -> None:
        """Detections of all classes that count at IoU 0.5, ranked."""
        rows = ranking(score, status != IGNORED)
        ranked = score[rows]
        self._ranked = places[rows]
        self._hit, self._above = status[rows] == HIT, above[rows]
        last = np.append(ranked[1:] != ranked[:-1], True) if len(rows) else np.zeros(0, bool)
        self._last = np.flatnonzero(last)
        self._objects = self.truth.image[~self.truth.crowd]

    def _rate_images(self, runs: Sequence[Matches], above: Sequence[np.ndarray]) -> None:
        """Images of all runs by ascending score, and whether any detection of theirs counts."""
        scores, positive = zip(*(image_scores(run) for run in runs), strict=True)
        score, holds = np.concatenate(scores), np.concatenate(positive)
        self._order = np.argsort(score, kind="stable")
        ranked = score[self._order]
        first = np.append(True, ranked[1:] != ranked[:-1]) if len(ranked) else np.zeros(0, bool)
        self._first = np.flatnonzero(first)
        self._holds = holds[self._order]
        called = np.zeros((len(runs), self.images), dtype=bool)
        for r, (run, counts) in enumerate(zip(runs, above, strict=True)):
            called[r, run.found.image[counts]] = True
        self._called = called.reshape(-1)[self._order]

    def figures(self, found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        """All `FIGURES`; NaN where there is nothing to count.

        Parameters
        ----------
        found : array (runs * images,), int
            Weight of each image's detections, run after run.
        truth : array (images,), int
            Weight of each image's objects.
        """
        return self.average(found, truth) | self._rates(found, truth) | self._of_images(found)

    def average(self, found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        """The COCO figures: means over the classes that have objects."""
        averages, recalls = [], []
        for one in self._classes:
            objects = truth[one.objects].sum()
            if objects:
                precision, recall = one.outcomes.curves(found[one.image], objects)
                averages.append(precision.mean(axis=1))
                recalls.append(recall)
        if not averages:
            return dict.fromkeys(("AP", "AP50", "AP75", "AR100"), np.nan)
        mean = np.mean(averages, axis=0)  # (T,)
        return {
            "AP": float(mean.mean()),
            "AP50": float(mean[0]),
            "AP75": float(mean[_AT_75]),
            "AR100": float(np.mean(recalls)),
        }

    def _rates(self, found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
        """Figures of single detections at IoU 0.5."""
        weight = found[self._ranked]
        images, objects = truth.sum(), truth[self._objects].sum()
        hits, misses = weight * self._hit, weight * ~self._hit
        hits_above, misses_above = hits[self._above].sum(), misses[self._above].sum()
        within = np.searchsorted(np.cumsum(misses)[self._last], images, "right")
        reached = np.append(0, np.cumsum(hits)[self._last])[within]
        found_any = hits_above + misses_above
        at_point = {
            "sensitivity": _ratio(hits_above, objects),
            "precision": _ratio(hits_above, found_any),
            "fp_per_image": _ratio(misses_above, images),
        }
        if not self.has_point:
            at_point = dict.fromkeys(at_point, np.nan)
        return {"sensitivity_at_1fp": _ratio(reached, objects)} | at_point

    def _of_images(self, found: np.ndarray) -> dict[str, float]:
        """Figures of images as a whole: is there anything in it?"""
        weight = found[self._order]
        positive, negative = weight * self._holds, weight * ~self._holds
        figures = {
            "image_auc": np.nan,
            "image_sensitivity": _ratio(positive[self._called].sum(), positive.sum()),
            "image_specificity": _ratio(negative[~self._called].sum(), negative.sum()),
        }
        if not self.has_point:
            figures = dict.fromkeys(figures, np.nan)
        if positive.sum() and negative.sum():
            with_score = np.add.reduceat(negative, self._first)
            below = np.cumsum(with_score) - with_score / 2  # a tie counts one half
            won = (np.add.reduceat(positive, self._first) * below).sum()
            figures["image_auc"] = float(won / positive.sum() / negative.sum())
        return figures


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else np.nan


def subgroups(
    score: CocoMetrics, images: Sequence[Mapping[str, Any]], limit: Limit | None
) -> list[dict[str, Any]]:
    """One row per attribute and value that occurs, values in order; sizes first."""
    weighted = WeightedMetrics([score.matches], [limit])
    ordered = sorted(images, key=lambda image: image["id"])
    rows = [_size_row(score, size, limit) for size in list(AREAS)[1:]]
    for attribute in ATTRIBUTES:
        values = [_value(image, attribute) for image in ordered]
        present = sorted({v for v in values if v is not None}, key=_in_order)
        for value in present:
            chosen = np.array([v == value for v in values], dtype=np.int64)
            rows.append({"attribute": attribute, "value": value, **_row(weighted, chosen)})
    return rows


def _value(image: Mapping[str, Any], attribute: str) -> str | None:
    """The value of an attribute in words; None where it is not known."""
    value = {**image, **_mapping(image.get("attributes"))}.get(attribute)
    if attribute == "age":
        return _band(value)
    return value if isinstance(value, str) and value else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _band(age: object) -> str | None:
    """Age band of an age in years: "40-59", "80+"."""
    if not isinstance(age, int | float) or isinstance(age, bool) or not age >= 0:
        return None
    place = int(np.searchsorted(AGE_BANDS, age, "right")) - 1
    if place == len(AGE_BANDS) - 1:
        return f"{AGE_BANDS[place]}+"
    return f"{AGE_BANDS[place]}-{AGE_BANDS[place + 1] - 1}"


def _in_order(value: str) -> tuple[int, str]:
    """Age bands by their first number, everything else by name."""
    first = value.rstrip("+").split("-")[0]
    return (int(first) if first.isdecimal() else 0, value)


def _row(weighted: WeightedMetrics, chosen: np.ndarray) -> dict[str, Any]:
    figures = weighted.figures(chosen, chosen)
    real = weighted.truth.image[~weighted.truth.crowd]
    names = ("AP", "AP50", "sensitivity", "fp_per_image")
    counts = {"images": int(chosen.sum()), "objects": int(chosen[real].sum())}
    return counts | {name: rounded(figures[name]) for name in names}


def _size_row(score: CocoMetrics, size: str, limit: Limit | None) -> dict[str, Any]:
    """Objects of one COCO size. Misses of a size do not exist, so there is no rate of them."""
    matches = score.matches
    a = list(AREAS).index(size)
    mine = ~matches.outside[:, a]
    objects = int(mine.sum())
    sensitivity = None
    if limit is not None and objects:
        partner = matches.partner[reaching(matches, limit)]
        sensitivity = rounded(mine[partner[partner >= 0]].sum() / objects)
    t50 = score.averages.precision[0, :, :, a]
    known = t50[t50 > -1]
    return {
        "attribute": "size",
        "value": size,
        "images": len(np.unique(matches.truth.image[mine])),
        "objects": objects,
        "AP": score.value(f"AP_{size}"),
        "AP50": rounded(known.mean()) if known.size else None,
        "sensitivity": sensitivity,
        "fp_per_image": None,
    }

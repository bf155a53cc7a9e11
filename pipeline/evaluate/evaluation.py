"""Everything that is known of one set of detections, and the files it is written to.

Tables are CSV, single numbers JSON; docs/reference/evaluation.md says what each holds.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.atomic import write_csv, write_json
from pipeline.evaluate import curves
from pipeline.evaluate.coco_arrays import GroundTruth, Predictions
from pipeline.evaluate.coco_matching import Limit, Matches, above, match
from pipeline.evaluate.coco_metrics import CocoMetrics, rounded
from pipeline.evaluate.error_kinds import Errors, counts, find_errors, gains
from pipeline.evaluate.intervals import Resampling, Units, intervals, mask_intervals
from pipeline.evaluate.masks import MaskMetrics
from pipeline.evaluate.operating_point import by_threshold, rsna_score
from pipeline.evaluate.weighted import WeightedMetrics, subgroups
from pipeline.models.thresholds import OperatingPoint

FORMAT = "descry-evaluation-1"  # in details.json, so that nothing else is ever replaced
NO_THRESHOLD = "no operating point: give --threshold, a score chosen on other images than these"
EMPTY = {  # headers of the tables that may have no rows
    "precision_recall.csv": ("class", "recall", "precision"),
    "per_class.csv": ("class", "objects"),
    "confusion.csv": ("true", "predicted", "count"),
    "froc.csv": ("fp_per_image", "sensitivity", "threshold"),
    "roc.csv": ("threshold", "false_positive_rate", "true_positive_rate"),
}


def limits_of(point: OperatingPoint | None, truth: GroundTruth) -> np.ndarray | None:
    """The lowest score of each class that counts, (K,)."""
    return None if point is None else np.array(list(point.lowest(truth.categories).values()))


class Evaluation:
    """One set of detections against one COCO file.

    Parameters
    ----------
    name : str
        Of the ground truth, as it is written.
    path : Path
        The COCO file; its hash says later whether two runs were judged by the same truth.
    coco : mapping
        Its content.
    found : Predictions
        With masks where they shall be judged, too.
    point : OperatingPoint or None
    how : Resampling

    Attributes
    ----------
    matches : Matches
        Of all detections, at all IoU thresholds and area ranges.
    limits : array (K,) or None
        The lowest score of each class that counts at the operating point.
    score : CocoMetrics
    units : Units
    masks : MaskMetrics or None
    """

    def __init__(
        self,
        name: str,
        path: Path,
        coco: Mapping[str, Any],
        found: Predictions,
        point: OperatingPoint | None,
        how: Resampling,
    ) -> None:
        self.name, self.path, self.point, self.how = name, path, point, how
        self.images: Sequence[Mapping[str, Any]] = coco["images"]
        self.matches = match(GroundTruth.of(coco), found)  # of the boxes
        self.score = CocoMetrics(self.matches)
        self.limits = limits_of(point, self.matches.truth)
        self.units = Units.of(self.images)
        self.masks: MaskMetrics | None = None
        if found.masks is not None:
            limit: Limit = 0.0 if self.limits is None else self.limits
            self.masks = MaskMetrics(GroundTruth.of(coco, masks=True), found, limit)

    @cached_property
    def objects(self) -> int:
        """Objects that count."""
        return int(self.matches.truth.objects.sum())

    @cached_property
    def positive(self) -> np.ndarray:
        """Whether each image holds anything, (n,), bool."""
        return curves.image_scores(self.matches)[1]

    @cached_property
    def at_point(self) -> Matches | None:
        """The detections at the operating point, matched."""
        return None if self.limits is None else above(self.matches, self.limits)

    @cached_property
    def errors(self) -> Errors | None:
        """The mistakes at the operating point."""
        return None if self.at_point is None else find_errors(self.at_point)

    @cached_property
    def froc(self) -> curves.Froc | None:
        """The FROC curve; None without objects."""
        return curves.Froc.of(self.matches)

    @cached_property
    def calibration(self) -> tuple[list[dict[str, Any]], float | None]:
        """Rows of the score bins, and the expected calibration error."""
        return curves.calibration(self.matches)

    @cached_property
    def flat(self) -> dict[str, Any]:
        """The figures that experiments are compared by."""
        ones = np.ones(self.matches.truth.images, dtype=np.int64)
        others = WeightedMetrics([self.matches], [self.limits]).figures(ones, ones)
        figures = self.score.summary()
        figures |= {name: rounded(v) for name, v in others.items() if name not in figures}
        figures["rsna_mAP"] = rounded(rsna_score(self.at_point)) if self.at_point else None
        figures["froc_score"] = self.froc.score() if self.froc else None
        figures["ece"] = self.calibration[1]
        figures["score_threshold"] = self.point.threshold if self.point else None
        return figures | (self.masks.flat() if self.masks else {})


def write_evaluation(
    evaluation: Evaluation, out: Path, metrics: Path, missing: Mapping[str, str] | None = None
) -> None:
    """Write the CSV files and ``details.json`` into `out`, the flat figures to `metrics`.

    The latter stand under the name of the ground truth, as DVC's metrics; `missing` adds reasons
    for what is not there.
    """
    for name, rows in tables(evaluation).items():
        header = list(rows[0]) if rows else EMPTY[name]
        cells = (["" if v is None else v for v in row.values()] for row in rows)
        write_csv(out / name, header, cells)
    content = details(evaluation)
    content["not_available"] = not_available(evaluation) | dict(missing or {})
    write_json(out / "details.json", content)
    write_json(metrics, {evaluation.name: evaluation.flat})


def tables(evaluation: Evaluation) -> dict[str, list[dict[str, Any]]]:
    """Rows of all CSV files."""
    matches, at_point = evaluation.matches, evaluation.at_point
    return {
        "per_class.csv": _per_class(evaluation),
        "precision_recall.csv": evaluation.score.precision_recall(),
        "f1_confidence.csv": curves.f1_confidence(matches),
        "confusion.csv": curves.confusion(at_point.truth, at_point.found) if at_point else [],
        "froc.csv": evaluation.froc.rows() if evaluation.froc else [],
        "roc.csv": curves.image_roc(matches),
        "calibration.csv": evaluation.calibration[0],
        "subgroups.csv": subgroups(evaluation.score, evaluation.images, evaluation.limits),
    }


def _per_class(evaluation: Evaluation) -> list[dict[str, Any]]:
    """COCO figures of each class, and those at the operating point."""
    rows = evaluation.score.per_class()
    of_masks = evaluation.masks.per_class() if evaluation.masks else []
    for row, more in zip(rows, of_masks, strict=False):
        row |= {name: value for name, value in more.items() if name != "images"}
    for k, row in enumerate(rows):
        row |= dict.fromkeys(("sensitivity", "precision", "f1"))
        if evaluation.at_point is not None:
            _, hits, misses = by_threshold(evaluation.at_point, k)
            figures = curves.precision_recall_f1(_last(hits), _last(misses), row["objects"])
            row |= {"sensitivity": figures.pop("recall")} | figures
    return rows


def _last(running: np.ndarray) -> int:
    return int(running[-1]) if len(running) else 0


def details(evaluation: Evaluation) -> dict[str, Any]:
    """Everything that is a single number, and where it comes from."""
    froc = evaluation.froc
    rows, error = evaluation.calibration
    return {
        "format": FORMAT,
        "ground_truth": _ground_truth(evaluation),
        "operating_point": _operating_point(evaluation.point),
        "figures": evaluation.flat,
        "at_operating_point": _at_operating_point(evaluation),
        "image_level": _image_level(evaluation),
        "froc": {
            "points": froc.points() if froc else [],
            "score": evaluation.flat["froc_score"],
        },
        "calibration": {
            "ece": error,
            "detections": sum(row["count"] for row in rows),
            "bins": curves.BINS,
            "iou": 0.5,
        },
        "intervals": _intervals(evaluation),
        "errors": _errors(evaluation),
    }


def _ground_truth(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "name": evaluation.name,
        "sha256": hashlib.sha256(evaluation.path.read_bytes()).hexdigest(),
        "images": len(evaluation.positive),
        "negatives": int((~evaluation.positive).sum()),
        "objects": evaluation.objects,
        "crowds": int(evaluation.matches.truth.crowd.sum()),
        "unit": evaluation.units.name,
        "units": evaluation.units.count,
    }


def _operating_point(point: OperatingPoint | None) -> dict[str, Any]:
    if point is None:
        return {"threshold": None, "source": NO_THRESHOLD, "by_class": {}, "sources": {}}
    return asdict(point)


def _at_operating_point(evaluation: Evaluation) -> dict[str, Any]:
    names = ("true_positives", "false_positives", "missed", "f1")
    numbers: dict[str, Any] = dict.fromkeys(names)
    if evaluation.at_point is not None:
        _, hits, misses = by_threshold(evaluation.at_point)
        found, false = _last(hits), _last(misses)
        f1 = curves.precision_recall_f1(found, false, evaluation.objects)["f1"]
        numbers = dict(zip(names, (found, false, evaluation.objects - found, f1), strict=True))
    shared = ("sensitivity", "precision", "fp_per_image")
    return {"iou": 0.5} | numbers | {name: evaluation.flat[name] for name in shared}


def _image_level(evaluation: Evaluation) -> dict[str, Any]:
    positive = evaluation.positive
    numbers = {"positives": int(positive.sum()), "negatives": int((~positive).sum())}
    names = ("auc", "sensitivity", "specificity")
    return numbers | {name: evaluation.flat[f"image_{name}"] for name in names}


def _intervals(evaluation: Evaluation) -> dict[str, Any]:
    how, units, masks = evaluation.how, evaluation.units, evaluation.masks
    found = intervals(evaluation.matches, evaluation.limits, units, how)
    return {
        "level": how.level,
        "resamples": how.resamples,
        "seed": how.seed,
        "unit": units.name,
        "units": units.count,
        "figures": found | (mask_intervals(masks, units, how) if masks else {}),
    }


def _errors(evaluation: Evaluation) -> dict[str, Any]:
    everything = find_errors(evaluation.matches)
    number, gain = counts(everything), gains(evaluation.matches, everything)
    chosen = counts(evaluation.errors) if evaluation.errors else dict.fromkeys(number)
    return {
        kind: {
            "count": number[kind],
            "count_at_operating_point": chosen[kind],
            "delta_AP50": gain[kind],
        }
        for kind in number
    }


def not_available(evaluation: Evaluation) -> dict[str, str]:
    """Why something is empty."""
    reasons = {}
    if evaluation.point is None:
        reasons = dict.fromkeys(("confusion.csv", "gallery", "at_operating_point"), NO_THRESHOLD)
    positive = evaluation.positive
    if positive.all() or not positive.any():
        kind = "negative" if positive.any() else "positive"
        reasons["roc.csv"] = reasons["image_auc"] = f"0 {kind} images"
    if evaluation.froc is None:
        reasons["froc.csv"] = "0 objects"
    if evaluation.units.count < 2:
        unit = evaluation.units
        reasons["intervals"] = f"{unit.count} {unit.name}: nothing to resample"
    return reasons

"""What kind of mistake each false positive and each missed object is, and what it costs.

After D. Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV
2020 (arXiv 2008.08115), section 2.2, with its thresholds: foreground from IoU 0.5, background
below 0.1. Where two kinds fit, the order is that of the authors' program: localisation, class,
duplicate, background, both. The cost of a kind is the gain in AP50 if it alone were mended
(section 2.3): a localisation or class error becomes a hit unless its object has one already, a
duplicate, background or both error disappears, a missed object is no longer asked for.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.evaluate.coco_matching import HIT, IGNORED, MISS, Matches, overlaps
from pipeline.evaluate.coco_metrics import RankedOutcomes, ranking, rounded

FOREGROUND, BACKGROUND = 0.5, 0.1
KINDS = ("localisation", "class", "both", "duplicate", "background", "missed")
_NONE = -1


@dataclass(frozen=True, slots=True)
class Errors:
    """Kinds of all mistakes.

    Attributes
    ----------
    kind : array (d,), int64
        Place in `KINDS` of each false positive, -1 for hits and ignored detections.
    object : array (d,), int64
        The object that a localisation or class error meant; -1 otherwise.
    overlap, reach : array (d,) and (m,), float64
        Largest IoU of each detection with an object of any class, and of each object with a
        detection; 0 where it is below `BACKGROUND`.
    missed : array (m,), bool
        Objects that no detection has.
    lost : array (m,), bool
        Those of them that no localisation or class error meant: TIDE's missed.
    """

    kind: np.ndarray
    object: np.ndarray
    overlap: np.ndarray
    reach: np.ndarray
    missed: np.ndarray
    lost: np.ndarray


def find_errors(matches: Matches) -> Errors:
    """Sort all mistakes at IoU 0.5 by kind."""
    truth, found = matches.truth, matches.found
    real = np.flatnonzero(~truth.crowd)
    d, g, iou = overlaps(
        found.boxes,
        found.image,
        truth.boxes[real],
        truth.image[real],
        truth.crowd[real],
        BACKGROUND,
    )
    g = real[g]
    same = found.label[d] == truth.label[g]
    own, own_object = _largest(d[same], g[same], iou[same], len(found))
    other, other_object = _largest(d[~same], g[~same], iou[~same], len(found))
    kinds = {name: i for i, name in enumerate(KINDS)}
    choices = [
        (own >= BACKGROUND) & (own < FOREGROUND),
        other >= FOREGROUND,
        own >= FOREGROUND,
        other < BACKGROUND,
    ]
    order = ("localisation", "class", "duplicate", "background")
    kind = np.select(choices, [kinds[name] for name in order], kinds["both"])
    kind = np.where(matches.status[0, 0] == MISS, kind, _NONE)
    meant = np.where(kind == kinds["localisation"], own_object, _NONE)
    meant = np.where(kind == kinds["class"], other_object, meant)
    missed = ~truth.crowd & ~matches.taken[:, 0, 0]
    lost = missed.copy()
    lost[meant[meant >= 0]] = False
    reach = np.zeros(len(missed))
    np.maximum.at(reach, g, iou)
    return Errors(kind, meant, np.maximum(own, other), reach, missed, lost)


def _largest(
    d: np.ndarray, g: np.ndarray, iou: np.ndarray, detections: int
) -> tuple[np.ndarray, np.ndarray]:
    """Largest overlap of each detection (0 without any) and the object that has it."""
    order = np.lexsort((g, -iou, d))
    first = order[np.append(True, np.diff(d[order]) != 0)] if len(d) else order
    overlap, partner = np.zeros(detections), np.full(detections, _NONE)
    overlap[d[first]], partner[d[first]] = iou[first], g[first]
    return overlap, partner


def counts(errors: Errors) -> dict[str, int]:
    """How many mistakes of each kind."""
    number = np.bincount(errors.kind[errors.kind >= 0], minlength=len(KINDS)).tolist()
    return dict(zip(KINDS, number, strict=True)) | {"missed": int(errors.lost.sum())}


def gains(matches: Matches, errors: Errors) -> dict[str, float | None]:
    """How much AP50 would rise if one kind alone were mended; None where AP50 does not exist."""
    base = _ap50(matches, matches.status[0, 0], matches.found.label, ~matches.truth.crowd)
    gained = {}
    for kind, name in enumerate(KINDS):
        mended = _without(matches, errors, kind)
        gained[name] = None if base is None or mended is None else rounded(mended - base)
    return gained


def _without(matches: Matches, errors: Errors, kind: int) -> float | None:
    """AP50 if one kind of error were mended."""
    truth, found = matches.truth, matches.found
    status, label = matches.status[0, 0].copy(), found.label.copy()
    if KINDS[kind] == "missed":
        return _ap50(matches, status, label, ~truth.crowd & ~errors.lost)
    rows = np.flatnonzero(errors.kind == kind)
    status[rows] = IGNORED
    meant = rows[errors.object[rows] >= 0]
    meant = meant[~matches.taken[errors.object[meant], 0, 0]]
    meant = meant[np.argsort(-found.score[meant], kind="stable")]
    _, best = np.unique(errors.object[meant], return_index=True)  # one hit per object
    mended = meant[best]
    status[mended] = HIT
    label[mended] = truth.label[errors.object[mended]]
    return _ap50(matches, status, label, ~truth.crowd)


def _ap50(
    matches: Matches, status: np.ndarray, label: np.ndarray, counted: np.ndarray
) -> float | None:
    """Mean over the classes with objects; None without any."""
    values = []
    for k in range(matches.truth.classes):
        objects = int((counted & (matches.truth.label == k)).sum())
        if objects:
            rows = ranking(matches.found.score, label == k)
            outcomes = RankedOutcomes.of(status[None, rows])
            precision, _ = outcomes.curves(np.ones(len(rows), dtype=np.int64), objects)
            values.append(precision.mean())
    return float(np.mean(values)) if values else None

"""All boxes of a collection as one table: objects and detections, and what became of each."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.browse.suspicion import Suspicion, of_detections, of_objects
from pipeline.evaluate.coco_arrays import GroundTruth, Predictions
from pipeline.evaluate.coco_matching import HIT, IGNORED, MISS, above, match
from pipeline.evaluate.error_kinds import KINDS, find_errors
from pipeline.models.thresholds import OperatingPoint

# What a box is: an object of the ground truth (nothing to compare with, found, missed, a crowd),
# or a detection (nothing to compare with, right, on a crowd, or one of the kinds of mistake).
OBJECT, FOUND, MISSED, CROWD = "object", "found", "missed", "crowd"
DETECTION, RIGHT, UNCOUNTED = "detection", "right", "not counted"
MISTAKES = tuple(kind for kind in KINDS if kind != MISSED)
BOX_KINDS = (OBJECT, FOUND, MISSED, CROWD, DETECTION, RIGHT, UNCOUNTED, *MISTAKES)
NO_ANNOTATION = -1


@dataclass(frozen=True, slots=True)
class Split:
    """One COCO file and what was detected in its images.

    Attributes
    ----------
    name : str
    coco : dict
        As `pipeline.data.coco.load_coco` gives it.
    images : Path
        Folder that `file_name` is relative to.
    found : Predictions or None
        Detections of all scores; None where nobody looked.
    point : OperatingPoint
        From which score on detections count.
    labelled : bool
        Whether the annotations are a ground truth; if not, detections are all there is.
    """

    name: str
    coco: dict[str, Any]
    images: Path
    found: Predictions | None
    point: OperatingPoint
    labelled: bool = True


@dataclass(frozen=True, slots=True)
class BoxTable:
    """Boxes by image; inside an image objects come before detections.

    Attributes
    ----------
    image, label : array (n,), int64
        Places in the collection's images and classes.
    boxes : array (n, 4), float64
        x, y, width, height in pixels.
    area : array (n,), float64
        In square pixels.
    score : array (n,), float64
        Of detections; NaN for objects.
    kind : array (n,), int64
        Place in `BOX_KINDS`.
    loss, disagreement : array (n,), float64
        See `pipeline.browse.suspicion`; 0 where there is nothing to compare with.
    annotation : array (n,), int64
        Id of an object's annotation; `NO_ANNOTATION` for detections.
    """

    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    score: np.ndarray
    kind: np.ndarray
    loss: np.ndarray
    disagreement: np.ndarray
    annotation: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    @classmethod
    def joined(cls, parts: Sequence["BoxTable"]) -> "BoxTable":
        """One table of several."""
        order = np.argsort(np.concatenate([part.image for part in parts]), kind="stable")
        columns = (
            np.concatenate([getattr(part, field.name) for part in parts])[order]
            for field in fields(cls)
        )
        return cls(*columns)


def boxes_of(split: Split, classes: Sequence[str], before: int) -> list[BoxTable]:
    """Objects and detections of a split whose images begin at place `before`."""
    # In the order in which `GroundTruth` keeps them, so that annotation ids stay beside the boxes.
    rows = sorted(split.coco["annotations"], key=lambda a: (a["image_id"], a["category_id"]))
    truth = GroundTruth.of({**split.coco, "annotations": rows})
    places = np.array([classes.index(name) for _, name in truth.categories], dtype=np.int64)
    ids = np.array([row["id"] for row in rows], dtype=np.int64)
    if split.found is None:
        kinds = np.where(truth.crowd, _code(CROWD), _code(OBJECT))
        return [_objects(truth, places, before, kinds, _nothing(len(ids)), ids)]
    found, limits = split.found, np.array(list(split.point.lowest(truth.categories).values()))
    if not split.labelled:
        found = found.where(found.score >= limits[found.label])
        kinds = np.full(len(found), _code(DETECTION))
        return [_detections(found, places, before, kinds, _nothing(len(found)))]
    matches = above(match(truth, found), limits)
    errors = find_errors(matches)
    kinds = np.select([truth.crowd, errors.missed], [_code(CROWD), _code(MISSED)], _code(FOUND))
    objects = _objects(truth, places, before, kinds, of_objects(truth, found), ids)
    status = matches.status[0, 0]
    mistakes = np.array([_code(kind) for kind in KINDS])[errors.kind]
    kinds = np.select(
        [status == HIT, status == IGNORED], [_code(RIGHT), _code(UNCOUNTED)], mistakes
    )
    suspicion = of_detections(truth, matches.found, status == MISS)
    return [objects, _detections(matches.found, places, before, kinds, suspicion)]


def _code(kind: str) -> int:
    return BOX_KINDS.index(kind)


def _nothing(n: int) -> Suspicion:
    return Suspicion(np.zeros(n), np.zeros(n))


def _objects(
    truth: GroundTruth,
    places: np.ndarray,
    before: int,
    kinds: np.ndarray,
    suspicion: Suspicion,
    ids: np.ndarray,
) -> BoxTable:
    return BoxTable(
        truth.image + before,
        places[truth.label],
        truth.boxes,
        truth.area,
        np.full(len(ids), np.nan),
        kinds,
        suspicion.loss,
        suspicion.disagreement,
        ids,
    )


def _detections(
    found: Predictions, places: np.ndarray, before: int, kinds: np.ndarray, suspicion: Suspicion
) -> BoxTable:
    return BoxTable(
        found.image + before,
        places[found.label],
        found.boxes,
        found.boxes[:, 2] * found.boxes[:, 3],
        found.score,
        kinds,
        suspicion.loss,
        suspicion.disagreement,
        np.full(len(found), NO_ANNOTATION, dtype=np.int64),
    )

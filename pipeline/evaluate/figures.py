"""Everything that is known of one set of detections, each part computed once."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluate import curves
from pipeline.evaluate.error_kinds import Errors, find_errors
from pipeline.evaluate.intervals import Resampling, Units
from pipeline.evaluate.matching import Matches, above, match
from pipeline.evaluate.metrics import CocoScore, rounded
from pipeline.evaluate.resample import Weighted
from pipeline.evaluate.tables import Found, Truth
from pipeline.models.thresholds import OperatingPoint


def limits_of(point: OperatingPoint | None, truth: Truth) -> np.ndarray | None:
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
    found : Found
    point : OperatingPoint or None
    how : Resampling

    Attributes
    ----------
    matches : Matches
        Of all detections, at all IoU thresholds and area ranges.
    limits : array (K,) or None
        The lowest score of each class that counts at the operating point.
    score : CocoScore
    units : Units
    """

    def __init__(
        self,
        name: str,
        path: Path,
        coco: Mapping[str, Any],
        found: Found,
        point: OperatingPoint | None,
        how: Resampling,
    ) -> None:
        self.name, self.path, self.point, self.how = name, path, point, how
        self.images: Sequence[Mapping[str, Any]] = coco["images"]
        self.matches = match(Truth.of(coco), found)
        self.score = CocoScore(self.matches)
        self.limits = limits_of(point, self.matches.truth)
        self.units = Units.of(self.images)

    @cached_property
    def objects(self) -> int:
        """Objects that count."""
        return int((~self.matches.truth.crowd).sum())

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
        others = Weighted([self.matches], [self.limits]).figures(ones, ones)
        figures = self.score.summary()
        figures |= {name: rounded(v) for name, v in others.items() if name not in figures}
        figures["froc_score"] = self.froc.score() if self.froc else None
        figures["ece"] = self.calibration[1]
        figures["score_threshold"] = self.point.threshold if self.point else None
        return figures

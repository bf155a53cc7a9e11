"""How sure the figures are: bootstrap intervals.

Images of one patient resemble each other, so patients are drawn, not images, where they are
known. B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993: percentile intervals
(chapter 13).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.evaluate.coco_matching import Limit, Matches
from pipeline.evaluate.coco_metrics import rounded
from pipeline.evaluate.masks import FIGURES as MASK_FIGURES
from pipeline.evaluate.masks import PIXELS, MaskMetrics
from pipeline.evaluate.weighted import FIGURES, WeightedMetrics


@dataclass(frozen=True, slots=True)
class Resampling:
    """How often, from which seed, and how wide the interval is (0.95: 2.5 to 97.5 %)."""

    resamples: int = 1000
    seed: int = 0
    level: float = 0.95


DEFAULT = Resampling()


@dataclass(frozen=True, slots=True)
class Units:
    """What is drawn: patients, groups, slides or single images.

    Attributes
    ----------
    name : str
        "patient", "group" (our conversion: a patient where the dataset tells, else the original of
        edited copies), "slide" or "image".
    of_image : array (n,), int64
        Number of each image's unit, from 0.
    """

    name: str
    of_image: np.ndarray

    @classmethod
    def of(cls, images: Sequence[Mapping[str, Any]]) -> "Units":
        """From COCO image entries, in the order of their ids.

        ``group`` (what our conversion writes) or ``patient_id`` names the unit; an image without
        either is its own. Groups of tiles (``crop``) are slides.
        """
        names = [_unit(image) for image in sorted(images, key=lambda image: image["id"])]
        known = [image for image in images if _named(image) is not None]
        word = "group" if any("group" in image for image in known) else "patient"
        word = "slide" if any("crop" in image for image in known) else word
        _, numbers = np.unique(names, return_inverse=True)
        return cls(word if known else "image", numbers.reshape(-1))

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.of_image.max()) + 1 if len(self.of_image) else 0


def _named(image: Mapping[str, Any]) -> object:
    return image.get("group", image.get("patient_id"))


def _unit(image: Mapping[str, Any]) -> str:
    named = _named(image)
    return f"image {image['id']}" if named is None else f"unit {named}"


def intervals(
    matches: Matches, limit: Limit | None, units: Units, how: Resampling
) -> dict[str, list[float | None] | None]:
    """Percentile bootstrap interval of each of `FIGURES`; None where it has none."""
    weighted = WeightedMetrics([matches], [limit])
    drawn = [list(weighted.figures(w, w).values()) for w in draws(units, how)]
    ones = np.ones(len(units.of_image), dtype=np.int64)
    found = weighted.figures(ones, ones)
    spread = np.array(drawn).reshape(-1, len(FIGURES))
    return {
        name: None if np.isnan(found[name]) else percentiles(spread[:, i], how.level)
        for i, name in enumerate(FIGURES)
    }


def mask_intervals(
    masks: MaskMetrics, units: Units, how: Resampling
) -> dict[str, list[float | None] | None]:
    """The same of the figures of masks."""
    of_score = intervals(masks.score.matches, None, units, how)
    found = {f"mask_{name}": of_score[name] for name in MASK_FIGURES if name in of_score}
    spread = np.array([masks.means(weight) for weight in draws(units, how)]).reshape(-1, 2)
    return found | {name: percentiles(spread[:, i], how.level) for i, name in enumerate(PIXELS)}


def draws(units: Units, how: Resampling) -> Iterator[np.ndarray]:
    """Weights of the images in each resample; none where there is nothing to vary."""
    rng = np.random.default_rng(how.seed)
    for _ in range(how.resamples if units.count > 1 else 0):
        draw = rng.integers(0, units.count, units.count)
        yield np.bincount(draw, minlength=units.count)[units.of_image]


def percentiles(values: np.ndarray, level: float) -> list[float | None] | None:
    """Percentiles of the resamples in which the figure exists."""
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    tail = 50 * (1 - level)
    return [rounded(v) for v in np.percentile(known, [tail, 100 - tail])]

"""How sure the figures are: bootstrap intervals, and the comparison of two runs.

Images of one patient resemble each other, so patients are drawn, not images, where they are
known. B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993: percentile intervals
(chapter 13) and permutation tests (chapter 15).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.evaluate.matching import Limit, Matches
from pipeline.evaluate.metrics import rounded
from pipeline.evaluate.resample import FIGURES, Weighted

_EQUAL = 1e-12  # differences closer than this are rounding


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
    weighted = Weighted([matches], [limit])
    drawn = [list(weighted.figures(w, w).values()) for w in _draws(units, how)]
    ones = np.ones(len(units.of_image), dtype=np.int64)
    found = weighted.figures(ones, ones)
    spread = np.array(drawn).reshape(-1, len(FIGURES))
    return {
        name: None if np.isnan(found[name]) else _interval(spread[:, i], how.level)
        for i, name in enumerate(FIGURES)
    }


def _draws(units: Units, how: Resampling) -> Iterator[np.ndarray]:
    """Weights of the images in each resample; none where there is nothing to vary."""
    rng = np.random.default_rng(how.seed)
    for _ in range(how.resamples if units.count > 1 else 0):
        draw = rng.integers(0, units.count, units.count)
        yield np.bincount(draw, minlength=units.count)[units.of_image]


def _interval(values: np.ndarray, level: float) -> list[float | None] | None:
    """Percentiles of the resamples in which the figure exists."""
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    tail = 50 * (1 - level)
    return [rounded(v) for v in np.percentile(known, [tail, 100 - tail])]


def compare(
    runs: tuple[Matches, Matches],
    limits: tuple[Limit | None, Limit | None],
    units: Units,
    how: Resampling,
) -> dict[str, dict[str, float | None]]:
    """Two runs on the same images: each figure, the difference b - a, its interval and p-value.

    The interval is that of the difference in resamples common to both runs. The p-value is that
    of a permutation test: under the hypothesis that the runs are alike, the detections of any
    patient could as well be the other run's. Swapping them at random for each patient shows how
    large a difference chance makes; p is the share of swaps with a difference at least as large
    (two-sided, (1 + count) / (1 + swaps)).
    """
    weighted = Weighted(runs, limits)
    ones = np.ones(len(units.of_image), dtype=np.int64)
    none = np.zeros_like(ones)
    a, b = _both(weighted, ones, none, ones)
    drawn = [_difference(weighted, w, np.zeros_like(w), w) for w in _draws(units, how)]
    rng = np.random.default_rng((how.seed, 1))
    swaps = (rng.integers(0, 2, units.count)[units.of_image] for _ in range(how.resamples))
    swapped = [_difference(weighted, 1 - s, s, ones) for s in swaps]
    spread, chance = (np.array(v).reshape(-1, len(FIGURES)) for v in (drawn, swapped))
    return {
        name: _row(a[i], b[i], spread[:, i], chance[:, i], how.level)
        for i, name in enumerate(FIGURES)
    }


def _both(
    weighted: Weighted, own: np.ndarray, other: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Figures of two systems: of each image, `own` is the weight of its own run's detections."""
    one = weighted.figures(np.concatenate([own, other]), truth)
    two = weighted.figures(np.concatenate([other, own]), truth)
    return np.array(list(one.values())), np.array(list(two.values()))


def _difference(
    weighted: Weighted, own: np.ndarray, other: np.ndarray, truth: np.ndarray
) -> np.ndarray:
    one, two = _both(weighted, own, other, truth)
    return two - one


def _row(
    a: float, b: float, spread: np.ndarray, chance: np.ndarray, level: float
) -> dict[str, float | None]:
    difference = b - a
    low, high = _interval(spread, level) or (None, None)
    known = np.abs(chance[~np.isnan(chance)])
    p = (1 + (known >= abs(difference) - _EQUAL).sum()) / (1 + len(known)) if len(known) else None
    figures = {"a": a, "b": b, "difference": difference, "low": low, "high": high, "p": p}
    if np.isnan(difference):
        figures |= dict.fromkeys(("low", "high", "p"))
    return {name: rounded(value) for name, value in figures.items()}

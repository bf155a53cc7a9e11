"""Two runs on the same test set: is one better, or is it chance?

Intervals of differences are those of the bootstrap, p-values those of a permutation test: B. Efron
and R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 and 15.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.atomic import write_csv, write_json
from pipeline.data.coco import load_coco
from pipeline.errors import DescryError, first_line
from pipeline.evaluate.coco_arrays import GroundTruth
from pipeline.evaluate.coco_matching import Limit, Matches, match
from pipeline.evaluate.coco_metrics import rounded
from pipeline.evaluate.evaluation import limits_of
from pipeline.evaluate.intervals import DEFAULT, Resampling, Units, draws, percentiles
from pipeline.evaluate.run import read_found
from pipeline.evaluate.weighted import FIGURES, WeightedMetrics
from pipeline.models.thresholds import OperatingPoint

_EQUAL = 1e-12  # differences closer than this are rounding
COLUMNS = ("figure", "a", "b", "difference", "low", "high", "p")


def compare_runs(truth: Path, a: Path, b: Path, how: Resampling = DEFAULT) -> dict[str, Any]:
    """Compare two evaluated runs.

    Parameters
    ----------
    truth : Path
        The COCO file that both were evaluated on.
    a, b : Path
        Folders of `descry evaluate`, or COCO results (then without the figures that need an
        operating point).

    Raises
    ------
    DescryError
        When something is missing, or a run was evaluated on another ground truth.
    """
    coco = load_coco(truth)
    now = hashlib.sha256(truth.read_bytes()).hexdigest()
    points = [_operating_point(run, truth, now) for run in (a, b)]
    packed, units = GroundTruth.of(coco), Units.of(coco["images"])
    limits = (limits_of(points[0], packed), limits_of(points[1], packed))
    one, two = (match(packed, read_found(_results(run), coco)) for run in (a, b))
    return {
        "ground_truth": {
            "sha256": now,
            "images": packed.images,
            "objects": int((~packed.crowd).sum()),
        },
        "unit": units.name,
        "units": units.count,
        "resamples": how.resamples,
        "permutations": how.resamples,
        "level": how.level,
        "seed": how.seed,
        "thresholds": [point.threshold if point else None for point in points],
        "class_thresholds": [dict(point.by_class) if point else {} for point in points],
        "figures": compare_matches((one, two), limits, units, how),
    }


def compare_matches(
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
    weighted = WeightedMetrics(runs, limits)
    ones = np.ones(len(units.of_image), dtype=np.int64)
    none = np.zeros_like(ones)
    a, b = _both(weighted, ones, none, ones)
    drawn = [_difference(weighted, w, np.zeros_like(w), w) for w in draws(units, how)]
    rng = np.random.default_rng((how.seed, 1))
    swaps = (rng.integers(0, 2, units.count)[units.of_image] for _ in range(how.resamples))
    swapped = [_difference(weighted, 1 - s, s, ones) for s in swaps]
    spread, chance = (np.array(v).reshape(-1, len(FIGURES)) for v in (drawn, swapped))
    return {
        name: _row(a[i], b[i], spread[:, i], chance[:, i], how.level)
        for i, name in enumerate(FIGURES)
    }


def _both(
    weighted: WeightedMetrics, own: np.ndarray, other: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Figures of two systems: of each image, `own` is the weight of its own run's detections."""
    one = weighted.figures(np.concatenate([own, other]), truth)
    two = weighted.figures(np.concatenate([other, own]), truth)
    return np.array(list(one.values())), np.array(list(two.values()))


def _difference(
    weighted: WeightedMetrics, own: np.ndarray, other: np.ndarray, truth: np.ndarray
) -> np.ndarray:
    one, two = _both(weighted, own, other, truth)
    return two - one


def _row(
    a: float, b: float, spread: np.ndarray, chance: np.ndarray, level: float
) -> dict[str, float | None]:
    difference = b - a
    low, high = percentiles(spread, level) or (None, None)
    known = np.abs(chance[~np.isnan(chance)])
    p = (1 + (known >= abs(difference) - _EQUAL).sum()) / (1 + len(known)) if len(known) else None
    figures = {"a": a, "b": b, "difference": difference, "low": low, "high": high, "p": p}
    if np.isnan(difference):
        figures |= dict.fromkeys(("low", "high", "p"))
    return {name: rounded(value) for name, value in figures.items()}


def _results(run: Path) -> Path:
    return run / "predictions.json" if run.is_dir() else run


def _operating_point(run: Path, truth: Path, now: str) -> OperatingPoint | None:
    """Operating point of an evaluated folder, whose ground truth must be this one."""
    if not run.is_dir():
        return None
    details = _details(run)
    if details["ground_truth"]["sha256"] != now:
        raise DescryError(
            f"{run} was evaluated on another ground truth than {truth}: evaluate both runs on "
            "the same test split"
        )
    point = details["operating_point"]
    return None if point["threshold"] is None else OperatingPoint(**point)


def _details(run: Path) -> dict[str, Any]:
    path = run / "details.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["ground_truth"]["sha256"], content["operating_point"]["threshold"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DescryError(
            f"{path}: not readable ({first_line(error)}): give a folder of `descry evaluate NAME`"
        ) from None
    return content


def truth_of(run: Path, datasets: Path) -> Path:
    """The test split that an evaluated folder names.

    Raises
    ------
    DescryError
        When it is not one of our datasets: then the ground truth must be given.
    """
    name = str(_details(run)["ground_truth"]["name"]) if run.is_dir() else ""
    path = datasets / name / "coco/annotations/test.json"
    if not name or not path.is_file():
        raise DescryError(f"{run}: which ground truth it belongs to is not known here: give --gt")
    return path


def write_comparison(result: dict[str, Any], names: tuple[str, str], out: Path) -> None:
    """Write ``comparison.json`` and ``comparison.csv``; `names` are what a and b are called."""
    write_json(out / "comparison.json", {"a": names[0], "b": names[1], **result})
    rows = [
        [figure, *("" if row[c] is None else row[c] for c in COLUMNS[1:])]
        for figure, row in result["figures"].items()
    ]
    write_csv(out / "comparison.csv", COLUMNS, rows)


def as_text(result: dict[str, Any]) -> str:
    """A table for the console."""
    percent = f"{100 * result['level']:g} %"
    lines = [f"{'figure':<20}{'a':>10}{'b':>10}{'b - a':>10}   {percent + ' interval':<22}{'p':>7}"]
    for name, row in result["figures"].items():
        cells = {k: "n/a" if v is None else f"{v:.4f}" for k, v in row.items()}
        span = "n/a" if row["low"] is None else f"{cells['low']} to {cells['high']}"
        shown = f"{name:<20}{cells['a']:>10}{cells['b']:>10}{cells['difference']:>10}"
        lines.append(f"{shown}   {span:<22}{cells['p']:>7}")
    unit = result["unit"]
    lines.append(
        f"{result['resamples']} resamples and swaps of {result['units']} {unit}s, "
        f"seed {result['seed']}"
    )
    return "\n".join(lines)

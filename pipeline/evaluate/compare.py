"""Two runs on the same test set: is one better, or is it chance?"""

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.atomic import write_csv, write_json
from pipeline.data.coco import load_coco
from pipeline.errors import DescryError
from pipeline.evaluate.figures import limits_of
from pipeline.evaluate.foreign import read_found
from pipeline.evaluate.intervals import DEFAULT, Resampling, Units, compare
from pipeline.evaluate.matching import match
from pipeline.evaluate.tables import Truth
from pipeline.models.thresholds import OperatingPoint

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
    packed, units = Truth.of(coco), Units.of(coco["images"])
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
        "figures": compare((one, two), limits, units, how),
    }


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
            f"{path}: not readable ({error!r}): give a folder of `descry evaluate NAME`"
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

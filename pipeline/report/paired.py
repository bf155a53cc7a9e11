"""The paired comparison of two runs over the same test images."""

from pathlib import Path
from typing import Any

from pipeline.errors import DescryError


def paired(a: Path, b: Path, truth: Path) -> dict[str, Any] | str:
    """What `pipeline.evaluate.compare` finds, or the reason why it cannot be asked.

    Parameters
    ----------
    a, b : Path
        Evaluation folders of two runs on the same dataset.
    truth : Path
        The COCO file of the test split; it must be the one that both were evaluated on.
    """
    from pipeline.evaluate.compare import compare_runs  # only where two runs are compared

    for needed in (truth, a / "predictions.json", b / "predictions.json"):
        if not needed.is_file():
            return f"{needed} is not at hand"
    try:
        return compare_runs(truth, a, b)
    except DescryError as error:
        return str(error)


def paired_p(a: Path | None, b: Path | None, truth: Path) -> float | None:
    """p-value of the difference in AP between two evaluations; None where it cannot be had."""
    outcome = paired(a, b, truth) if a and b else "no predictions"
    return None if isinstance(outcome, str) else outcome["figures"]["AP"]["p"]

"""Two runs compared on one test split."""

from pathlib import Path
from typing import Any

from pipeline.config import Params
from pipeline.evaluate.compare import compare_runs, truth_of, write_comparison
from pipeline.evaluate.intervals import Resampling
from pipeline.stages import DATASETS


def compare(params: Params, a: Path, b: Path, gt: Path | None, out: Path | None) -> dict[str, Any]:
    """Compare two runs on one test split."""
    result = compare_runs(gt or truth_of(a, DATASETS), a, b, resampling(params))
    if out is not None:
        write_comparison(result, (str(a), str(b)), out)
    return result


def resampling(params: Params) -> Resampling:
    """How intervals are made."""
    chosen = params.evaluate
    return Resampling(chosen.resamples, chosen.seed, chosen.level)

"""Two runs compared on one test split."""

from pathlib import Path

from pipeline.config import Params
from pipeline.evaluate.compare import as_text, compare_runs, truth_of, write_comparison
from pipeline.evaluate.intervals import Resampling
from pipeline.stages import DATASETS


def compare(params: Params, a: Path, b: Path, gt: Path | None, out: Path | None) -> str:
    """Compare two runs on one test split; return a table."""
    result = compare_runs(gt or truth_of(a, DATASETS), a, b, resampling(params))
    if out is not None:
        write_comparison(result, (str(a), str(b)), out)
    return as_text(result)


def resampling(params: Params) -> Resampling:
    """How intervals are made."""
    chosen = params.evaluate
    return Resampling(chosen.resamples, chosen.seed, chosen.level)

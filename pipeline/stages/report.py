"""The pages of a folder of runs, or of several compared."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.config import Params
from pipeline.report.write import compare_folders, write_report
from pipeline.stages import DATASETS, RUNS


def report(params: Params, runs: Sequence[Path], out: Path | None, only: str) -> str:
    """Write the pages of a folder of runs, or compare several; return what the console shows."""
    if len(runs) > 1:
        written = compare_folders(runs, DATASETS, params.datasets, out or RUNS / "compare")
        return "".join(f"{path}\n" for path in written)
    folder = runs[0] if runs else RUNS
    return write_report(
        folder,
        DATASETS,
        params.datasets,
        out or folder / "report",
        only=only,
        sample=params.data.source == "sample",
    )

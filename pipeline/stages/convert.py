"""Raw files of one dataset to COCO JSON, images and a report."""

from dataclasses import asdict
from pathlib import Path

from pipeline.config import DatasetName, Params
from pipeline.convert import convert as run
from pipeline.convert import open_source
from pipeline.convert.engine.report import summary_line
from pipeline.data.intensity import Intensity
from pipeline.stages import DATASETS


def convert(params: Params, name: DatasetName, raw: Path | None, out: Path | None) -> str:
    """Convert one dataset; return the line for the console."""
    source = open_source(
        name,
        raw or DATASETS / name / params.data.source,
        getattr(params.convert, name),
        seed=params.data.seed,
        intensity=Intensity(**asdict(params.intensity)),
    )
    report = run(
        source,
        out or DATASETS / name / "coco",
        seed=params.data.seed,
        val_fraction=params.data.val_fraction,
        test_fraction=params.data.test_fraction,
        workers=max(params.machine.workers, 0),
        png_level=params.convert.png_level,
    )
    return summary_line(report)

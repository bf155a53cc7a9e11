"""Raw files of one dataset to COCO JSON, images and a report."""

from dataclasses import asdict
from pathlib import Path

from pipeline.config import DatasetName, Params
from pipeline.convert import convert as run
from pipeline.convert import open_source
from pipeline.convert.engine.report import summary_line
from pipeline.convert.export import FORMATS, write_yolo
from pipeline.data.intensity import Intensity
from pipeline.errors import DescryError
from pipeline.stages import DATASETS


def convert(
    params: Params, name: DatasetName, raw: Path | None, out: Path | None, to: str = ""
) -> str:
    """Convert one dataset, also into the form `to` if any; return the line for the console."""
    if to not in ("", *FORMATS):
        raise DescryError(f"--to {to}: must be one of {', '.join(FORMATS)}")
    coco = out or DATASETS / name / "coco"
    source = open_source(
        name,
        raw or DATASETS / name / params.data.source,
        getattr(params.convert, name),
        seed=params.data.seed,
        intensity=Intensity(**asdict(params.intensity)),
    )
    report = run(
        source,
        coco,
        seed=params.data.seed,
        val_fraction=params.data.val_fraction,
        test_fraction=params.data.test_fraction,
        workers=max(params.machine.workers, 0),
        png_level=params.convert.png_level,
    )
    if to:
        write_yolo(coco, coco.with_name(f"{coco.name}_{to}" if out else to))
    return summary_line(report)

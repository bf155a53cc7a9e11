"""A model run on a folder, or on what an archive holds."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import DescryError
from pipeline.models.exported import open_model
from pipeline.predict.batches import share_cores
from pipeline.predict.formats import DICOM
from pipeline.predict.options import Options
from pipeline.predict.run import predict_folder
from pipeline.predict.run import survey as run_survey
from pipeline.stages.machine import pick_device
from pipeline.work.progress import Progress

if TYPE_CHECKING:
    from pipeline.archive.transfer import Transfers


def predict(
    source: Path | None,
    out: Path,
    checkpoint: Path,
    options: Options,
    device: str,
    archives: "Transfers",
) -> tuple[dict[str, Any], int]:
    """Run a model on a folder, or on what an archive holds; return counts and the exit code."""
    chosen = pick_device(device)
    workers, described = share_cores(chosen, options.workers)
    options = replace(options, workers=workers)
    model = open_model(checkpoint, chosen)
    check_masks(model.spec.task, options)
    model.prepare(options.precision, compiled=options.compile, batch_size=options.batch_size)
    with Progress("predict", "files") as progress:
        summary = predict_folder(
            source or archives.fetch,
            out,
            model,
            options=options,
            device=described,
            send=archives.send if archives.target else None,
            progress=progress,
        )
    return summary.counts, summary.exit_code


def check_masks(task: str, options: Options) -> None:
    """Refuse DICOM objects of masks that a model of this task does not find."""
    for one in DICOM:
        if one.needs_masks and one.name in options.objects.kinds and task == "detect":
            raise DescryError(
                f"{one.option}: this model finds boxes without masks; give one that was trained "
                "with model.task=instances or semantic"
            )


def survey(source: Path, out: Path, checkpoint: Path, options: Options) -> Iterator[str]:
    """Say of each file whether `predict` would read it."""
    options = replace(options, workers=share_cores("cpu", options.workers)[0])
    for result in run_survey(source, out, open_model(checkpoint), options):
        reason = ": ".join(filter(None, (result.ended.kind, result.ended.message)))
        yield f"{result.ended.status}\t{result.path}\t{reason}".rstrip()

"""How good a model is on its test split, or anybody's detections on anybody's truth."""

from pathlib import Path
from typing import Any

from pipeline.config import DatasetName, Params
from pipeline.evaluate.run import evaluate as run
from pipeline.evaluate.run import evaluate_files as run_files
from pipeline.models.saved import SavedModel
from pipeline.stages import DATASETS, RUNS
from pipeline.stages.compare import resampling
from pipeline.stages.machine import loader_workers, pick_device


def evaluate(
    params: Params, name: DatasetName, coco: Path | None, checkpoint: Path | None, out: Path | None
) -> dict[str, Any]:
    """Evaluate one dataset's model on its test split; return the metrics."""
    device = pick_device(params.machine.device)
    checkpoint = checkpoint or RUNS / name / "train/model.safetensors"
    return run(
        SavedModel.load(checkpoint, device),
        coco or DATASETS / name / "coco",
        out or RUNS / name / "evaluate",
        RUNS / "metrics" if out is None else out,
        pictures=params.evaluate.pictures,
        gallery=params.evaluate.gallery,
        batch_size=params.scale.batch_size,
        workers=loader_workers(params, device),
        how=resampling(params),
    )


def evaluate_files(
    params: Params,
    gt: Path,
    predictions: Path,
    threshold: float | None,
    images: Path | None,
    out: Path | None,
) -> dict[str, Any]:
    """Evaluate anybody's detections; return the metrics."""
    return run_files(
        gt,
        predictions,
        out or Path("evaluation"),
        threshold=threshold,
        images=images,
        gallery=params.evaluate.gallery,
        how=resampling(params),
    )

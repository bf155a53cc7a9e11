"""How good a model is on its test split, or anybody's detections on anybody's truth."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pipeline.config import DatasetName, Params
from pipeline.evaluate.run import evaluate as run
from pipeline.evaluate.run import evaluate_files as run_files
from pipeline.models.ensemble import Ensemble
from pipeline.models.params import Selection
from pipeline.models.saved import SavedModel
from pipeline.stages import DATASETS, RUNS
from pipeline.stages.compare import resampling
from pipeline.stages.machine import loader_workers, pick_device


def evaluate(
    params: Params,
    name: DatasetName,
    coco: Path | None,
    checkpoints: Sequence[Path],
    out: Path | None,
) -> dict[str, Any]:
    """Evaluate one dataset's model, or several as one, on its test split; return the metrics."""
    device, chosen = pick_device(params.machine.device), params.evaluate
    models = [
        SavedModel.load(path, device)
        for path in checkpoints or [RUNS / name / "train/model.safetensors"]
    ]
    selection = Selection(**{f.name: getattr(chosen, f.name) for f in fields(Selection)})
    out, metrics = out or RUNS / name / "evaluate", RUNS / "metrics" if out is None else out
    return run(
        Ensemble(models, selection, chosen.suppression, chosen.tta),
        coco or DATASETS / name / "coco",
        out,
        metrics,
        pictures=chosen.pictures,
        gallery=chosen.gallery,
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
    out = out or Path("evaluation")
    return run_files(
        gt,
        predictions,
        out,
        threshold=threshold,
        images=images,
        gallery=params.evaluate.gallery,
        how=resampling(params),
    )

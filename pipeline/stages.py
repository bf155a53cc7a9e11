"""The assembly: what each stage of dvc.yaml does, from the parameters to plain function calls.

This is the only place besides `pipeline.config` that knows params.yaml. Heavy imports are inside
the functions, so that a mistake in the parameters shows before anything is loaded.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import DatasetName, Params
from pipeline.errors import DescryError

if TYPE_CHECKING:
    from pipeline.models.build import DetectorSpec
    from pipeline.predict.options import Options

DATASETS = Path("datasets")
RUNS = Path("runs")
# DICOM modalities that look like a dataset's images (PS3.3 C.7.3.1.1.1); none: not radiology
MODALITIES = {"nih": ("CR", "DX"), "rsna": ("CR", "DX"), "brain_tumor": ("MR",)}


def convert(params: Params, name: DatasetName, raw: Path | None, out: Path | None) -> str:
    """Convert one dataset; return the line for the console."""
    from pipeline.convert import convert as run
    from pipeline.convert import open_source
    from pipeline.convert.engine.report import summary_line

    settings = asdict(getattr(params.convert, name))
    if name == "nih":
        settings["seed"] = params.data.seed  # which negatives are drawn
    source = open_source(name, raw or DATASETS / name / params.data.source, **settings)
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


def train(params: Params, name: DatasetName, coco: Path | None, out: Path | None) -> Path:
    """Train on one converted dataset; return the model file."""
    from pipeline.data.intensity import Intensity
    from pipeline.evaluate.metrics import CocoScore, operating_point
    from pipeline.train.module import Optimisation
    from pipeline.train.run import Judge, Settings
    from pipeline.train.run import train as run

    recipe, chosen = params.scale, params.train
    device = pick_device(params.machine.device)
    settings = Settings(
        dataset=name,
        image_size=recipe.image_size,
        modality=MODALITIES.get(name, ()),
        intensity=Intensity(**asdict(params.intensity)),
        epochs=getattr(recipe.epochs, name),
        batch_size=recipe.batch_size,
        optimisation=Optimisation(
            lr=chosen.lr * recipe.batch_size / chosen.lr_batch,
            weight_decay=chosen.weight_decay,
            warmup=chosen.warmup,
            final_lr=chosen.final_lr,
        ),
        clip_norm=chosen.clip_norm,
        flip=chosen.flip,
        seed=chosen.seed,
        precision=chosen.precision,
        deterministic=chosen.deterministic,
        device=device,
        workers=loader_workers(params, device),
    )
    coco, out = coco or DATASETS / name / "coco", out or RUNS / name / "train"
    judge = Judge(lambda truth, rows: CocoScore.of(truth, rows).summary(), operating_point)
    run(coco, out, detector_spec(params, coco), settings, judge)
    return out / "model.pt"


def detector_spec(params: Params, coco: Path) -> "DetectorSpec":
    """The detector that the parameters ask for, with the classes of a converted dataset."""
    from pipeline.data.coco import load_coco
    from pipeline.models.build import DetectorSpec

    model, recipe = params.model, params.scale
    return DetectorSpec(
        backbone=model.backbone,
        size=recipe.size,
        num_classes=len(load_coco(coco / "annotations/train.json")["categories"]),
        fpn_channels=recipe.fpn_channels,
        anchor_scale=recipe.anchor_scale,
        score_threshold=params.evaluate.score_threshold,
        nms_threshold=params.evaluate.nms_threshold,
        max_detections=params.evaluate.max_detections,
        pool_layers=model.pool_layers,
        concepts=model.concepts,
        placement=model.placement,
        pool_stride=model.pool_stride,
        copies=model.copies,
        width=model.width,
        drop_path=model.drop_path,
    )


def evaluate(
    params: Params, name: DatasetName, coco: Path | None, checkpoint: Path | None, out: Path | None
) -> dict[str, Any]:
    """Evaluate one dataset's model on its test split; return the metrics."""
    from pipeline.evaluate.run import evaluate as run
    from pipeline.models.saved import SavedModel

    device = pick_device(params.machine.device)
    checkpoint = checkpoint or RUNS / name / "train/model.pt"
    return run(
        SavedModel.load(checkpoint, device),
        coco or DATASETS / name / "coco",
        out or RUNS / name / "evaluate",
        RUNS / "metrics" if out is None else out,
        pictures=params.evaluate.pictures,
        batch_size=params.scale.batch_size,
        workers=loader_workers(params, device),
    )


def predict(
    source: Path, out: Path, checkpoint: Path, options: "Options", device: str
) -> tuple[dict[str, Any], int]:
    """Run a model on a folder; return the counts of files and the exit code."""
    from pipeline.models.saved import SavedModel
    from pipeline.predict.run import predict_folder

    chosen = pick_device(device)
    model = SavedModel.load(checkpoint, chosen)
    with progress_bar("files") as progress:
        summary = predict_folder(
            source, out, model, options=options, device=chosen, progress=progress
        )
    return summary.counts, summary.exit_code


@contextmanager
def progress_bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A function (done, total) that draws a bar with the time left; only on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), unit, TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(unit, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def survey(source: Path, out: Path, checkpoint: Path, options: "Options") -> Iterator[str]:
    """Say of each file whether `predict` would read it."""
    from pipeline.models.saved import SavedModel
    from pipeline.predict.run import survey as run

    for result in run(source, out, SavedModel.load(checkpoint), options):
        yield f"{result.ended.status}\t{result.path}\t{result.ended.message}".rstrip()


def report(params: Params, runs: Path) -> str:
    """Write the table of all evaluated datasets; return it as text."""
    from pipeline.report.table import write_table

    return write_table(runs / "metrics", params.datasets, runs / "report")


def pick_device(wanted: str) -> str:
    """The device in words that torch understands.

    Raises
    ------
    DescryError
        When a GPU is asked for and there is none.
    """
    import torch

    if wanted not in ("auto", "cpu", "cuda"):
        raise DescryError(f"device {wanted!r}: must be one of auto, cpu, cuda")
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise DescryError("device cuda: torch sees no GPU here; use auto or cpu")
    return wanted


def loader_workers(params: Params, device: str) -> int:
    """Loader processes: as asked; by default one per core for a GPU, none beside CPU training."""
    import os

    if params.machine.workers >= 0:
        return params.machine.workers
    return 0 if device == "cpu" else os.cpu_count() or 1

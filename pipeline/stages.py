"""The assembly: what each stage of dvc.yaml does, from the parameters to plain function calls.

With `pipeline.grid` this is the only place besides `pipeline.config` that knows params.yaml. Heavy
imports are inside the functions, so that a mistake in the parameters shows before anything is
loaded.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.config import DatasetName, Params
from pipeline.errors import DescryError

if TYPE_CHECKING:
    from pipeline.archive.transfer import Transfers
    from pipeline.data.cache import CachePlan
    from pipeline.data.intensity import Intensity
    from pipeline.evaluate.intervals import Resampling
    from pipeline.models.build import DetectorSpec
    from pipeline.predict.options import Options
    from pipeline.train.settings import Machine, Settings

DATASETS = Path("datasets")
RUNS = Path("runs")


def convert(params: Params, name: DatasetName, raw: Path | None, out: Path | None) -> str:
    """Convert one dataset; return the line for the console."""
    from pipeline.convert import convert as run
    from pipeline.convert import open_source
    from pipeline.convert.engine.report import summary_line

    settings = asdict(getattr(params.convert, name))
    if name == "nih":
        settings["seed"] = params.data.seed  # which negatives are drawn
    elif name not in ("cod10k", "brain_tumor"):  # these have no DICOM
        settings["intensity"] = intensity(params)
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


def intensity(params: Params) -> "Intensity":
    """From stored values to 8 bits, for what is converted, trained on and looked at alike."""
    from pipeline.data.intensity import Intensity

    return Intensity(**asdict(params.intensity))


def train(params: Params, name: DatasetName, coco: Path | None, out: Path | None) -> Path:
    """Train on one converted dataset; return the model file."""
    from pipeline.evaluate.metrics import CocoScore, operating_point
    from pipeline.train.processes import find_processes
    from pipeline.train.run import train as run
    from pipeline.train.settings import Judge

    device = pick_device(params.machine.device)
    coco, out = coco or DATASETS / name / "coco", out or RUNS / name / "train"
    spec, settings = detector_spec(params, coco), train_settings(params, name)
    judge = Judge(lambda truth, rows: CocoScore.of(truth, rows).summary(), operating_point)
    machine = train_machine(params, device)
    with progress_bar("steps", find_processes(machine.devices).rank == 0) as progress:
        run(coco, out, spec, settings, judge, machine, progress)
    return out / "model.pt"


def train_settings(params: Params, name: DatasetName) -> "Settings":
    """What decides over a training run's result."""
    from pipeline.train.schedule import Optimisation
    from pipeline.train.settings import Settings

    recipe, chosen = params.scale, params.train
    optimisation = {part.name: getattr(chosen, part.name) for part in fields(Optimisation)}
    return Settings(
        dataset=name,
        modality=getattr(params.modality, name),
        image_size=recipe.image_size,
        train_sizes=recipe.train_sizes,
        intensity=intensity(params),
        epochs=getattr(recipe.epochs, name),
        batch_size=recipe.batch_size,
        optimisation=Optimisation(**optimisation),
        augment=getattr(params.augment, name),
        seed=chosen.seed,
        accumulate=chosen.accumulate,
        ema=chosen.ema,
        keep=chosen.keep,
        precision=chosen.precision,
        deterministic=chosen.deterministic,
        compiler="inductor" if chosen.compile else "",
        channels_last=chosen.channels_last,
        gradient_checkpointing=chosen.gradient_checkpointing,
    )


def train_machine(params: Params, device: str) -> "Machine":
    """Where and how comfortably a training run is computed."""
    from pipeline.train.settings import Machine

    chosen = params.machine
    return Machine(
        device=device,
        devices=chosen.devices,
        workers=loader_workers(params, device),
        cache=picture_cache(params, device),
        scratch=lasting(chosen.scratch),
        checkpoint_minutes=chosen.checkpoint_minutes,
        track=chosen.track,
    )


def detector_spec(params: Params, coco: Path) -> "DetectorSpec":
    """The detector that the parameters ask for, with the classes of a converted dataset."""
    from pipeline.data.coco import load_coco

    return spec_of(params, len(load_coco(coco / "annotations/train.json")["categories"]))


def spec_of(params: Params, num_classes: int) -> "DetectorSpec":
    """The detector that the parameters ask for."""
    from pipeline.models.build import DetectorSpec

    model, recipe = params.model, params.scale
    return DetectorSpec(
        backbone=model.backbone,
        size=recipe.size,
        num_classes=num_classes,
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
    from pipeline.evaluate.foreign import evaluate_files as run

    return run(
        gt,
        predictions,
        out or Path("evaluation"),
        threshold=threshold,
        images=images,
        gallery=params.evaluate.gallery,
        how=resampling(params),
    )


def compare(params: Params, a: Path, b: Path, gt: Path | None, out: Path | None) -> str:
    """Compare two runs on one test split; return a table."""
    from pipeline.evaluate.compare import as_text, compare_runs, truth_of, write_comparison

    result = compare_runs(gt or truth_of(a, DATASETS), a, b, resampling(params))
    if out is not None:
        write_comparison(result, (str(a), str(b)), out)
    return as_text(result)


def resampling(params: Params) -> "Resampling":
    """How intervals are made."""
    from pipeline.evaluate.intervals import Resampling

    chosen = params.evaluate
    return Resampling(chosen.resamples, chosen.seed, chosen.level)


def predict(
    source: Path | None,
    out: Path,
    checkpoint: Path,
    options: "Options",
    device: str,
    archives: "Transfers",
) -> tuple[dict[str, Any], int]:
    """Run a model on a folder, or on what an archive holds; return counts and the exit code."""
    from pipeline.models.saved import SavedModel
    from pipeline.predict.cores import share_cores
    from pipeline.predict.run import predict_folder

    chosen = pick_device(device)
    workers, described = share_cores(chosen, options.workers)
    options = replace(options, workers=workers)
    model = SavedModel.load(checkpoint, chosen)
    model.prepare(options.precision, compiled=options.compile, batch_size=options.batch_size)
    with progress_bar("files") as progress:
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


@contextmanager
def progress_bar(unit: str, active: bool = True) -> Iterator["ProgressBar"]:
    """A function (done, total, note) that draws a bar with the time left; only on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    seen = active and sys.stderr.isatty()  # rich would also draw where FORCE_COLOR is set
    note = TextColumn("{task.fields[note]}")
    columns = (BarColumn(), MofNCompleteColumn(), unit, TimeLeft(), note)
    with Progress(*columns, console=Console(stderr=True), disable=not seen) as bar:
        task = bar.add_task(unit, total=None, note="")

        def draw(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield draw


class ProgressBar(Protocol):
    """What draws how far a command is."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show what is done of all, and a few words."""


def survey(source: Path, out: Path, checkpoint: Path, options: "Options") -> Iterator[str]:
    """Say of each file whether `predict` would read it."""
    from pipeline.models.saved import SavedModel
    from pipeline.predict.cores import share_cores
    from pipeline.predict.run import survey as run

    options = replace(options, workers=share_cores("cpu", options.workers)[0])
    for result in run(source, out, SavedModel.load(checkpoint), options):
        reason = ": ".join(filter(None, (result.ended.kind, result.ended.message)))
        yield f"{result.ended.status}\t{result.path}\t{reason}".rstrip()


def report(params: Params, runs: Sequence[Path], out: Path | None, only: str) -> str:
    """Write the pages of a folder of runs, or compare several; return what the console shows."""
    from pipeline.report.write import compare_folders, write_report

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
    if params.machine.workers >= 0:
        return params.machine.workers
    return 0 if device == "cpu" else os.cpu_count() or 1


def picture_cache(params: Params, device: str) -> "CachePlan | None":
    """Where decoded training images are kept: as asked; by default only where a GPU waits."""
    from pipeline.data.cache import CachePlan

    chosen = params.machine
    if chosen.cache == "none" or (chosen.cache == "auto" and device == "cpu"):
        return None
    own = lasting(chosen.scratch) / "pictures"
    return CachePlan(own if chosen.cache == "auto" else lasting(chosen.cache), chosen.cache_gib)


def lasting(folder: str) -> Path:
    """A folder of `machine`, where it outlives the copy of the repository that this may run in.

    ``dvc queue`` and ``dvc exp run --temp`` run their stages in copies that they remove, and name
    the repository itself in DVC_ROOT; so a relative path counts from there.
    """
    return Path(os.environ.get("DVC_ROOT", ""), folder)

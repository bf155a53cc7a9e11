"""A training run from a converted dataset to a saved model: the assembly."""

import logging
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from math import ceil
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy

from pipeline.atomic import replacing, write_json
from pipeline.config import Train
from pipeline.data.index import CocoIndex
from pipeline.data.loader import LoaderPlan, ResumableLoader, epoch_batches, training_loader
from pipeline.errors import DescryError
from pipeline.models.build import build_detector
from pipeline.models.detector import Detector
from pipeline.models.heads.coverage import coverage
from pipeline.models.init import ANEW, Source, fill, read_source
from pipeline.models.params import DetectorSpec
from pipeline.models.saved import SavedModel
from pipeline.train.callback import Shown, TrainingCallback
from pipeline.train.checkpoint import RunFolder, data_digest, identity
from pipeline.train.guards import (
    check_precision,
    naming_a_full_disk,
    naming_knobs,
    naming_the_disk,
)
from pipeline.train.loggers import Tracked, tracking
from pipeline.train.module import Steps, TrainingModule
from pipeline.train.optimisation import moving_average
from pipeline.train.processes import EndsAtOnce, Processes, find_processes, slurm
from pipeline.train.progress import Progress
from pipeline.train.settings import Evaluator, Machine, Settings
from pipeline.train.validation import Validator, describe

log = logging.getLogger(__name__)
PATIENCE = timedelta(hours=6)  # of processes that wait while the first one validates


def train(
    coco: Path,
    out: Path,
    spec: DetectorSpec,
    settings: Settings,
    evaluator: Evaluator,
    machine: Machine,
    shown: Shown = lambda done, total, note: None,
) -> None:
    """Train from random or given weights, or go on with the same run where it was interrupted.

    Writes ``model.safetensors``, ``last.safetensors``, ``best.safetensors``, ``history.csv``,
    ``about.json`` and ``timing.csv`` into `out`. All but the last are the same bytes however often
    the run was interrupted.

    Parameters
    ----------
    coco : Path
        A converted dataset: ``annotations/{train,val}.json`` and ``images/``.
    spec : DetectorSpec
        `num_classes` must fit the dataset's categories.
    shown : callable
        Hears of every step, for a progress bar.
    """
    settle()
    sides = settings.train_sizes or (settings.image_size,)
    check_precision(settings.train.precision, machine.device, min(sides))
    masks = spec.task != "detect"
    training = CocoIndex(coco / "annotations/train.json", coco / "images", masks=masks)
    validation = CocoIndex(coco / "annotations/val.json", coco / "images")
    if len(training) == 0:
        raise DescryError(f"{training.path}: no training images; see {coco / 'report.json'}")
    training.check_masks(spec.task)
    processes = find_processes(machine.devices)
    data = data_digest([training, validation])
    init = settings.train.init
    source = read_source(Path(init), spec.backbone) if init else None
    spec = source.adapt(spec) if source else spec
    given = _parameters(spec, settings, machine, processes)
    name = identity(given | ({"init": source.sha256} if source else {}), data)
    folder = RunFolder(machine.scratch, name)
    with naming_the_disk(out), folder.claimed(out, processes.rank):
        state = folder.load()
        progress = _progress(state, processes.rank)
        loader, steps = _loader(training, settings, machine, processes, progress)
        about = describe(settings, training, data, steps, machine.device, processes.world)
        about["initialised_from"] = source.about() if source else ANEW
        classes = [label for _, label in training.categories]
        detector = _detector(spec, settings, processes.rank, source, classes)
        about["training_boxes"] = coverage(detector.head, training, settings.image_size)
        validator = Validator(detector, spec, about, validation, evaluator, settings.batch_size)
        callback = TrainingCallback(progress, state, loader, validator, folder, out)
        callback.minutes, callback.shown = machine.checkpoint_minutes, shown
        dump = folder.path / f"not_finite-{processes.rank}.json"
        compiler = settings.compiler if settings.train.compile else ""
        module = TrainingModule(detector, settings.train, steps, dump, compiler)
        watched = machine.track if processes.rank == 0 else ()
        tracked = Tracked(settings.dataset, about, out, machine.scratch / "tracking")
        with naming_knobs(_knobs(settings)), tracking(watched, tracked) as callback.log_row:
            _fit(module, loader, callback, settings.train, machine, processes)
        if processes.rank == 0:
            _finish(folder, progress, settings.train.keep, out)
            log.info("%.1f%% of the time waited for data", 100 * callback.timer.waiting_share())


def settle() -> None:
    """What must be so before torch starts to work."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # must precede CUDA's start
    # Strict mode also fills every new tensor, to make reads of unset memory repeatable. Nothing
    # here reads unset memory, and the filling costs a fifth of a training step on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # importing it set INFO


def _detector(
    spec: DetectorSpec,
    settings: Settings,
    rank: int,
    source: Source | None,
    classes: Sequence[str],
) -> Detector:
    """Freshly drawn or given weights, the same in all processes; what they draw later differs."""
    seed = settings.train.seed
    L.seed_everything(seed, verbose=False)
    detector = build_detector(spec, checkpointing=settings.train.gradient_checkpointing)
    if source is not None:
        report = fill(detector, spec, source, classes)
        if rank == 0:
            log.info("%s (%s): %s", source.name, source.layout, report.text())
    if settings.train.channels_last:
        detector = detector.to(memory_format=torch.channels_last)
    if rank:
        L.seed_everything(seed + rank, verbose=False)
    return detector


def _parameters(
    spec: DetectorSpec, settings: Settings, machine: Machine, processes: Processes
) -> dict[str, Any]:
    """All that decides over a run's bits, besides data and code."""
    on_gpu = machine.device == "cuda"
    where = torch.cuda.get_device_name() if on_gpu else f"cpu, {torch.get_num_threads()} threads"
    given = {"detector": asdict(spec), "settings": asdict(settings)}
    return given | {"device": where, "processes": processes.world}


def _progress(state: dict[str, Any] | None, rank: int) -> Progress:
    if state is None:
        return Progress()
    progress = Progress(**state["progress"])
    progress.sums = state["sums"][rank]
    log.info("goes on after %d epochs and %d batches", progress.epoch, progress.batch)
    return progress


def loader_plan(
    settings: Settings, machine: Machine, processes: Processes, progress: Progress
) -> LoaderPlan:
    """How the batches that are left of a run are made."""
    chosen = settings.train
    return LoaderPlan(
        image_size=settings.image_size,
        intensity=settings.intensity,
        augment=settings.augment,
        seed=chosen.seed,
        strength=chosen.augment_strength,
        mosaic=chosen.mosaic,
        oversample=chosen.oversample,
        batch_size=settings.batch_size,
        sizes=settings.train_sizes,
        workers=machine.workers,
        cache=machine.cache,
        rank=processes.rank,
        world_size=processes.world,
        first_epoch=progress.epoch,
        skip_batches=progress.batch,
        pin_memory=machine.device == "cuda",
    )


def _loader(
    training: CocoIndex,
    settings: Settings,
    machine: Machine,
    processes: Processes,
    progress: Progress,
) -> tuple[ResumableLoader, Steps]:
    """The batches that are left, and the arithmetic of the whole run."""
    chosen = settings.train
    plan = loader_plan(settings, machine, processes, progress)
    epoch, accumulate = epoch_batches(training, plan), chosen.accumulate
    batches = len(epoch) // accumulate * accumulate
    if batches == 0:
        raise DescryError(
            f"train.accumulate = {accumulate}: an epoch of {training.path} has only "
            f"{len(epoch)} batches; lower it or batch_size"
        )
    images = epoch.batch_size * processes.world * accumulate
    epochs = max(settings.epochs, ceil(chosen.steps * accumulate / batches))
    if chosen.weak_epochs:
        plan = replace(plan, weak_from=epochs - round(chosen.weak_epochs * epochs))
    loader = training_loader(training, plan)
    left = ResumableLoader(loader, batches, epochs, progress.epoch, progress.batch)
    return left, Steps(images, batches, accumulate, epochs)


def _fit(
    module: TrainingModule,
    loader: ResumableLoader,
    callback: TrainingCallback,
    train: Train,
    machine: Machine,
    processes: Processes,
) -> None:
    if train.ema:
        callback.average = moving_average(train.ema)
    trainer = L.Trainer(
        max_epochs=1,  # of a loader that holds them all
        accelerator={"cuda": "gpu"}.get(machine.device, machine.device),
        devices=processes.devices,
        num_nodes=processes.nodes,
        strategy=DDPStrategy(timeout=PATIENCE) if processes.world > 1 else "auto",
        precision="bf16-mixed" if train.precision == "bf16" else "32-true",
        accumulate_grad_batches=train.accumulate,
        gradient_clip_val=train.clip_norm,
        deterministic=train.deterministic,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        # the average first: it must have seen a step before that step is counted
        callbacks=[each for each in (callback.average, callback, EndsAtOnce()) if each],
        plugins=slurm(),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own affair
        try:
            trainer.fit(module, loader)
        except SystemExit as end:  # Lightning's answer to Ctrl-C, which ours is for the caller
            if isinstance(end.__context__, KeyboardInterrupt):
                raise end.__context__ from None
            raise


def _knobs(settings: Settings) -> dict[str, Any]:
    """What decides over memory."""
    return {
        "batch_size": settings.batch_size,
        "train.accumulate": settings.train.accumulate,
        "train.precision": settings.train.precision,
        "train.gradient_checkpointing": settings.train.gradient_checkpointing,
        "image_size": max(settings.train_sizes, default=settings.image_size),
    }


def _finish(folder: RunFolder, progress: Progress, keep: str, out: Path) -> None:
    """Hand the models over and forget the run."""
    found = {"last": folder.last, "best": folder.best(progress.best["epoch"])}
    for name, source in {**found, "model": found[keep]}.items():
        _copy(source, out / f"{name}.safetensors")
    model = SavedModel.load(out / "model.safetensors")
    write_json(out / "about.json", model.meta | {"detector": asdict(model.spec)})
    folder.remove()


def _copy(source: Path, target: Path) -> None:
    with (
        naming_a_full_disk(target, source.stat().st_size),
        replacing(target, "wb") as stream,
        source.open("rb") as original,
    ):
        shutil.copyfileobj(original, stream)

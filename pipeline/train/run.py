"""A training run from a converted dataset to a saved model: the assembly."""

import logging
import os
import shutil
import warnings
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy

from pipeline.atomic import replacing, write_json
from pipeline.data.index import CocoIndex
from pipeline.data.loader import LoaderPlan, training_loader
from pipeline.errors import DescryError
from pipeline.models.build import build_detector
from pipeline.models.detector import Detector
from pipeline.models.params import DetectorSpec
from pipeline.models.saved import SavedModel
from pipeline.train.about import describe
from pipeline.train.averaging import moving_average
from pipeline.train.bookkeeping import Bookkeeper, Shown
from pipeline.train.feed import Feed
from pipeline.train.guards import check_precision, naming_knobs
from pipeline.train.identity import data_digest, identity
from pipeline.train.live import live_log
from pipeline.train.module import Steps, TrainingModule
from pipeline.train.processes import EndsAtOnce, Processes, find_processes, slurm
from pipeline.train.progress import Progress
from pipeline.train.scratch import Scratch, naming_a_full_disk
from pipeline.train.settings import Judge, Machine, Settings
from pipeline.train.validation import Validation

log = logging.getLogger(__name__)
PATIENCE = timedelta(hours=6)  # of processes that wait while the first one validates


def train(
    coco: Path,
    out: Path,
    spec: DetectorSpec,
    settings: Settings,
    judge: Judge,
    machine: Machine,
    shown: Shown = lambda done, total, note: None,
) -> None:
    """Train from scratch, or go on with the same run where it was interrupted.

    Writes ``model.pt``, ``last.pt``, ``best.pt``, ``history.csv``, ``about.json`` and
    ``timing.csv`` into `out`. All but the last are the same bytes however often the run was
    interrupted.

    Parameters
    ----------
    coco : Path
        A converted dataset: ``annotations/{train,val}.json`` and ``images/``.
    spec : DetectorSpec
        `num_classes` must fit the dataset's categories.
    shown : callable
        Hears of every step, for a progress bar.
    """
    _settle()
    sides = settings.train_sizes or (settings.image_size,)
    check_precision(settings.precision, machine.device, min(sides))
    training = CocoIndex(coco / "annotations/train.json", coco / "images")
    validation = CocoIndex(coco / "annotations/val.json", coco / "images")
    if len(training) == 0:
        raise DescryError(f"{training.path}: no training images; see {coco / 'report.json'}")
    who = find_processes(machine.devices)
    data = data_digest([training, validation])
    scratch = Scratch(machine.scratch, identity(_parameters(spec, settings, machine, who), data))
    with scratch.claimed(who.rank):
        state = scratch.load()
        progress = _progress(state, who.rank)
        feed, steps = _feed(training, settings, machine, who, progress)
        about = describe(settings, training, data, steps, machine.device, who.world)
        detector = _detector(spec, settings, who.rank)
        judged = Validation(detector, spec, about, validation, judge, settings.batch_size)
        books = Bookkeeper(progress, state, feed, judged, scratch, out)
        books.minutes, books.shown = machine.checkpoint_minutes, shown
        dump = scratch.folder / f"not_finite-{who.rank}.json"
        module = TrainingModule(detector, settings.optimisation, steps, dump, settings.compiler)
        watched = machine.track and who.rank == 0
        with naming_knobs(_knobs(settings)), live_log(out / "live", watched) as books.log_row:
            _fit(module, feed, books, settings, machine, who)
        if who.rank == 0:
            _finish(scratch, progress, settings.keep, out)
            log.info("%.1f%% of the time waited for data", 100 * books.watch.waiting_share())


def _settle() -> None:
    """What must be so before torch starts to work."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # must precede CUDA's start
    # Strict mode also fills every new tensor, to make reads of unset memory repeatable. Nothing
    # here reads unset memory, and the filling costs a fifth of a training step on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # importing it set INFO


def _detector(spec: DetectorSpec, settings: Settings, rank: int) -> Detector:
    """Freshly drawn weights, the same in all processes; what they draw later differs."""
    L.seed_everything(settings.seed, verbose=False)
    detector = build_detector(spec, checkpointing=settings.gradient_checkpointing)
    if settings.channels_last:
        detector = detector.to(memory_format=torch.channels_last)
    if rank:
        L.seed_everything(settings.seed + rank, verbose=False)
    return detector


def _parameters(
    spec: DetectorSpec, settings: Settings, machine: Machine, who: Processes
) -> dict[str, Any]:
    """All that decides over a run's bits, besides data and code."""
    on_gpu = machine.device == "cuda"
    where = torch.cuda.get_device_name() if on_gpu else f"cpu, {torch.get_num_threads()} threads"
    given = {"detector": asdict(spec), "settings": asdict(settings)}
    return given | {"device": where, "processes": who.world}


def _progress(state: dict[str, Any] | None, rank: int) -> Progress:
    if state is None:
        return Progress()
    progress = Progress(**state["progress"])
    progress.sums = state["sums"][rank]
    log.info("goes on after %d epochs and %d batches", progress.epoch, progress.batch)
    return progress


def _feed(
    training: CocoIndex, settings: Settings, machine: Machine, who: Processes, progress: Progress
) -> tuple[Feed, Steps]:
    """The batches that are left, and the arithmetic of the whole run."""
    plan = LoaderPlan(
        image_size=settings.image_size,
        intensity=settings.intensity,
        augment=settings.augment,
        seed=settings.seed,
        batch_size=settings.batch_size,
        sizes=settings.train_sizes,
        workers=machine.workers,
        cache=machine.cache,
        rank=who.rank,
        world_size=who.world,
        first_epoch=progress.epoch,
        skip_batches=progress.batch,
        pin_memory=machine.device == "cuda",
    )
    loader = training_loader(training, plan)
    batches = len(loader) // settings.accumulate * settings.accumulate
    if batches == 0:
        raise DescryError(
            f"train.accumulate = {settings.accumulate}: an epoch of {training.path} has only "
            f"{len(loader)} batches; lower it or batch_size"
        )
    images = loader.batch_sampler.batch_size * who.world * settings.accumulate  # type: ignore[union-attr]
    feed = Feed(loader, batches, settings.epochs, progress.epoch, progress.batch)
    return feed, Steps(images, batches, settings.accumulate, settings.epochs)


def _fit(
    module: TrainingModule,
    feed: Feed,
    books: Bookkeeper,
    settings: Settings,
    machine: Machine,
    who: Processes,
) -> None:
    if settings.ema:
        books.average = moving_average(settings.ema)
    trainer = L.Trainer(
        max_epochs=1,  # of a feed that holds them all
        accelerator={"cuda": "gpu"}.get(machine.device, machine.device),
        devices=who.devices,
        num_nodes=who.nodes,
        strategy=DDPStrategy(timeout=PATIENCE) if who.world > 1 else "auto",
        precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
        accumulate_grad_batches=settings.accumulate,
        gradient_clip_val=settings.optimisation.clip_norm,
        deterministic=settings.deterministic,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        # the average first: it must have seen a step before the books are kept of it
        callbacks=[callback for callback in (books.average, books, EndsAtOnce()) if callback],
        plugins=slurm(),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own affair
        trainer.fit(module, feed)


def _knobs(settings: Settings) -> dict[str, Any]:
    """What decides over memory."""
    return {
        "batch_size": settings.batch_size,
        "train.accumulate": settings.accumulate,
        "train.precision": settings.precision,
        "train.gradient_checkpointing": settings.gradient_checkpointing,
        "image_size": max(settings.train_sizes, default=settings.image_size),
    }


def _finish(scratch: Scratch, progress: Progress, keep: str, out: Path) -> None:
    """Hand the models over and forget the run."""
    found = {"last": scratch.last, "best": scratch.best(progress.best["epoch"])}
    for name, source in {**found, "model": found[keep]}.items():
        _copy(source, out / f"{name}.pt")
    model = SavedModel.load(out / "model.pt")
    write_json(out / "about.json", model.meta | {"detector": asdict(model.spec)})
    scratch.remove()


def _copy(source: Path, target: Path) -> None:
    with (
        naming_a_full_disk(target, source.stat().st_size),
        replacing(target, "wb") as stream,
        source.open("rb") as original,
    ):
        shutil.copyfileobj(original, stream)

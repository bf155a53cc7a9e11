"""What goes on around the steps: counting, closing epochs, validating, writing checkpoints."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging

from pipeline.data.loader import ResumableLoader
from pipeline.errors import DescryError
from pipeline.train.checkpoint import RunFolder, random_states, restore_random_states
from pipeline.train.module import TrainingModule
from pipeline.train.optimisation import averaged
from pipeline.train.processes import any_process, gathered
from pipeline.train.progress import (
    EpochTimer,
    Progress,
    epoch_line,
    history_row,
    write_history,
    write_timing,
)
from pipeline.train.validation import Validator, save_model

log = logging.getLogger(__name__)
VALIDATIONS = 5  # about so many times a run looks at the validation split


class Shown(Protocol):
    """Draws how far a run is: steps done, steps in all, and a few words."""

    def __call__(self, done: int, total: int, note: str) -> None:
        """Draw."""


class TrainingCallback(L.Callback):
    """Counts, validates and saves; the first process alone writes.

    Parameters
    ----------
    progress : Progress
        Where the run begins.
    state : dict or None
        The checkpoint it goes on from.
    loader, validator, folder
        The run's batches, how it is validated, where checkpoints go.
    out : Path
        Where the history goes.

    Attributes
    ----------
    average : WeightAveraging or None
        A callback that comes before this one.
    minutes : float
        Between two checkpoints.
    shown : callable
        Draws a progress bar.
    log_row : callable
        Hears of every epoch's row of the history.
    """

    def __init__(
        self,
        progress: Progress,
        state: dict[str, Any] | None,
        loader: ResumableLoader,
        validator: Validator,
        folder: RunFolder,
        out: Path,
    ) -> None:
        self.progress, self.state = progress, state
        self.validator, self.folder, self.out = validator, folder, out
        self.average: WeightAveraging | None = None
        self.minutes = 5.0
        self.shown: Shown = lambda done, total, note: None
        self.log_row: Callable[[dict[str, Any]], None] = lambda row: None
        self.timer = EpochTimer(progress, loader)
        self.saved = perf_counter()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put everything back as it was; random generators last."""
        assert isinstance(pl_module, TrainingModule)
        here = (self.progress.epoch, self.progress.batch)
        if len(set(gathered(here))) > 1:
            raise DescryError(
                f"{self.folder.path}: the processes found different checkpoints; "
                "machine.scratch must be a folder that all machines share"
            )
        for row in self.progress.rows if trainer.is_global_zero else ():
            self.log_row(row)
        self.timer.start()
        self.saved = perf_counter()
        if self.state is None:
            return
        pl_module.load_state_dict(self.state["state_dict"])
        trainer.optimizers[0].load_state_dict(self.state["optimizer"])
        pl_module.schedule.load_state_dict(self.state["schedule"])
        if self.average is not None:
            self.average.on_load_checkpoint(trainer, pl_module, self.state)
        restore_random_states(self.state["random"][trainer.global_rank])
        self.state = None  # frees its memory

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count; after a whole step, close the epoch or write a checkpoint if it is time."""
        assert isinstance(pl_module, TrainingModule)
        self.progress.count(outputs["parts"])
        if self.progress.batch % pl_module.steps.accumulate:
            return
        if trainer.is_global_zero:
            self._show(pl_module, outputs["parts"]["loss"])
        if self.progress.batch == pl_module.steps.batches:
            self._end_epoch(trainer, pl_module)
        done = self.progress.epoch == pl_module.steps.epochs
        due = trainer.is_global_zero and perf_counter() - self.saved >= 60 * self.minutes
        if not done and any_process(due, pl_module.device):
            self._save(trainer, pl_module)

    def _show(self, module: TrainingModule, loss: float) -> None:
        epoch = f"epoch {self.progress.epoch + 1}/{module.steps.epochs}"
        waiting = f"{self.timer.waiting_share():.0%} of the time waiting for data"
        self.shown(module.step, module.steps.total, f"{epoch}, loss {loss:.3f}, {waiting}")

    def _end_epoch(self, trainer: L.Trainer, module: TrainingModule) -> None:
        progress, steps = self.progress, module.steps
        means = _mean(gathered(progress.means()))
        epoch = progress.epoch + 1
        scores: dict[str, Any] = {}
        if epoch % max(1, steps.epochs // VALIDATIONS) == 0 or epoch == steps.epochs:
            start = perf_counter()
            if trainer.is_global_zero:
                scores = self._validate(trainer, module, epoch)
            trainer.strategy.barrier()
            self.timer.add("validation", perf_counter() - start)
        progress.rows.append(history_row(epoch, means, module.lr, scores))
        self.timer.close(steps.images * steps.batches // steps.accumulate)
        progress.next_epoch()
        if trainer.is_global_zero:
            write_history(self.out, progress.rows)
            write_timing(self.out, progress.timing)
            self.log_row(progress.rows[-1])
            log.info("%s", epoch_line(progress.rows[-1], steps.epochs))

    def _validate(self, trainer: L.Trainer, module: TrainingModule, epoch: int) -> dict[str, Any]:
        """Scores; the model is kept if it is the best so far or the last."""
        with averaged(self.average, trainer, module):
            model = self.validator.model(epoch)
            scores: dict[str, Any] = model.meta["validation"]
            if self.progress.is_best(scores.get("AP")):
                self.progress.best = {"epoch": epoch, "AP": scores.get("AP")}
                save_model(model, self.folder.best(epoch))
            if epoch == module.steps.epochs:
                save_model(model, self.folder.last)
        return scores

    def _save(self, trainer: L.Trainer, module: TrainingModule) -> None:
        """Write a checkpoint, which holds what each process has of its own."""
        start = perf_counter()
        self.timer.take()
        own = gathered({"sums": self.progress.sums, "random": random_states()})
        if trainer.is_global_zero:
            state: dict[str, Any] = {
                "progress": self.progress.plain(),
                "sums": [each["sums"] for each in own],
                "random": [each["random"] for each in own],
                "state_dict": module.state_dict(),
                "optimizer": trainer.optimizers[0].state_dict(),
                "schedule": module.schedule.state_dict(),
            }
            if self.average is not None:
                self.average.on_save_checkpoint(trainer, module, state)
            self.folder.save(state)
        self.saved = perf_counter()
        self.timer.add("checkpoints", self.saved - start)


def _mean(means: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean over processes, whose batches are equally large."""
    return {name: sum(each[name] for each in means) / len(means) for name in means[0]}

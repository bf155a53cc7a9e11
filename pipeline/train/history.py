"""What a training run looked like, epoch by epoch, as a table that DVC can plot."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L

from pipeline.atomic import write_csv
from pipeline.train.module import TrainingModule

log = logging.getLogger(__name__)
COLUMNS = ("epoch", "loss", "classification", "box", "lr", "val_AP", "val_AP50")


class History(L.Callback):
    """Writes one row an epoch to a CSV; now and then it asks for the validation AP.

    Parameters
    ----------
    path : Path
        The CSV; written anew after each epoch.
    validate : callable
        Gives {"AP": ..., "AP50": ...} of the model as it is.
    every : int
        Epochs between two validations; the last epoch is always validated.
    """

    def __init__(self, path: Path, validate: Callable[[], dict], every: int) -> None:
        self.path, self.validate, self.every = path, validate, every
        self.rows: list[list[object]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect the epoch's figures; the first process alone writes."""
        if not trainer.is_global_zero or not isinstance(pl_module, TrainingModule):
            return
        epoch = trainer.current_epoch + 1
        due = epoch % self.every == 0 or epoch == trainer.max_epochs
        scores = self._validated(pl_module) if due else {}
        seen: dict[str, Any] = {
            name: round(float(value), 6) for name, value in trainer.callback_metrics.items()
        }
        seen |= {"epoch": epoch, "lr": f"{trainer.optimizers[0].param_groups[0]['lr']:.3e}"}
        seen |= {f"val_{name}": scores.get(name) for name in ("AP", "AP50")}
        self.rows.append([seen.get(name, "") for name in COLUMNS])
        write_csv(self.path, COLUMNS, [["" if v is None else v for v in row] for row in self.rows])
        log.info("epoch %d of %s: %s", epoch, trainer.max_epochs, _words(seen))

    def _validated(self, module: TrainingModule) -> dict:
        module.detector.eval()
        scores = self.validate()
        module.detector.train()
        return scores


def _words(seen: dict) -> str:
    shown = {name: seen[name] for name in COLUMNS[1:] if seen.get(name) not in (None, "")}
    return ", ".join(f"{name} {value}" for name, value in shown.items())

"""Trackers for those who want to watch: the rows of the history as they come.

None is imported before it is asked for, and none asks the network unless its own environment
variables say so.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import DescryError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

Row = dict[str, Any]
LogRow = Callable[[Row], None]


@dataclass(frozen=True, slots=True)
class Tracked:
    """A run as its trackers know it.

    Attributes
    ----------
    dataset : str
    about : mapping
        What about.json says of it.
    out : Path
        Its output; DVCLive's files are part of it, as equal runs give equal ones.
    scratch : Path
        The other trackers write times and names of their own below it.
    """

    dataset: str
    about: Mapping[str, Any]
    out: Path
    scratch: Path


@contextmanager
def tracking(names: Sequence[str], run: Tracked) -> Iterator[LogRow]:
    """A function that takes a row of the history; without names it does nothing.

    A run that goes on hears of the earlier rows again: DVCLive's files are then the same, and the
    other trackers have a second run.

    Raises
    ------
    DescryError
        When a tracker is not installed.
    """
    with ExitStack() as stack:
        logs = [stack.enter_context(TRACKERS[name](run)) for name in names]

        def log_row(row: Row) -> None:
            for log in logs:
                log(row)

        yield log_row


@contextmanager
def _dvclive(run: Tracked) -> Iterator[LogRow]:
    """dvc.yaml declares metrics and plots, and DVC runs the stage: only DVCLive's own files."""
    from dvclive import Live

    with Live(str(run.out / "live"), dvcyaml=None, save_dvc_exp=False) as live:

        def log_row(row: Row) -> None:
            live.step = row["epoch"]
            for name, value in _figures(row).items():
                live.log_metric(name, value)
            live.make_summary()

        yield log_row


def _tensorboard(run: Tracked) -> "Logger":
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(run.scratch / "tensorboard", name=run.dataset)


def _mlflow(run: Tracked) -> "Logger":
    from lightning.pytorch.loggers import MLFlowLogger

    folder = run.scratch.resolve()
    address = os.environ.get("MLFLOW_TRACKING_URI")
    if address:
        return MLFlowLogger(run.dataset, tracking_uri=address)
    folder.mkdir(parents=True, exist_ok=True)
    artifacts = (folder / "mlflow").as_uri()
    address = f"sqlite:///{folder / 'mlflow.db'}"
    return MLFlowLogger(run.dataset, tracking_uri=address, artifact_location=artifacts)


def _wandb(run: Tracked) -> "Logger":
    from lightning.pytorch.loggers import WandbLogger

    run.scratch.mkdir(parents=True, exist_ok=True)
    offline = os.environ.get("WANDB_MODE", "offline") == "offline"
    return WandbLogger(save_dir=run.scratch, project=run.dataset, offline=offline)


def _of_lightning(name: str, make: Callable[[Tracked], "Logger"]) -> Callable[[Tracked], Any]:
    """A tracker behind one of Lightning's loggers."""

    @contextmanager
    def opened(run: Tracked) -> Iterator[LogRow]:
        try:
            logger = make(run)
        except ModuleNotFoundError as error:
            raise DescryError(
                f"machine.track={name}: not installed ({error}); pip install 'descry[trackers]', "
                "and wandb by itself"
            ) from None
        logger.log_hyperparams(dict(run.about))
        status = "failed"
        try:
            yield lambda row: logger.log_metrics(_figures(row), step=row["epoch"])
            status = "success"
        finally:
            logger.finalize(status)

    return opened


def _figures(row: Row) -> dict[str, float]:
    """What of a row is a figure and there."""
    return {k: float(v) for k, v in row.items() if k != "epoch" and v is not None}


TRACKERS: dict[str, Callable[[Tracked], Any]] = {
    "dvclive": _dvclive,
    "tensorboard": _of_lightning("tensorboard", _tensorboard),
    "mlflow": _of_lightning("mlflow", _mlflow),
    "wandb": _of_lightning("wandb", _wandb),
}

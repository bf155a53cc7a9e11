"""How far a run is, what it has seen, where the time went: all but weights that it goes on with."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from pipeline.atomic import write_csv
from pipeline.data.loader import ResumableLoader

SCORES = ("AP", "AP50")  # of the validation split that stand in the history
MASK_SCORES = ("mask_AP", "dice")  # and these, where masks are learned
TIMES = ("seconds", "waiting", "validation", "checkpoints")


@dataclass(slots=True)
class Progress:
    """Position and figures of a run; plain values only.

    Attributes
    ----------
    epoch, batch : int
        Finished epochs, and finished batches of the next one.
    sums : dict
        Loss parts, summed over this epoch's batches of this process.
    rows : list of dict
        History of the finished epochs.
    timing : list of dict
        Seconds of the finished epochs.
    spent : dict
        Seconds of this epoch so far, by kind.
    best : dict
        Epoch and AP of the best validation so far; empty before the first.
    """

    epoch: int = 0
    batch: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    timing: list[dict[str, Any]] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)

    def count(self, parts: Mapping[str, float]) -> None:
        """One more batch with these losses."""
        self.batch += 1
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Loss parts, as the mean of this epoch's batches of this process."""
        return {name: total / self.batch for name, total in self.sums.items()}

    def next_epoch(self) -> None:
        """Close the epoch."""
        self.epoch, self.batch, self.sums, self.spent = self.epoch + 1, 0, {}, {}

    def is_best(self, ap: float | None) -> bool:
        """Whether a validation AP is the best so far; of equal ones the later counts."""
        before = self.best.get("AP")
        return ap is None or before is None or ap >= before

    def plain(self) -> dict[str, Any]:
        """As a dictionary of plain values, for a checkpoint."""
        return asdict(self)


class EpochTimer:
    """Enters seconds into a run's progress.

    "seconds" is the whole time; "waiting" for batches, "validation" and "checkpoints" are parts
    of it.
    """

    def __init__(self, progress: Progress, loader: ResumableLoader) -> None:
        self.progress, self.loader = progress, loader
        self.start()

    def start(self) -> None:
        """Count from now on."""
        self.last, self.loader.waited = perf_counter(), 0.0

    def add(self, kind: str, seconds: float) -> None:
        """Enter seconds of one kind."""
        self.progress.spent[kind] = self.progress.spent.get(kind, 0.0) + seconds

    def take(self) -> None:
        """Enter what has passed since the last call."""
        self.add("seconds", perf_counter() - self.last)
        self.add("waiting", self.loader.waited)
        self.start()

    def close(self, images: int) -> None:
        """Close the epoch's account; so many images were trained on."""
        self.take()
        spent = {kind: round(self.progress.spent.get(kind, 0.0), 3) for kind in TIMES}
        row = {"epoch": self.progress.epoch + 1, **spent, "images": images}
        self.progress.timing.append(row)

    def waiting_share(self) -> float:
        """Share of the training time so far, without validation, that waited for data.

        On a GPU this is an upper bound of its idle time: it may still be at work on the last step.
        """
        self.take()
        accounts = [*self.progress.timing, self.progress.spent]
        total = {kind: sum(account.get(kind, 0.0) for account in accounts) for kind in TIMES}
        training = total["seconds"] - total["validation"] - total["checkpoints"]
        return total["waiting"] / max(training, 1e-9)


def history_row(
    epoch: int, means: Mapping[str, float], lr: float, scores: Mapping[str, float | None]
) -> dict[str, Any]:
    """One epoch's figures, whatever parts the loss has; a figure that does not exist is None."""
    losses = {name: round(value, 6) for name, value in means.items()}
    masks = MASK_SCORES if {"mask", "dice"} & means.keys() else ()
    validation = {f"val_{name}": scores.get(name) for name in (*SCORES, *masks)}
    return {"epoch": epoch, **losses, "lr": f"{lr:.3e}", **validation}


def write_history(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``history.csv``: equal runs give equal bytes."""
    _write(out / "history.csv", rows)


def write_timing(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``timing.csv``: seconds an epoch took, waited for data, and so on."""
    _write(out / "timing.csv", rows)


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    cells = [["" if value is None else value for value in row.values()] for row in rows]
    write_csv(path, list(rows[0]), cells)


def epoch_line(row: Mapping[str, Any], epochs: int) -> str:
    """An epoch's figures for the console."""
    figures = [f"{name} {value}" for name, value in row.items() if value is not None]
    return f"epoch {row['epoch']} of {epochs}: {', '.join(figures[1:])}"

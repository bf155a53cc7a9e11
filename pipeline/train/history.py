"""What a training run looked like, epoch by epoch, as tables that DVC can plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.atomic import write_csv

COLUMNS = ("epoch", "loss", "classification", "box", "lr", "val_AP", "val_AP50")
TIMING = ("epoch", "seconds", "waiting", "validation", "checkpoints", "images")


def history_row(
    epoch: int, means: Mapping[str, float], lr: float, scores: Mapping[str, float | None]
) -> dict[str, Any]:
    """One epoch's figures; a validation figure that does not exist is None."""
    row: dict[str, Any] = {name: round(value, 6) for name, value in means.items()}
    row |= {"epoch": epoch, "lr": f"{lr:.3e}"}
    return row | {f"val_{name}": scores.get(name) for name in ("AP", "AP50")}


def write_history(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``history.csv``: equal runs give equal bytes."""
    _write(out / "history.csv", COLUMNS, rows)


def write_timing(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``timing.csv``: seconds an epoch took, waited for data, and so on."""
    _write(out / "timing.csv", TIMING, rows)


def _write(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    cells = [["" if row.get(name) is None else row[name] for name in columns] for row in rows]
    write_csv(path, columns, cells)


def epoch_line(row: Mapping[str, Any], epochs: int) -> str:
    """An epoch's figures for the console."""
    shown = {name: row[name] for name in COLUMNS[1:] if row.get(name) is not None}
    words = ", ".join(f"{name} {value}" for name, value in shown.items())
    return f"epoch {row['epoch']} of {epochs}: {words}"

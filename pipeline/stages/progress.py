"""How far a command is."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft


class ProgressBar(Protocol):
    """What draws how far a command is."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show what is done of all, and a few words."""


@contextmanager
def progress_bar(unit: str, active: bool = True) -> Iterator[ProgressBar]:
    """A function (done, total, note) that draws a bar with the time left; only on a terminal."""
    seen = active and sys.stderr.isatty()  # rich would also draw where FORCE_COLOR is set
    note = TextColumn("{task.fields[note]}")
    columns = (BarColumn(), MofNCompleteColumn(), unit, TimeLeft(), note)
    with Progress(*columns, console=Console(stderr=True), disable=not seen) as bar:
        task = bar.add_task(unit, total=None, note="")

        def draw(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield draw

"""How far a command is: a bar on a terminal, else a line of the log now and then."""

import logging
import sys
import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.progress import TimeRemainingColumn as TimeLeft

_SECONDS = 30.0  # between two lines of the log: pipes and CI get few
log = logging.getLogger(__name__)


class Progress:
    """Counts units of work and shows them with the time left; a context manager.

    Parameters
    ----------
    what : str
        The command, in a word or two.
    unit : str
        What is counted: "files", "steps", ...
    total : int
        How many there are; `__call__` may tell another number.
    shown : bool
        Without it nothing is shown.
    """

    def __init__(self, what: str, unit: str, total: int = 0, shown: bool = True) -> None:
        self.what, self.unit, self.total, self.done = what, unit, total, 0
        on_terminal = shown and sys.stderr.isatty()  # rich would also draw where FORCE_COLOR is set
        self._logs = shown and not on_terminal
        note = TextColumn("{task.fields[note]}")
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
        console = Console(stderr=True)
        self._bar = Bar(*columns, TimeLeft(), note, console=console, disable=not on_terminal)
        self._task = self._bar.add_task(what, total=total or None, note="")
        self._began: tuple[float, int] | None = None  # when, and how much was done before
        self._next = time.monotonic() + _SECONDS

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show what is done of all, and a few words."""
        self.done, self.total = done, total
        if self._began is None:
            self._began = time.monotonic(), done
        if self._logs and time.monotonic() >= self._next:
            words = (f"{self.what}: {done} of {total} {self.unit}", self._time_left(), note)
            log.info("%s", ", ".join(filter(None, words)))
            self._next = time.monotonic() + _SECONDS
        self._bar.update(self._task, completed=done, total=total, note=note)

    def advance(self) -> None:
        """Count one more."""
        self(self.done + 1, self.total)

    def _time_left(self) -> str:
        """In words; nothing before there is a pace."""
        began, before = self._began or (0.0, self.done)
        if self.done == before:
            return ""
        pace = (time.monotonic() - began) / (self.done - before)
        return f"about {timedelta(seconds=round(pace * (self.total - self.done)))} left"

"""How far a conversion is: a bar on a terminal, else a line of the log now and then."""

import logging
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

_SECONDS = 30.0  # between two lines of the log
log = logging.getLogger(__name__)


class Progress:
    """Counts images up to `total`; a context manager.

    Parameters
    ----------
    shown : bool
        Without it nothing is shown.
    """

    def __init__(self, name: str, total: int, shown: bool) -> None:
        self.name, self.total, self.shown, self.done = name, total, shown, 0
        self._next = time.monotonic() + _SECONDS
        self._bar: Bar | None = None
        if shown and sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            console = Console(stderr=True)
            self._bar = Bar(*columns, TimeRemainingColumn(), console=console)
            self._task = self._bar.add_task(f"convert {name}", total=total)

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self) -> None:
        """Count one more image."""
        self.done += 1
        if self._bar:
            self._bar.advance(self._task)
        elif self.shown and time.monotonic() >= self._next:
            log.info("convert %s: %d of %d images", self.name, self.done, self.total)
            self._next = time.monotonic() + _SECONDS

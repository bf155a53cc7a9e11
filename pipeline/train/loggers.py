"""DVCLive, for those who want to watch: the history's figures as they come."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def live_log(folder: Path, active: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that takes a row of the history; without `active` it does nothing.

    dvc.yaml declares metrics and plots already, and DVC runs the stage, so DVCLive only writes
    its own files. A run that goes on hears of the earlier rows again, so the files are the same.
    """
    if not active:
        yield lambda row: None
        return
    from dvclive import Live

    with Live(str(folder), dvcyaml=None, save_dvc_exp=False) as live:

        def log_row(row: dict[str, Any]) -> None:
            live.step = row["epoch"]
            for name, value in row.items():
                if name != "epoch" and value is not None:
                    live.log_metric(name, float(value))
            live.make_summary()

        yield log_row

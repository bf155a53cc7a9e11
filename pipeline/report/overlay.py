"""Curves of several runs in one drawing."""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from markupsafe import Markup

from pipeline.html.chart import Series, chart, charts
from pipeline.report.run import Row, Run, numbers


def overlay(runs: Mapping[str, Run], about: str = "") -> Markup:
    """FROC, F1, validation AP and training loss of runs beside each other.

    Parameters
    ----------
    runs : mapping
        Runs by the name that the legend shows.
    about : str
        Put before the titles, which must differ on a page.
    """

    def drawn(
        title: str, rows: Callable[[Run], list[Row]], x: str, y: str, **options: Any
    ) -> Markup:
        series = [_series(name, rows(run), x, y) for name, run in runs.items()]
        kept = [one for one in series if any(map(isfinite, one.y))]
        labels = (x.replace("fp_per_image", "false positives per image"), options.pop("label", y))
        return chart(about + title, kept, *labels, **options) if kept else Markup("")

    return charts(
        (
            drawn("FROC", _froc, "fp_per_image", "sensitivity", unit_y=True, log_x=True),
            drawn("F1 by score threshold", _pooled, "threshold", "f1", label="F1", unit_x=True),
            drawn("Validation AP", Run.history, "epoch", "val_AP", label="AP", whole_x=True),
            drawn("Training loss", Run.history, "epoch", "loss", whole_x=True),
        )
    )


def _froc(run: Run) -> list[Row]:
    """Without the origin, which a logarithmic axis does not have."""
    return [row for row in run.rows("froc.csv") if float(row["fp_per_image"]) > 0]


def _pooled(run: Run) -> list[Row]:
    return [row for row in run.rows("f1_confidence.csv") if row["class"] == "all"]


def _series(name: str, rows: list[Row], x: str, y: str) -> Series:
    return Series(name, list(numbers(rows, x)), list(numbers(rows, y)))

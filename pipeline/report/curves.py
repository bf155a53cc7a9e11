"""The curves of one run or of several in one drawing, FROC figures and the confusion matrix."""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from markupsafe import Markup

from pipeline.html.chart import Series, chart, charts
from pipeline.html.parts import joined, paragraph, table
from pipeline.report.run import Row, Run, numbers
from pipeline.report.words import counted, figure


def curves(run: Run) -> Markup:
    """Precision and recall, F1, FROC, ROC and calibration, and the confusion matrix."""
    drawn = [_precision_recall(run), _f1(run), _froc(run), _roc(run), _calibration(run)]
    absent = [
        paragraph(f"Not drawn: {name}: {why}.", "note")
        for name, why in sorted(run.details["not_available"].items())
    ]
    return joined(charts(one for one in drawn if one), _froc_table(run), _confusion(run), *absent)


def _precision_recall(run: Run) -> Markup | None:
    rows = run.rows("precision_recall.csv")
    return _per_class("Precision and recall", rows, "recall", "precision", note="IoU 0.5.")


def _f1(run: Run) -> Markup | None:
    note = "At each score threshold, IoU 0.5."
    return _per_class(
        "F1 by score threshold", run.rows("f1_confidence.csv"), "threshold", "f1", note=note
    )


def _per_class(title: str, rows: list[Row], x: str, y: str, note: str) -> Markup | None:
    series = [
        _series(name, _of(rows, name), x, y) for name in dict.fromkeys(r["class"] for r in rows)
    ]
    if not series:
        return None
    return chart(title, series, x, y.replace("f1", "F1"), note=note, unit_x=True, unit_y=True)


def _series(name: str, rows: list[Row], x: str, y: str) -> Series:
    return Series(name, list(numbers(rows, x)), list(numbers(rows, y)))


def _of(rows: list[Row], name: str) -> list[Row]:
    return [row for row in rows if row["class"] == name]


def _froc(run: Run) -> Markup | None:
    rows = _froc_rows(run)
    if not rows:
        return None
    series = _series("", rows, "fp_per_image", "sensitivity")
    return chart(
        "FROC",
        [series],
        "false positives per image",
        "sensitivity",
        note="Objects found against false alarms, IoU 0.5.",
        unit_y=True,
        log_x=True,
    )


def _froc_table(run: Run) -> Markup:
    points = run.details["froc"]["points"]
    rows = [
        [
            f"{point['fp_per_image']:g}",
            figure(point["sensitivity"]),
            figure(point["threshold"]),
        ]
        for point in points
    ]
    header = ["false positives per image", "sensitivity", "score threshold"]
    note = f"Mean sensitivity of the seven: {figure(run.details['froc']['score'])}."
    return table("FROC: sensitivity at given false positives per image", header, rows, note)


def _roc(run: Run) -> Markup | None:
    rows = run.rows("roc.csv")
    if not rows:
        return None
    level = run.details["image_level"]
    point = None
    if level["sensitivity"] is not None and level["specificity"] is not None:
        point = (1 - level["specificity"], level["sensitivity"])
    lowest = set(run.details["operating_point"].get("by_class", {}).values())
    beside = "; each class has its own score, so it may lie beside the curve"
    beside = beside if len(lowest) > 1 else ""
    return chart(
        "ROC of whole images",
        [_series("", rows, "false_positive_rate", "true_positive_rate")],
        "1 - specificity",
        "sensitivity",
        note=f"AUC {figure(level['auc'])}; {counted(level['positives'], 'image')} with objects, "
        f"{level['negatives']} without. Ring: the operating point{beside}.",
        unit_x=True,
        unit_y=True,
        diagonal=True,
        point=point,
    )


def _calibration(run: Run) -> Markup | None:
    rows = [row for row in run.rows("calibration.csv") if int(row["count"])]
    if not rows:
        return None
    about = run.details["calibration"]
    return chart(
        "Calibration of the scores",
        [_series("", rows, "mean_score", "precision")],
        "mean score",
        "share that is right",
        note=f"Expected calibration error {figure(about['ece'])} over "
        f"{counted(about['detections'], 'detection')}. Dashed: as a probability would be.",
        unit_x=True,
        unit_y=True,
        diagonal=True,
        markers=True,
    )


def _confusion(run: Run) -> Markup:
    rows = run.rows("confusion.csv")
    if not rows:
        return Markup("")
    names = list(dict.fromkeys(row["true"] for row in rows))
    count = {(row["true"], row["predicted"]): int(row["count"]) for row in rows}
    lines = []
    for name in names:
        total = sum(count.get((name, other), 0) for other in names)
        cells = [_shaded(count.get((name, other)), total) for other in names]
        lines.append([name, *cells])
    return table(
        "Confusion at the operating point: rows are the truth, columns what was found",
        ["true", *names],
        lines,
        "background: a row of false alarms, a column of misses. The stronger the shade, the larger "
        "its share of the row.",
    )


def _shaded(count: int | None, total: int) -> Markup:
    if count is None:
        return Markup("")
    share = count / total if total else 0.0
    return Markup('<span class="shade" style="--share: {}">{}</span>').format(
        f"{share:.2f}", figure(count)
    )


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
            drawn("FROC", _froc_rows, "fp_per_image", "sensitivity", unit_y=True, log_x=True),
            drawn("F1 by score threshold", _pooled, "threshold", "f1", label="F1", unit_x=True),
            drawn("Validation AP", Run.history, "epoch", "val_AP", label="AP", whole_x=True),
            drawn("Training loss", Run.history, "epoch", "loss", whole_x=True),
        )
    )


def _froc_rows(run: Run) -> list[Row]:
    """Without the origin, which a logarithmic axis does not have."""
    return [row for row in run.rows("froc.csv") if float(row["fp_per_image"]) > 0]


def _pooled(run: Run) -> list[Row]:
    return [row for row in run.rows("f1_confidence.csv") if row["class"] == "all"]

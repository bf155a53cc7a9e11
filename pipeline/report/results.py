"""The figures of a run: key figures with intervals, at the operating point, by class and size."""

from collections.abc import Sequence

from markupsafe import Markup

from pipeline.html.parts import Tile, facts, fold, joined, paragraph, table, tiles
from pipeline.report.run import Row, Run
from pipeline.report.words import counted, figure, interval

# Name in the files, name for readers, what it is
KEY_FIGURES = (
    ("AP", "AP", "mean over IoU 0.50 to 0.95"),
    ("AP50", "AP50", "a box counts from IoU 0.5"),
    ("AP75", "AP75", "a box counts from IoU 0.75"),
    ("AR100", "AR", "recall, up to 100 boxes an image"),
    ("sensitivity_at_1fp", "Sensitivity", "at 1 false positive an image"),
    ("image_auc", "Image AUC", "telling images with objects from those without"),
)
SIZES = ("small", "medium", "large")


def result(run: Run) -> Markup:
    """Key figures, what they rest on, and the figures per class and size."""
    truth, intervals = run.details["ground_truth"], run.details["intervals"]
    return joined(
        tiles(_tile(run, *row) for row in KEY_FIGURES),
        paragraph(
            f"Under each figure its {intervals['level']:.0%} interval, from "
            f"{counted(intervals['resamples'], 'bootstrap resample')} of "
            f"{counted(intervals['units'], intervals['unit'])}. It says how the figure would vary "
            "with other test data, not with another training.",
            "note",
        ),
        facts(
            {
                "test images": figure(truth["images"]),
                "of them without objects": figure(truth["negatives"]),
                "objects": figure(truth["objects"]),
            }
        ),
        _at_operating_point(run),
        table("By class", *_as_table(run.rows("per_class.csv"))),
        table("By size of the object", *_by_size(run), note="small: under 32² px; large: from 96²"),
        fold("All figures", facts({name: figure(value) for name, value in run.figures.items()})),
    )


def _tile(run: Run, name: str, title: str, meaning: str) -> Tile:
    value = run.figures.get(name)
    if value is None:
        return Tile(title, "n/a", f"{meaning}; {_why_absent(run, name)}")
    bounds = run.details["intervals"]["figures"].get(name)
    return Tile(title, figure(value), f"{interval(bounds)}; {meaning}")


def _why_absent(run: Run, name: str) -> str:
    """The count that leaves a figure without a value."""
    truth, level = run.details["ground_truth"], run.details["image_level"]
    if name == "image_auc":
        return f"{counted(level['positives'], 'image')} with objects, {level['negatives']} without"
    return counted(truth["objects"], "object")


def _at_operating_point(run: Run) -> Markup:
    point, found = run.details["operating_point"], run.details["at_operating_point"]
    if point["threshold"] is None:
        return paragraph(f"No operating point: {point['source']}.", "note")
    names = ("true_positives", "false_positives", "missed", "sensitivity", "precision", "f1")
    shown = {name.replace("_", " "): figure(found[name]) for name in names}
    shown["false positives per image"] = figure(found["fp_per_image"])
    for name in ("sensitivity", "specificity"):
        shown[f"{name}, whole images"] = figure(run.details["image_level"][name])
    by_class, sources = point.get("by_class", {}), point.get("sources", {})
    if len(by_class) < 2:
        lowest = f"{point['threshold']:.3f}"
        chosen = paragraph(f"Chosen as {point['source']}.", "note")
    else:
        lowest = "that of their class"
        rows = [
            [name, figure(score), sources.get(name, {}).get("source", "n/a")]
            for name, score in by_class.items()
        ]
        chosen = table("Lowest scores", ["class", "score", "chosen as"], rows)
    title = f"At the operating point: boxes with a score from {lowest}"
    return joined(Markup("<h3>{}</h3>\n").format(title), facts(shown), chosen)


def _as_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    header = list(rows[0]) if rows else ["class"]
    return [name.replace("_", " ") for name in header], [
        [row[header[0]], *(figure(row[name]) for name in header[1:])] for row in rows
    ]


def _by_size(run: Run) -> tuple[list[str], list[list[str]]]:
    figures = run.figures
    names = [(f"AP_{size}", f"AR_{size}", f"objects_{size}") for size in SIZES]
    return ["size", "objects", "AP", "AR"], [
        [size, figure(figures[count]), figure(figures[ap]), figure(figures[ar])]
        for size, (ap, ar, count) in zip(SIZES, names, strict=True)
    ]

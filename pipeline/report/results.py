"""What came out of a run: its figures, its pictures, and where it fails."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from pipeline.data.draw import COLOURS
from pipeline.html.parts import (
    Box,
    Picture,
    Tile,
    View,
    data_uri,
    facts,
    fold,
    gallery,
    joined,
    paragraph,
    table,
    tiles,
)
from pipeline.report.run import Row, Run, read_json
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
MASK_FIGURES = (  # of a model with masks
    ("mask_AP", "Mask AP", "mean over IoU of pixels 0.50 to 0.95"),
    ("mask_AP50", "Mask AP50", "a mask counts from IoU 0.5"),
    ("dice", "Dice", "of a class's pixels in an image, at the operating point"),
    ("boundary_f", "Boundary F", "of its edges, within 0.8 % of the diagonal"),
)
SIZES = ("small", "medium", "large")
KINDS = {
    "missed": "Missed objects",
    "false_positive": "False alarms",
    "true_positive": "Found",
}
ERRORS = {
    "localisation": "right class, box too far off",
    "class": "right place, wrong class",
    "both": "box off and wrong class",
    "duplicate": "an object found twice",
    "background": "nothing there",
    "missed": "an object not found",
}
_READING = (
    "In the middle of each picture the box that is meant. Green: ground truth; orange: found. "
    "Images with the most mistakes come first."
)
_OF_A_KIND = 12  # pictures of one kind
# px, longest side of a crop, of a page of two pictures, and of a picture in the viewer
_CROP, _PAGE, _PLAIN = 360, 1100, 1024


def result(run: Run) -> Markup:
    """Key figures, what they rest on, and the figures per class and size."""
    truth, intervals = run.details["ground_truth"], run.details["intervals"]
    return joined(
        tiles(_tile(run, *row) for row in KEY_FIGURES),
        tiles(_tile(run, *row) for row in MASK_FIGURES) if "dice" in run.figures else Markup(""),
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
    known = run.details["intervals"]["figures"]
    under = f"{interval(known[name])}; {meaning}" if name in known else meaning
    return Tile(title, figure(value), under)


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


def pictures(run: Run) -> Markup:
    """Ground truth beside prediction, for some test images."""
    files = sorted((run.evaluate / "pictures").glob("*.png"))
    if not files:
        return paragraph("None were drawn: `evaluate.pictures` is 0.", "note")
    views = _views(run.evaluate / "pictures")
    return joined(
        paragraph(
            f"{counted(len(files), 'test image')}, taken from those with objects before others: "
            "on the left the ground truth, on the right what the model finds at its operating "
            "point. A click opens one: zoom, boxes that can be hidden.",
        ),
        gallery(
            (
                Picture(
                    data_uri(path, _PAGE),
                    f"Test image {path.stem.lstrip('0')}: ground truth and prediction",
                    f"image {path.stem.lstrip('0')}",
                    view=views.get(path.stem),
                )
                for path in files
            ),
            wide=True,
        ),
    )


def _views(folder: Path) -> dict[str, View]:
    """By the name of a picture what opens in the viewer; none where an older version drew."""
    path = folder / "boxes.json"
    shown = read_json(path, "") if path.is_file() else {}
    return {
        name: View(
            image["file_name"],
            image["width"],
            image["height"],
            [
                Box(one["box"], one["label"], one["score"], COLOURS[one["class"] % len(COLOURS)])
                for one in image["boxes"]
            ],
            picture=data_uri(folder / f"plain/{name}.jpg", _PLAIN),
        )
        for name, image in shown.items()
    }


def failures(run: Run) -> Markup:
    """Galleries of misses, false alarms and finds; error kinds; subgroups."""
    rows = run.rows("gallery/index.csv")
    folds = [
        _gallery(run, title, [row for row in rows if row["kind"] == kind], shown=kind == "missed")
        for kind, title in KINDS.items()
    ]
    return joined(
        paragraph(_READING, "note"), *folds, _errors(run), _subgroups(run.rows("subgroups.csv"))
    )


def _gallery(run: Run, title: str, rows: Sequence[Row], *, shown: bool) -> Markup:
    if not rows:
        return paragraph(f"{title}: none.", "note")
    drawn = gallery(
        Picture(
            data_uri(run.evaluate / "gallery" / row["picture"], _CROP),
            f"{row['kind'].replace('_', ' ')}: {row['class']} in image {row['image_id']}",
            _caption(row),
        )
        for row in rows[:_OF_A_KIND]
    )
    count = str(len(rows)) if len(rows) <= _OF_A_KIND else f"{_OF_A_KIND} of {len(rows)}"
    return fold(f"{title} ({count})", drawn, shown=shown)


def _caption(row: Row) -> str:
    parts = [row["class"]]
    if row["score"]:
        parts.append(f"score {figure(row['score'], 2)}")
    if row["iou"]:
        parts.append(f"IoU {figure(row['iou'], 2)}")
    if row["error"] and row["error"] != "missed":
        parts.append(ERRORS[row["error"]])
    return f"{', '.join(parts)}; image {row['image_id']}"


def _errors(run: Run) -> Markup:
    errors = run.details["errors"]
    rows = [
        [
            f"{kind}: {meaning}",
            figure(errors[kind]["count"]),
            figure(errors[kind]["count_at_operating_point"]),
            figure(errors[kind]["delta_AP50"]),
        ]
        for kind, meaning in ERRORS.items()
    ]
    return table(
        "Kinds of error",
        ["kind", "count", "at the operating point", "AP50 to gain"],
        rows,
        "AP50 to gain: what AP50 would rise by if errors of this kind alone were mended.",
    )


def _subgroups(rows: Sequence[Row]) -> Markup:
    kept = [row for row in rows if row["attribute"] != "size"]
    if not kept:
        return paragraph(
            "No subgroups: the images carry no view, sex, age or plane.",
            "note",
        )
    header = ["subgroup", "images", "objects", "AP", "AP50", "sensitivity", "false positives/image"]
    columns = ("images", "objects", "AP", "AP50", "sensitivity", "fp_per_image")
    return table(
        "By subgroup",
        header,
        [
            [f"{row['attribute']}: {row['value']}", *(figure(row[name]) for name in columns)]
            for row in kept
        ],
        "Groups of few images differ by chance alone.",
    )

"""Where a run fails: pictures first, then error kinds and subgroups."""

from collections.abc import Sequence

from markupsafe import Markup

from pipeline.html.parts import Picture, fold, gallery, joined, paragraph, table
from pipeline.html.picture import data_uri
from pipeline.report.run import Row, Run
from pipeline.report.words import counted, figure

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
_CROP, _PAGE = 360, 1100  # px, longest side of a crop, and of a page of two pictures


def pictures(run: Run) -> Markup:
    """Ground truth beside prediction, for some test images."""
    files = sorted((run.evaluate / "pictures").glob("*.png"))
    if not files:
        return paragraph("None were drawn: `evaluate.pictures` is 0.", "note")
    return joined(
        paragraph(
            f"{counted(len(files), 'test image')}, taken from those with objects before others: "
            "on the left the ground truth, on the right what the model finds at its operating "
            "point.",
        ),
        gallery(
            (
                Picture(
                    data_uri(path, _PAGE),
                    f"Test image {path.stem.lstrip('0')}: ground truth and prediction",
                    f"image {path.stem.lstrip('0')}",
                )
                for path in files
            ),
            wide=True,
        ),
    )


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

"""All datasets side by side: the page that leads to theirs, and a table for the terminal."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.atomic import replacing, write_csv
from pipeline.errors import DescryError
from pipeline.html.page import RESEARCH_USE, Link, Section, render_page
from pipeline.html.parts import data_uri, items, paragraph, table
from pipeline.report.curves import overlay
from pipeline.report.provenance import arm_words
from pipeline.report.run import SAMPLE, Run
from pipeline.report.words import figure, interval

_THUMBNAIL = 720  # px
COLUMNS = ("images", "objects", "AP", "AP50", "AP75", "AR1", "AR10", "AR100")


def write_index(
    runs: Mapping[str, Run], out: Path, *, pages: Mapping[str, str], sample: bool
) -> None:
    """Write the page.

    Parameters
    ----------
    runs : mapping
        Runs by dataset.
    out : Path
        The HTML file.
    pages : mapping
        Relative address of each dataset's page.
    sample : bool
        The data is the project's own sample; the page says so.
    """
    links = [Link(name, pages[name]) for name in runs]
    sections = [
        Section("figures", "Figures", _figures(runs, pages, sample=sample)),
        Section("pictures", "What it looks like", _thumbnails(runs, pages)),
        Section("curves", "Curves", overlay(runs)),
        Section("models", "Models", _models(runs)),
        Section("limits", "Limits", _limits()),
    ]
    text = render_page(
        "Detection on all datasets",
        sections,
        lead="One model per dataset, each on the test split of its own data.",
        warnings=[
            *(f"{name}: {line}" for name, run in runs.items() for line in run.stand_in),
            *([SAMPLE] if sample else []),
            *(f"{name}: {line}" for name, run in runs.items() for line in run.missed_classes),
        ],
        links=[Link("all datasets", out.name, here=True), *links],
    )
    with replacing(out) as stream:
        stream.write(text)


def _figures(runs: Mapping[str, Run], pages: Mapping[str, str], *, sample: bool) -> Markup:
    rows: list[list[object]] = []
    for name, run in runs.items():
        shown = run.figures
        rows.append(
            [
                Markup('<a href="{}">{}</a>').format(pages[name], name),
                kind_of_data(run, sample=sample),
                *(figure(shown[key]) for key in ("images", "objects", "AP")),
                interval(run.details["intervals"]["figures"].get("AP")),
                *(figure(shown[key]) for key in ("AP50", "AP75", "AR100", "sensitivity_at_1fp")),
            ]
        )
    header = ["dataset", "data", "images", "objects", "AP", "AP, 95 % interval", "AP50", "AP75"]
    note = (
        "AP: mean over IoU 0.50 to 0.95; AR: recall with up to 100 boxes an image; sensitivity: at "
        "1 false positive an image; the interval is a bootstrap over the test split. Datasets "
        "differ in difficulty: compare models within one, not across."
    )
    return table("Test splits", [*header, "AR", "sensitivity"], rows, note=note)


def kind_of_data(run: Run, *, sample: bool) -> str:
    """What stands behind a dataset's name: the data itself, a sample or a stand-in."""
    words = [line.split(":")[0].split(" ")[0].lower() for line in run.stand_in]
    return ", ".join([*dict.fromkeys(words), *(["sample"] if sample else [])]) or "full"


def _thumbnails(runs: Mapping[str, Run], pages: Mapping[str, str]) -> Markup:
    figures = []
    for name, run in runs.items():
        if drawn := _first_with_objects(run):
            figures.append(
                Markup(
                    '<figure><a href="{}"><img src="{}" alt="{}: ground truth and prediction">'
                    "</a><figcaption>{}: ground truth, prediction</figcaption></figure>\n"
                ).format(pages[name], data_uri(drawn, _THUMBNAIL), name, name)
            )
    if not figures:
        return paragraph("No pictures were drawn: `evaluate.pictures` is 0.", "note")
    return Markup('<div class="gallery wide">\n{}</div>\n').format(Markup("").join(figures))


def _first_with_objects(run: Run) -> Path | None:
    """A picture of an image with an object, if one was drawn; else any."""
    drawn = sorted((run.evaluate / "pictures").glob("*.png"))
    known = {row["image_id"] for row in run.rows("gallery/index.csv") if "false" not in row["kind"]}
    chosen = [path for path in drawn if path.stem.lstrip("0") in known]
    return next(iter(chosen or drawn), None)


def _models(runs: Mapping[str, Run]) -> Markup:
    rows = [
        [
            name,
            arm_words(run.about["detector"]),
            figure(run.about["image_size"]),
            figure(run.about["epochs"]),
            figure(run.about["training_images"]),
            figure(run.about["seed"]),
        ]
        for name, run in runs.items()
    ]
    header = ["dataset", "RetinaNet with", "image side, px", "epochs", "training images", "seed"]
    return table("Models", header, rows)


def _limits() -> Markup:
    return items(
        (
            RESEARCH_USE,
            "Each figure is of one training; other seeds give others.",
            "What else limits them stands at the end of each dataset's page.",
        )
    )


def collect(metrics: Path, datasets: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The metrics of each dataset that was evaluated, in the given order."""
    found = {}
    for name in datasets:
        path = metrics / f"{name}.json"
        if path.is_file():
            found[name] = json.loads(path.read_text(encoding="utf-8"))[name]
    if not found:
        raise DescryError(f"{metrics}: no evaluated dataset; run `dvc repro` first")
    return found


def rows_of(metrics: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Cells as text: three decimals, and n/a where there was no ground truth."""
    return [[name, *(_cell(m[column]) for column in COLUMNS)] for name, m in metrics.items()]


def _cell(value: float | int | None) -> str:
    if value is None:
        return "n/a"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that also reads well as plain text."""
    table = [["dataset", *COLUMNS], *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["| " + " | ".join(_padded(row, widths)) + " |" for row in table]
    rule = "|" + "|".join("-" * (w + 1) + ":" if i else "-" * (w + 2) for i, w in enumerate(widths))
    return "\n".join([lines[0], rule + "|", *lines[1:]]) + "\n"


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        row[0].ljust(widths[0]),
        *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
    ]


def write_table(metrics: Path, datasets: Sequence[str], out: Path) -> str:
    """Write ``table.md`` and ``table.csv``; return the table as text."""
    rows = rows_of(collect(metrics, datasets))
    text = as_markdown(rows)
    with replacing(out / "table.md") as stream:
        stream.write(text)
    write_csv(out / "table.csv", ["dataset", *COLUMNS], rows)
    return text

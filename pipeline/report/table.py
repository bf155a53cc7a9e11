"""All evaluated datasets in one table, for the terminal and as Markdown and CSV."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.atomic import replacing, write_csv
from pipeline.errors import DescryError

COLUMNS = ("images", "objects", "AP", "AP50", "AP75", "AR1", "AR10", "AR100")


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

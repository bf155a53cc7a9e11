"""The table as Markdown, LaTeX, CSV and HTML."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from pipeline.atomic import replacing, write_csv
from pipeline.html.page import Section, render_page
from pipeline.html.parts import fold, items, joined, paragraph, table
from pipeline.report.compare import p_value
from pipeline.report.grid.cells import FIGURES, Cell, Grid, Spread
from pipeline.report.grid.experiments import ARMS

NAMES = {"AP": "mAP", "AP50": "AP50", "AP75": "AP75", "AR100": "AR"}
HEADER = ("backbone", "arm", "seeds", *NAMES.values(), "change of mAP", "p (seeds)", "p (images)")
EXPLANATION = (
    "Mean ± standard deviation over seeds, on the test split. mAP: AP over IoU 0.50 to 0.95; AR: "
    "recall with up to 100 boxes an image. Change: mean mAP relative to the baseline's. p (seeds): "
    "of the difference in mAP to the baseline over seeds, paired t-test over common seeds, else "
    "Welch's. p (images): paired over patients, or images where patients are unknown, for the "
    "lowest common seed; only where the predictions of both are at hand. n/a: not defined, such "
    "as a spread of one seed. p-values are not corrected for the number of comparisons."
)
NOT_WIDENED = "n/a: only vit can be widened"


def write_grid(grid: Grid, out: Path, warnings: Sequence[str] = ()) -> str:
    """Write ``grid.md``, ``grid.tex``, ``grid.csv`` and ``grid.html``; return the Markdown.

    `warnings` are what must be known of the data, such as that it is a stand-in.
    """
    text = as_markdown(grid, warnings)
    for suffix, content in (
        ("md", text),
        ("tex", as_latex(grid, warnings)),
        ("html", as_html(grid, warnings)),
    ):
        with replacing(out / f"grid.{suffix}") as stream:
            stream.write(content)
    write_csv(out / "grid.csv", CSV_HEADER, [_csv_row(cell) for cell in grid.cells])
    return text


def words_of(cell: Cell) -> list[str]:
    """A line of the table without its dataset; an empty cell says what fills it."""
    names = [cell.backbone, cell.arm, str(len(cell.seeds))]
    if not cell.seeds:
        return [*names, *("",) * (len(HEADER) - 3)]
    change = "" if cell.arm == ARMS[0] else _percent(cell.change)
    tests = ["", ""] if cell.arm == ARMS[0] else [_over_seeds(cell), p_value(cell.p_images)]
    return [*names, *(_spread(cell.figures[name]) for name in FIGURES), change, *tests]


def _spread(spread: Spread) -> str:
    if spread.mean is None:
        return "n/a"
    return f"{spread.mean:.3f}" + (f" ± {spread.sd:.3f}" if spread.sd is not None else "")


def _percent(change: float | None) -> str:
    return "n/a" if change is None else f"{change:+.1%}"


def _over_seeds(cell: Cell) -> str:
    return f"{p_value(cell.p_seeds)} ({cell.test})"


def _to_do(cell: Cell) -> str:
    return cell.command or NOT_WIDENED


def as_markdown(grid: Grid, warnings: Sequence[str]) -> str:
    """A table per dataset; in an empty line stands the command that fills it."""
    parts = [f"> {line}" for line in warnings]
    for dataset, cells in _by_dataset(grid):
        lines = [f"## {dataset}", "", _bar(HEADER), _bar(["---"] * len(HEADER))]
        for cell in cells:
            words = words_of(cell)
            if not cell.seeds:
                words[3] = f"`{cell.command}`" if cell.command else NOT_WIDENED
            lines.append(_bar(words))
        parts.append("\n".join(lines))
    if grid.left_out:
        parts.append("Left out:\n\n" + "\n".join(f"* {line}" for line in grid.left_out))
    return "\n\n".join([*parts, EXPLANATION]) + "\n"


def _bar(words: Sequence[str]) -> str:
    return "| " + " | ".join(words) + " |"


def _by_dataset(grid: Grid) -> list[tuple[str, list[Cell]]]:
    names = dict.fromkeys(cell.dataset for cell in grid.cells)
    return [(name, [cell for cell in grid.cells if cell.dataset == name]) for name in names]


def as_latex(grid: Grid, warnings: Sequence[str]) -> str:
    """One ``tabular``; commands of empty lines are comments."""
    columns = ("dataset", *HEADER)
    lines = [
        *(f"% {line}" for line in (*warnings, EXPLANATION)),
        r"\begin{tabular}{lll" + "r" * (len(columns) - 3) + "}",
        r"\hline",
        " & ".join(map(_latex, columns)) + r" \\",
    ]
    for dataset, cells in _by_dataset(grid):
        lines.append(r"\hline")
        for cell in cells:
            words = [dataset, *words_of(cell)]
            if cell.seeds:
                lines.append(" & ".join(map(_latex, words)) + r" \\")
            else:
                words = [word or "--" for word in words]
                lines.append(" & ".join(map(_latex, words)) + rf" \\ % {_to_do(cell)}")
    return "\n".join([*lines, r"\hline", r"\end{tabular}"]) + "\n"


def _latex(text: str) -> str:
    for character in "%_&#":
        text = text.replace(character, "\\" + character)
    return text.replace("±", r"$\pm$").replace("<", "$<$")


CSV_HEADER = (
    "dataset",
    "backbone",
    "arm",
    "seeds",
    *(f"{NAMES[name]}_{part}" for name in FIGURES for part in ("mean", "sd")),
    "change",
    "p_seeds",
    "test",
    "p_images",
    "to_run",
)


def _csv_row(cell: Cell) -> list[object]:
    spreads = [value for name in FIGURES for value in _values(cell.figures[name])]
    tests = [_rounded(cell.change), _rounded(cell.p_seeds), cell.test, _rounded(cell.p_images)]
    if cell.arm == ARMS[0] or not cell.seeds:
        tests[2] = ""
    return [
        cell.dataset,
        cell.backbone,
        cell.arm,
        len(cell.seeds),
        *spreads,
        *tests,
        "" if cell.seeds else _to_do(cell),
    ]


def _values(spread: Spread) -> tuple[object, object]:
    return _rounded(spread.mean), _rounded(spread.sd)


def _rounded(value: float | None) -> object:
    return "" if value is None else round(value, 6)


def as_html(grid: Grid, warnings: Sequence[str]) -> str:
    """A page with a table per dataset and the commands of all empty lines."""
    sections = [
        Section(dataset, dataset, _html_table(dataset, cells))
        for dataset, cells in _by_dataset(grid)
    ]
    said = paragraph(EXPLANATION)
    if grid.left_out:
        left = items(grid.left_out)
        said = joined(said, fold(f"Experiments left out ({len(grid.left_out)})", left))
    filled = sum(bool(cell.seeds) for cell in grid.cells)
    possible = sum(bool(cell.seeds or cell.command) for cell in grid.cells)
    return render_page(
        "Datasets, backbones and interactions",
        [*sections, Section("reading", "How to read this", said)],
        lead=f"{filled} of {possible} cells are filled.",
        warnings=warnings,
    )


def _html_table(dataset: str, cells: Sequence[Cell]) -> Markup:
    header = ["backbone and arm", *HEADER[2:]]
    rows = []
    for cell in cells:
        if cell.seeds:
            words = words_of(cell)
            rows.append([f"{words[0]}, {words[1]}", *words[2:]])
    empty = [cell for cell in cells if not cell.seeds]
    parts = []
    if rows:
        parts.append(table(f"{dataset}: mean ± standard deviation over seeds", header, rows))
    else:
        parts.append(paragraph("No experiment yet."))
    if empty:
        commands = [
            [f"{cell.backbone}, {cell.arm}", Markup("<code>{}</code>").format(_to_do(cell))]
            for cell in empty
        ]
        listed = table(f"{dataset}: what fills the empty cells", ["cell", "command"], commands)
        parts.append(fold(f"{len(empty)} empty cells: what to run", listed, shown=not rows))
    return joined(*parts)

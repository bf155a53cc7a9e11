"""All pages of a folder of runs, or the comparison of several folders."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import DescryError
from pipeline.html.page import Link
from pipeline.report.compare import write_comparison
from pipeline.report.index import write_index
from pipeline.report.page import write_page
from pipeline.report.run import Run
from pipeline.report.table import collect, write_table

INDEX = "index"


def write_report(
    runs: Path, datasets: Path, names: Sequence[str], out: Path, *, only: str = "", sample: bool
) -> str:
    """Write the pages of the evaluated datasets, the index and the table; return the table.

    Parameters
    ----------
    runs, datasets : Path
        Folders of the stages' outputs.
    names : sequence of str
        Datasets that may be there, in the order of the table.
    only : str
        A dataset writes its page alone, "index" the index and the table alone; the text is then
        empty or the table.
    sample : bool
        The data is the project's own sample; the pages say so.
    """
    if only not in ("", INDEX, *names):
        raise DescryError(f"--only {only}: must be {INDEX} or one of {', '.join(names)}")

    def page(name: str) -> None:
        links = [Link("all datasets", "../index.html"), Link(name, f"{name}.html", here=True)]
        run = Run.read(name, runs, datasets)
        write_page(run, out / "datasets" / f"{name}.html", links=links, sample=sample)

    if only in names:
        page(only)
        return ""
    found = list(collect(runs / "metrics", names))
    if only != INDEX:
        for name in found:
            page(name)
    read = {name: Run.read(name, runs, datasets) for name in found}
    pages = {name: f"datasets/{name}.html" for name in found}
    write_index(read, out / "index.html", pages=pages, sample=sample)
    return write_table(runs / "metrics", names, out)


def compare_folders(
    folders: Sequence[Path], datasets: Path, names: Sequence[str], out: Path
) -> list[Path]:
    """Write a page that compares folders of runs; return the files written."""
    labels = labels_of(folders)
    found = {
        name: {
            label: Run.read(name, folder, datasets)
            for label, folder in zip(labels, folders, strict=True)
            if (folder / name / "evaluate/details.json").is_file()
        }
        for name in names
    }
    kept = {name: runs for name, runs in found.items() if len(runs) > 1}
    if not kept:
        listed = ", ".join(map(str, folders))
        raise DescryError(f"{listed}: no dataset was evaluated in two of these folders of runs")
    write_comparison(kept, out / "compare.html", datasets=datasets)
    return [out / "compare.html"]


def labels_of(folders: Sequence[Path]) -> list[str]:
    """Short names that differ: the folders' own, or their paths where those are alike."""
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [folder.as_posix() for folder in folders]

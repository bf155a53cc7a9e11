"""The page of a run, all pages of a folder of runs, or the comparison of several folders."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.atomic import replacing
from pipeline.errors import DescryError
from pipeline.html.page import Link, Section, render_page
from pipeline.report.compare import write_comparison
from pipeline.report.curves import curves
from pipeline.report.index import collect, write_index, write_table
from pipeline.report.provenance import data, limits, model_and_cost, parameters, training
from pipeline.report.results import failures, pictures, result
from pipeline.report.run import SAMPLE, Run
from pipeline.report.words import counted

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


def write_page(run: Run, out: Path, *, links: Sequence[Link] = (), sample: bool = False) -> None:
    """Write the page of a run.

    Parameters
    ----------
    run : Run
    out : Path
        The HTML file.
    links : sequence of Link
        Other pages.
    sample : bool
        The data is the project's own sample; the page says so.
    """
    sections = [
        Section("result", "Result", result(run)),
        Section("pictures", "What it looks like", pictures(run)),
        Section("failures", "Where it fails", failures(run)),
        Section("curves", "Curves", curves(run)),
        Section("training", "Training", training(run)),
        Section("data", "Data", data(run)),
        Section("model", "Model and cost", model_and_cost(run)),
        Section("parameters", "Parameters and versions", parameters(run)),
        Section("limits", "Limits", limits(run, sample=sample)),
    ]
    truth = run.details["ground_truth"]
    text = render_page(
        f"{run.dataset}: detection on its test split",
        sections,
        lead=f"{counted(truth['objects'], 'object')} in {counted(truth['images'], 'image')} that "
        "the model has not seen.",
        warnings=[*run.stand_in, *([SAMPLE] if sample else []), *run.missed_classes],
        links=links,
        viewer=True,
    )
    with replacing(out) as stream:
        stream.write(text)

"""The page of one run."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.atomic import replacing
from pipeline.html.page import Link, Section, render_page
from pipeline.report.curves import curves
from pipeline.report.failures import failures, pictures
from pipeline.report.provenance import data, limits, model_and_cost, parameters, training
from pipeline.report.results import result
from pipeline.report.run import SAMPLE, Run
from pipeline.report.words import counted


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
        warnings=[*run.stand_in, *([SAMPLE] if sample else [])],
        links=links,
    )
    with replacing(out) as stream:
        stream.write(text)

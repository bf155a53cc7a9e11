"""The page that compares runs on the same data: figures, paired differences, curves, settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.atomic import replacing
from pipeline.errors import DescryError
from pipeline.html.page import Section, render_page
from pipeline.html.parts import Picture, data_uri, fold, gallery, joined, paragraph, table
from pipeline.report.curves import overlay
from pipeline.report.provenance import flat
from pipeline.report.run import Run
from pipeline.report.words import counted, figure

_PICTURES, _SIDE = 4, 900  # images, and px of the longest side
FIGURES = ("AP", "AP50", "AP75", "AR100", "sensitivity_at_1fp", "image_auc")


def write_comparison(found: Mapping[str, Mapping[str, Run]], out: Path, *, datasets: Path) -> None:
    """Write the page.

    Parameters
    ----------
    found : mapping
        By dataset, its runs by label; the first of them is what the others are compared with.
    out : Path
        The HTML file.
    datasets : Path
        Folder of the converted datasets, for the ground truth of the paired comparison.
    """
    sections = [Section(name, name, _section(name, runs, datasets)) for name, runs in found.items()]
    warnings = [line for runs in found.values() for line in next(iter(runs.values())).stand_in]
    text = render_page(
        "Runs compared",
        sections,
        lead="Each run against the first on the same test images.",
        warnings=list(dict.fromkeys(warnings)),
    )
    with replacing(out) as stream:
        stream.write(text)


def _section(name: str, runs: Mapping[str, Run], datasets: Path) -> Markup:
    first, *others = runs.items()
    truth = first[1].details["ground_truth"]
    parts = [
        paragraph(
            f"{counted(truth['images'], 'test image')}, {counted(truth['objects'], 'object')}."
        ),
        _figures(runs),
    ]
    parts += [_difference(first, other, datasets) for other in others]
    parts += [overlay(runs, f"{name}: "), _pictures(runs), _settings(runs)]
    return joined(*parts)


def _figures(runs: Mapping[str, Run]) -> Markup:
    rows = [[label, *(figure(run.figures[key]) for key in FIGURES)] for label, run in runs.items()]
    return table("Figures", ["run", *map(_plain, FIGURES)], rows)


def _plain(name: str) -> str:
    """The name of a figure for readers."""
    words = {"sensitivity_at_1fp": "sensitivity at 1 FP/image", "fp_per_image": "FP per image"}
    return words.get(name, name.replace("_", " ").replace("auc", "AUC"))


def _pictures(runs: Mapping[str, Run]) -> Markup:
    """The same test images as each run sees them."""
    drawn = [{p.name: p for p in (r.evaluate / "pictures").glob("*.png")} for r in runs.values()]
    common = sorted(set.intersection(*(set(one) for one in drawn)))[:_PICTURES]
    pictures = [
        Picture(
            data_uri(files[name], _SIDE), f"{label}, {name}", f"{label}, image {int(name[:-4])}"
        )
        for name in common
        for label, files in zip(runs, drawn, strict=True)
    ]
    title = "The same images: ground truth and prediction of each run"
    return fold(title, gallery(pictures, wide=True)) if pictures else Markup("")


def _difference(first: tuple[str, Run], other: tuple[str, Run], datasets: Path) -> Markup:
    """The paired comparison of two runs, or why there is none."""
    title = f"{other[0]} against {first[0]}"
    truth = datasets / first[1].dataset / "coco/annotations/test.json"
    outcome = paired(first[1].evaluate, other[1].evaluate, truth)
    if isinstance(outcome, str):
        return paragraph(f"{title}: no paired comparison, {outcome}.", "note")
    rows = [
        [
            _plain(key),
            figure(row["a"]),
            figure(row["b"]),
            _signed(row["difference"]),
            "n/a" if row["low"] is None else f"{row['low']:+.3f} to {row['high']:+.3f}",
            p_value(row["p"]),
        ]
        for key, row in outcome["figures"].items()
        if row["difference"] is not None
    ]
    level = f"{outcome['level']:.0%} interval"
    header = ["figure", first[0], other[0], "difference", level, "p"]
    note = (
        f"Paired over {counted(outcome['units'], outcome['unit'])}: interval from "
        f"{outcome['resamples']:,} resamples, p from {outcome['permutations']:,} permutations. It "
        "holds for these two trained models; other seeds add to the spread."
    )
    return table(title, header, rows, note)


def _signed(value: float | None) -> str:
    return "n/a" if value is None else f"{value:+.3f}"


def p_value(value: float | None) -> str:
    """A p-value with three decimals, n/a where there is none."""
    if value is None:
        return "n/a"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _settings(runs: Mapping[str, Run]) -> Markup:
    """What was set or recorded differently."""
    all_flat = {label: dict(flat(_settled(run.about))) for label, run in runs.items()}
    keys = sorted({key for one in all_flat.values() for key in one})
    rows = [
        [key, *(one.get(key, "") for one in all_flat.values())]
        for key in keys
        if len({one.get(key) for one in all_flat.values()}) > 1
    ]
    if not rows:
        return paragraph("All recorded parameters are the same.", "note")
    return table("What differs", ["parameter", *runs], rows)


def _settled(about: Mapping[str, Any]) -> dict[str, Any]:
    words = ("score_threshold_source", "class_threshold_sources")
    return {key: value for key, value in about.items() if key not in words}


def paired(a: Path, b: Path, truth: Path) -> dict[str, Any] | str:
    """What `pipeline.evaluate.compare` finds, or the reason why it cannot be asked.

    Parameters
    ----------
    a, b : Path
        Evaluation folders of two runs on the same dataset.
    truth : Path
        The COCO file of the test split; it must be the one that both were evaluated on.
    """
    from pipeline.evaluate.compare import compare_runs  # only where two runs are compared

    for needed in (truth, a / "predictions.json", b / "predictions.json"):
        if not needed.is_file():
            return f"{needed} is not at hand"
    try:
        return compare_runs(truth, a, b)
    except DescryError as error:
        return str(error)


def paired_p(a: Path | None, b: Path | None, truth: Path) -> float | None:
    """p-value of the difference in AP between two evaluations; None where it cannot be had."""
    outcome = paired(a, b, truth) if a and b else "no predictions"
    return None if isinstance(outcome, str) else outcome["figures"]["AP"]["p"]

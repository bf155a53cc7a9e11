"""The command line: thin, and quick to say no.

Exit codes: 0 all well; 1 the run finished but something in it failed (see its failures list);
2 the call, the parameters or the data are wrong, with a message that says what to do.
"""

import logging
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from pipeline import __version__, stages
from pipeline.config import DatasetName, Params, load_params
from pipeline.errors import DescryError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Detection of things that are hard to see.",
)

ParamsFile = Annotated[Path, typer.Option("--params", help="The parameters file.")]
Set = Annotated[
    Optional[list[str]],  # noqa: UP045 (Typer reads this form)
    typer.Option("-S", "--set", metavar="KEY=VALUE", help="Change one parameter."),
]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="ccellbio, cod10k, brain_tumor, nih, rsna")
]
PARAMS = Path("params.yaml")


@app.callback(invoke_without_command=True)
def about(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Say who we are."""
    if version:
        typer.echo(f"descry {__version__}")
        raise typer.Exit


@app.command()
def convert(
    name: Name,
    raw: Annotated[Optional[Path], typer.Option(help="Raw folder.")] = None,  # noqa: UP045
    out: Annotated[Optional[Path], typer.Option(help="Output folder.")] = None,  # noqa: UP045
    params: ParamsFile = PARAMS,
    changes: Set = None,
) -> None:
    """Convert a dataset's raw files to COCO JSON, images and a report."""
    chosen = load_params(params, changes or ())
    typer.echo(stages.convert(chosen, _dataset(name), raw, out))


@app.command()
def train(
    name: Name,
    coco: Annotated[Optional[Path], typer.Option(help="Converted dataset.")] = None,  # noqa: UP045
    out: Annotated[Optional[Path], typer.Option(help="Output folder.")] = None,  # noqa: UP045
    params: ParamsFile = PARAMS,
    changes: Set = None,
) -> None:
    """Train a detector from scratch on a converted dataset."""
    chosen = load_params(params, changes or ())
    typer.echo(f"model: {stages.train(chosen, _dataset(name), coco, out)}")


@app.command()
def evaluate(
    name: Name,
    coco: Annotated[Optional[Path], typer.Option(help="Converted dataset.")] = None,  # noqa: UP045
    checkpoint: Annotated[Optional[Path], typer.Option(help="model.pt")] = None,  # noqa: UP045
    out: Annotated[Optional[Path], typer.Option(help="Output folder.")] = None,  # noqa: UP045
    params: ParamsFile = PARAMS,
    changes: Set = None,
) -> None:
    """COCO AP and AR of a trained model on its dataset's test split."""
    chosen = load_params(params, changes or ())
    figures = stages.evaluate(chosen, _dataset(name), coco, checkpoint, out)
    typer.echo(", ".join(f"{k} {figures[k]}" for k in ("AP", "AP50", "AP75", "AR100")))


@app.command()
def report(
    runs: Annotated[Path, typer.Option(help="Folder of runs.")] = stages.RUNS,
    params: ParamsFile = PARAMS,
    changes: Set = None,
) -> None:
    """One table of all evaluated datasets."""
    typer.echo(stages.report(load_params(params, changes or ()), runs))


@app.command()
def predict(
    source: Annotated[Path, typer.Argument(help="Folder of DICOM or images, or one file.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Output folder.")],
    checkpoint: Annotated[Path, typer.Option(help="model.pt of a training run.")],
    threshold: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Lowest score; default: the checkpoint's operating point."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    batch_size: Annotated[int, typer.Option(help="Pictures per call of the model.")] = 4,
    workers: Annotated[int, typer.Option(help="Decoding processes.")] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds a decoder may take.")] = 60.0,
    overlays: Annotated[str, typer.Option(help="found, all or none")] = "found",
    modality: Annotated[Optional[list[str]], typer.Option(help="Only these.")] = None,  # noqa: UP045
    body_part: Annotated[Optional[list[str]], typer.Option(help="Only these.")] = None,  # noqa: UP045
    view: Annotated[Optional[list[str]], typer.Option(help="Only these.")] = None,  # noqa: UP045
    series_description: Annotated[str, typer.Option(help="Must contain this.")] = "",
    num_shards: Annotated[int, typer.Option(help="Machines that share the folder.")] = 1,
    shard: Annotated[int, typer.Option(help="Which of them this is, from 0.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be read.")
    ] = False,
) -> None:
    """Detect in a folder of DICOM or ordinary images. Research use only."""
    from pipeline.predict.options import Options
    from pipeline.predict.select import Filters

    filters = Filters(
        tuple(modality or ()), tuple(body_part or ()), tuple(view or ()), series_description
    )
    options = Options(batch_size, workers, timeout, threshold, overlays, filters, shard, num_shards)
    if dry_run:
        for line in stages.survey(source, out, checkpoint, options):
            typer.echo(line)
        return
    counts, code = stages.predict(source, out, checkpoint, options, device)
    shown = ("files", "processed", "skipped", "failed", "frames", "detections")
    typer.echo(", ".join(f"{name} {counts[name]}" for name in shown) + f"; see {out}")
    raise typer.Exit(code)


def _dataset(name: str) -> DatasetName:
    """Accept `brain-tumor` for `brain_tumor`, refuse what is unknown."""
    known = Params().datasets
    plain = name.replace("-", "_").lower()
    for candidate in known:
        if candidate == plain:
            return candidate
    raise DescryError(f"unknown dataset {name!r}: must be one of {', '.join(known)}")


def main() -> None:
    """Entry point of the `descry` command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        app()
    except DescryError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()

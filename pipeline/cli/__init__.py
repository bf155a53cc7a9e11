"""The command line: thin, and quick to say no.

Exit codes: 0 all well; 1 the run finished but something in it failed (see its failures list), or a
fault of ours, with a traceback; 2 the call, the parameters, the data or a disk are wrong, with a
message that says what to do; 130 it was interrupted. Whatever takes time to import is imported in
the commands, after what can be checked without it.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import __version__
from pipeline.cli.browse import browse
from pipeline.cli.doctor import doctor
from pipeline.cli.experiment import check, exp
from pipeline.cli.export import export
from pipeline.cli.init import init
from pipeline.cli.paths import CHECKPOINT, there
from pipeline.cli.predict import merge, predict
from pipeline.cli.show import show
from pipeline.errors import DescryError, first_line, is_out_of_memory

if TYPE_CHECKING:
    from pipeline.config import DatasetName, Params

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Detection of things that are hard to see.",
    epilog="Exit status: 0 all well; 1 something in it failed, see its list of failures; 2 the "
    "call, the parameters, the data or a disk are wrong; 130 interrupted.",
)

ParamsFile = Annotated[Path, typer.Option("--params", help="The parameters file.")]
Set = Annotated[
    list[str] | None,
    typer.Option("-S", "--set", metavar="KEY=VALUE", help="Change one parameter."),
]
Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="ccellbio, cod10k, brain_tumor, nih, rsna or your own"),
]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
PARAMS = Path("params.yaml")
INTERRUPTED = 130  # exit status of Ctrl-C, as shells have it (128 + SIGINT)
DEBUG = "DESCRY_DEBUG"  # set: errors with their traceback


@app.callback(invoke_without_command=True)
def about(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar=DEBUG, help="Show errors with their traceback.")
    ] = False,
) -> None:
    """Say who we are."""
    if debug:
        os.environ[DEBUG] = "1"
    if version:
        typer.echo(f"descry {__version__}")
        raise typer.Exit


@app.command()
def convert(
    name: Name,
    raw: Annotated[Path | None, typer.Option(help="Raw folder.")] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder.")] = None,
    to: Annotated[
        str, typer.Option(help="Beside the output also a folder of this form: yolo.")
    ] = "",
    params: ParamsFile = PARAMS,
    changes: Set = None,
) -> None:
    """Convert a dataset's raw files to COCO JSON, images and a report."""
    chosen = _params(params, changes)
    dataset = _dataset(chosen, name)
    from pipeline.stages.convert import convert as run

    typer.echo(run(chosen, dataset, raw, out, to))


@app.command()
def pretrain(
    name: Name,
    coco: Annotated[Path | None, typer.Option(help="Converted dataset.")] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder.")] = None,
    params: ParamsFile = PARAMS,
    changes: Set = None,
) -> None:
    """Pretrain a backbone on hidden parts of training images; only if pretrain.epochs says so."""
    chosen = _params(params, changes)
    dataset = _dataset(chosen, name)
    there(coco)
    from pipeline.stages.pretrain import pretrain as run

    typer.echo(f"pretrained: {run(chosen, dataset, coco, out)}")


@app.command()
def train(
    name: Name,
    coco: Annotated[Path | None, typer.Option(help="Converted dataset.")] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder.")] = None,
    params: ParamsFile = PARAMS,
    changes: Set = None,
) -> None:
    """Train a detector from scratch on a converted dataset."""
    chosen = _params(params, changes)
    dataset = _dataset(chosen, name)
    there(coco)
    from pipeline.stages.train import train as run

    typer.echo(f"model: {run(chosen, dataset, coco, out)}")


@app.command()
def evaluate(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="A dataset; or give --gt and --predictions.")
    ] = "",
    coco: Annotated[Path | None, typer.Option(help="Converted dataset.")] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="model.safetensors; several are evaluated as one.")
    ] = None,
    gt: Annotated[Path | None, typer.Option(help="Anybody's COCO ground truth.")] = None,
    predictions: Annotated[Path | None, typer.Option(help="Anybody's COCO results.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="With --gt: operating point, chosen on other images.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="With --gt: folder, for a gallery.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Output folder.")] = None,
    as_json: AsJson = False,
    params: ParamsFile = PARAMS,
    changes: Set = None,
) -> None:
    """How good a trained model is on its test split, or anybody's detections on anybody's truth."""
    chosen = _params(params, changes)
    ours, theirs = (name, coco, checkpoint or None), (gt, predictions, threshold, images)
    if name and not any(v is not None for v in theirs):
        dataset = _dataset(chosen, name)
        there(coco)
        there(*(checkpoint or ()), what=CHECKPOINT)
        from pipeline.stages.evaluate import evaluate as run

        figures = run(chosen, dataset, coco, checkpoint or (), out)
    elif gt is not None and predictions is not None and ours == ("", None, None):
        there(gt, predictions, images)
        from pipeline.stages.evaluate import evaluate_files

        figures = evaluate_files(chosen, gt, predictions, threshold, images, out)
    else:
        raise DescryError(
            "evaluate: give either NAME (with --coco, --checkpoint) or both --gt and "
            "--predictions (with --threshold, --images)"
        )
    if as_json:
        typer.echo(json.dumps(figures, indent=1))
        return
    shown = ("AP", "AP50", "AP75", "AR100", "sensitivity_at_1fp", "image_auc")
    typer.echo(", ".join(f"{k} {'n/a' if figures[k] is None else figures[k]}" for k in shown))


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="Folder of `descry evaluate`, or COCO results.")],
    b: Annotated[Path, typer.Argument(help="Another, of the same test split.")],
    gt: Annotated[
        Path | None, typer.Option(help="COCO ground truth; default: the dataset's test split.")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Output folder.")] = None,
    as_json: AsJson = False,
    params: ParamsFile = PARAMS,
    changes: Set = None,
) -> None:
    """Is B better than A? Differences with intervals and p-values, paired by patient."""
    chosen = _params(params, changes)
    there(a, b, gt)
    from pipeline.evaluate.compare import as_text
    from pipeline.stages.compare import compare as run

    result = run(chosen, a, b, gt, out)
    typer.echo(json.dumps(result, indent=1) if as_json else as_text(result))


@app.command()
def report(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of runs; several are compared. Default: runs"),
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Output folder.")] = None,
    only: Annotated[str, typer.Option(help="One dataset's page, or: index.")] = "",
    grid: Annotated[
        bool, typer.Option("--grid", help="The table dataset x backbone x arm of all experiments.")
    ] = False,
    params: ParamsFile = PARAMS,
    changes: Set = None,
) -> None:
    """Pages to look at: figures, pictures, curves; one per dataset, or several runs compared."""
    chosen = _params(params, changes)
    if grid:
        from pipeline.stages.grid import grid as table

        written = _params(params)
        typer.echo(table(chosen, written, changes or (), runs or [], out), nl=False)
    else:
        from pipeline.stages.report import report as run

        typer.echo(run(chosen, runs or [], out, only), nl=False)


app.command()(check)
app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(exp)
app.command()(predict)
app.command()(merge)
app.command()(doctor)
app.command()(browse)
app.command()(init)
app.command()(show)
app.command()(export)


@app.command()
def explain(
    sources: Annotated[
        list[Path], typer.Argument(help="A DICOM file or image; several with --against.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Output folder.")],
    checkpoint: Annotated[Path, typer.Option(help="model.safetensors of a training run.")],
    against: Annotated[
        Path | None, typer.Option(help="Compare with this model.safetensors.")
    ] = None,
    point: Annotated[str, typer.Option(help="X,Y in pixels: draw its attention too.")] = "",
    block: Annotated[list[int] | None, typer.Option(help="Only these blocks.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Draw what a model computes for an image, or how two models differ."""
    there(*sources)
    there(checkpoint, against, what=CHECKPOINT)
    from pipeline.explain.compare import compare
    from pipeline.explain.run import explain as run
    from pipeline.models.saved import SavedModel
    from pipeline.stages.machine import pick_device

    model = SavedModel.load(checkpoint, pick_device(device))
    if against is not None:
        other = SavedModel.load(against, pick_device(device))
        written = compare(model, other, sources, out)
    elif len(sources) == 1:
        written = run(model, sources[0], out, point=_point(point), blocks=block or ())
    else:
        raise DescryError(f"explain: {len(sources)} images; give one, or --against with several")
    typer.echo(f"{len(written)} files in {out}")


def _point(text: str) -> tuple[float, float] | None:
    if not text:
        return None
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise DescryError(f"--point {text}: write it as X,Y, for example 300,200") from None
    return x, y


@app.command()
def profile(
    backbone: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    size: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    image_size: Annotated[list[int] | None, typer.Option(help="Pixels; may be repeated.")] = None,
    pool_layers: Annotated[list[int] | None, typer.Option(help="May be repeated.")] = None,
    concepts: Annotated[list[int] | None, typer.Option(help="May be repeated.")] = None,
    placement: Annotated[str, typer.Option(help="stream or branch")] = "stream",
    pool_stride: Annotated[int, typer.Option(help="1 or 2")] = 1,
    fpn_channels: Annotated[int, typer.Option(help="Width of FPN and heads.")] = 256,
    controls: Annotated[bool, typer.Option("--controls", help="Add the controls.")] = False,
    batch_size: Annotated[int, typer.Option(help="Images of a step.")] = 1,
    repeats: Annotated[int, typer.Option(help="Timed steps; 0: no times.")] = 10,
    warmup: Annotated[int, typer.Option(help="Steps before them.")] = 3,
    training: Annotated[bool, typer.Option(help="Training steps too.")] = True,
    memory: Annotated[bool, typer.Option(help="Peak memory.")] = True,
    precision: Annotated[str, typer.Option(help="fp32 or bf16")] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: PyTorch's choice.")] = 0,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="JSON file.")] = None,
    coco: Annotated[
        Path | None,
        typer.Option(help="A converted dataset: what params.yaml's head has for its boxes, only."),
    ] = None,
) -> None:
    """Parameters, FLOPs, time and memory, baseline beside enhanced."""
    if coco is not None:
        from pipeline.stages.train import box_coverage

        for name, words in box_coverage(_params(Path("params.yaml")), coco).items():
            typer.echo(f"{name}: {words}")
        return
    from pipeline.profile.run import Settings
    from pipeline.profile.run import profile as run
    from pipeline.profile.table import markdown
    from pipeline.stages.machine import pick_device

    chosen = pick_device(device)
    settings = Settings(batch_size, repeats, warmup, training, memory, precision, chosen, threads)
    report = run(
        backbone or ["vit"],
        size or ["micro"],
        image_size or [256],
        pool_layers or [2],
        concepts or [16],
        detector={
            "fpn_channels": fpn_channels,
            "placement": placement,
            "pool_stride": pool_stride,
        },
        settings=settings,
        with_controls=controls,
        out=out,
    )
    typer.echo(markdown(report))


def _params(path: Path, changes: list[str] | None = None) -> "Params":
    from pipeline.config import load_params

    return load_params(path, changes or ())


def _dataset(params: "Params", name: str) -> "DatasetName":
    """Accept `brain-tumor` for `brain_tumor`, refuse what is unknown."""
    plain = name.replace("-", "_").lower()
    if plain in params.known:
        return plain
    raise DescryError(
        f"unknown dataset {name!r}: must be one of {', '.join(params.known)}, or a dataset of your "
        f"own that params.yaml describes (convert.{plain} and more, see docs/how-to/own_data.md)"
    )


def _words(error: Exception) -> str:
    """What an error says; of the system's errors the file and the reason."""
    if is_out_of_memory(error):
        return f"out of memory ({first_line(error)})"
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(str(part) for part in (error.filename, error.strerror) if part)
    return str(error)


def main() -> None:
    """Entry point of the `descry` command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        app()
    except (DescryError, OSError, MemoryError, RuntimeError) as error:
        ours = isinstance(error, DescryError | OSError) or is_out_of_memory(error)
        if os.environ.get(DEBUG) or not ours:
            raise
        typer.echo(f"error: {_words(error)}", err=True)
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            typer.echo("interrupted; the same command again goes on from there", err=True)
        raise

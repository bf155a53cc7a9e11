"""The command line: thin, and quick to say no.

Exit codes: 0 all well; 1 the run finished but something in it failed (see its failures list);
2 the call, the parameters or the data are wrong, with a message that says what to do.
"""

import logging
import sys
from pathlib import Path
from typing import Annotated

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
    list[str] | None,
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
    raw: Annotated[Path | None, typer.Option(help="Raw folder.")] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder.")] = None,
    params: ParamsFile = PARAMS,
    changes: Set = None,
) -> None:
    """Convert a dataset's raw files to COCO JSON, images and a report."""
    chosen = load_params(params, changes or ())
    typer.echo(stages.convert(chosen, _dataset(name), raw, out))


@app.command()
def train(
    name: Name,
    coco: Annotated[Path | None, typer.Option(help="Converted dataset.")] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder.")] = None,
    params: ParamsFile = PARAMS,
    changes: Set = None,
) -> None:
    """Train a detector from scratch on a converted dataset."""
    chosen = load_params(params, changes or ())
    typer.echo(f"model: {stages.train(chosen, _dataset(name), coco, out)}")


@app.command()
def evaluate(
    name: Name,
    coco: Annotated[Path | None, typer.Option(help="Converted dataset.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="model.pt")] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder.")] = None,
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
        float | None,
        typer.Option(help="Lowest score; default: the checkpoint's operating point."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    batch_size: Annotated[int, typer.Option(help="Pictures per call of the model.")] = 4,
    workers: Annotated[int, typer.Option(help="Decoding processes.")] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds a decoder may take.")] = 60.0,
    overlays: Annotated[str, typer.Option(help="found, all or none")] = "found",
    modality: Annotated[list[str] | None, typer.Option(help="Only these.")] = None,
    body_part: Annotated[list[str] | None, typer.Option(help="Only these.")] = None,
    view: Annotated[list[str] | None, typer.Option(help="Only these.")] = None,
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


@app.command()
def explain(
    sources: Annotated[
        list[Path], typer.Argument(help="A DICOM file or image; several with --against.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Output folder.")],
    checkpoint: Annotated[Path, typer.Option(help="model.pt of a training run.")],
    against: Annotated[Path | None, typer.Option(help="Compare with this model.pt.")] = None,
    point: Annotated[str, typer.Option(help="X,Y in pixels: draw its attention too.")] = "",
    block: Annotated[list[int] | None, typer.Option(help="Only these blocks.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Draw what a model computes for an image, or how two models differ."""
    from pipeline.explain.compare import compare
    from pipeline.explain.run import explain as run
    from pipeline.models.saved import SavedModel

    model = SavedModel.load(checkpoint, stages.pick_device(device))
    if against is not None:
        other = SavedModel.load(against, stages.pick_device(device))
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
) -> None:
    """Parameters, FLOPs, time and memory, baseline beside enhanced."""
    from pipeline.profile.arms import Shape
    from pipeline.profile.run import Settings
    from pipeline.profile.run import profile as run
    from pipeline.profile.table import markdown

    chosen = stages.pick_device(device)
    settings = Settings(batch_size, repeats, warmup, training, memory, precision, chosen, threads)
    report = run(
        backbone or ["vit"],
        size or ["micro"],
        image_size or [256],
        pool_layers or [2],
        concepts or [16],
        shape=Shape(fpn_channels=fpn_channels, placement=placement, pool_stride=pool_stride),
        settings=settings,
        with_controls=controls,
        out=out,
    )
    typer.echo(markdown(report))


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

"""The `browse` command: a local page to look through pictures, boxes and mistakes."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.paths import CHECKPOINT, there
from pipeline.errors import DescryError


def browse(
    what: Annotated[
        str,
        typer.Argument(
            help="A dataset's name, a converted dataset, a COCO file or a folder of predictions."
        ),
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder that file names are relative to.")
    ] = None,
    split: Annotated[str, typer.Option(help="Only this one: train, val, test.")] = "",
    predictions: Annotated[
        Path | None, typer.Option(help="COCO results to compare; default: those of evaluate.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A model.safetensors that looks at the split now.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Lowest score; default: the operating point.")
    ] = None,
    review: Annotated[Path, typer.Option(help="CSV of what is marked.")] = Path("review.csv"),
    port: Annotated[int, typer.Option(help="0: any that is free.")] = 0,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the browser.")] = True,
    params: Annotated[Path, typer.Option("--params", help="The parameters file.")] = Path(
        "params.yaml"
    ),
    changes: Annotated[
        list[str] | None,
        typer.Option("-S", "--set", metavar="KEY=VALUE", help="Change one parameter."),
    ] = None,
) -> None:
    """Look through a dataset or detections in a browser, on this machine only; Ctrl-C ends it."""
    if predictions is not None and checkpoint is not None:
        raise DescryError("browse: give either --predictions or --checkpoint")
    if review.suffix != ".csv":
        raise DescryError(f"--review {review}: must be a file that ends in .csv")
    there(images, predictions)
    there(checkpoint, what=CHECKPOINT)
    from pipeline.config import load_params

    chosen = load_params(params, changes or ())
    from pipeline.stages.browse import BrowseOptions
    from pipeline.stages.browse import browse as prepare

    options = BrowseOptions(images, split, predictions, checkpoint, threshold, review, port)
    with prepare(chosen, what, options) as server:
        typer.echo(server.address)
        if show:
            webbrowser.open(server.address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo(f"marks: {review}" if review.exists() else "nothing was marked")

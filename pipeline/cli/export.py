"""The `export` command: a model for other runtimes."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    model: Annotated[Path, typer.Argument(help="A model.safetensors.")],
    *,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="The file to write; of a bundle the folder.")
    ],
    to: Annotated[
        str, typer.Option(help="onnx, torch for a PyTorch program (.pt2), or monai for a bundle.")
    ] = "onnx",
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures on which the result must agree with the model; default: "
            "drawn ones."
        ),
    ] = None,
    nms: Annotated[
        str,
        typer.Option(help="Non-maximum suppression inside of an ONNX graph, or outside of it."),
    ] = "outside",
    int8: Annotated[
        str, typer.Option(help="8-bit weights of an ONNX graph: dynamic, or static (by --images).")
    ] = "",
) -> None:
    """Write a model as ONNX or torch.export, if it detects the same there, or as a MONAI bundle."""
    from pipeline.stages.export import run

    found = run(model, out, to, images, nms, int8)
    typer.echo(f"{out}: {found or 'the model itself'}")

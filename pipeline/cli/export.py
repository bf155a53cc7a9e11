"""The `export` command: a model for other runtimes."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    model: Annotated[Path, typer.Argument(help="A model.safetensors.")],
    *,
    out: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")],
    to: Annotated[str, typer.Option(help="onnx, or torch for a PyTorch program (.pt2).")] = "onnx",
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures on which the result must agree with the model; default: "
            "drawn ones."
        ),
    ] = None,
) -> None:
    """Write a model as ONNX or torch.export, if its detections are the same there."""
    from pipeline.stages.export import run

    found = run(model, out, to, images)
    typer.echo(f"{out}: {found}")

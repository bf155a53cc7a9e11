"""The `init` command: a project of one's own, and datasets for it."""

import re
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import DescryError


def init(
    folder: Annotated[Path, typer.Argument(help="The project; new, or an existing one.")] = Path(),
    data: Annotated[
        Path | None,
        typer.Option(help="Images with boxes or masks, volumes, DICOM: a dataset of your own."),
    ] = None,
    name: Annotated[str, typer.Option(help="Of the dataset; default: that of --data.")] = "",
    layout: Annotated[
        str, typer.Option(help="coco, voc, yolo, masks, csv, ..., where it is not evident.")
    ] = "auto",
    augment: Annotated[
        str, typer.Option(help="none, flip, xray, mri, microscopy or natural.")
    ] = "none",
) -> None:
    """Write a project's params.yaml, dvc.yaml and folders, or add a dataset to it."""
    from pipeline.project.create import PARAMS, NewDataset, add_dataset, create_project
    from pipeline.project.look import look

    exists = (folder / PARAMS).exists()
    if exists and data is None:
        raise DescryError(f"{folder / PARAMS}: is there already; add a dataset with --data FOLDER")
    chosen = name or (_plain(data.resolve().name) if data else "my_data")
    seen = look(data, layout) if data else None
    dataset = NewDataset(chosen, seen.layout if seen else layout, augment, data)
    (add_dataset if exists else create_project)(folder, dataset)
    typer.echo(f"{chosen}: {seen or f'put images and labels into {folder}/datasets/{chosen}/raw'}")
    if augment == "none":
        typer.echo(f"augment.{chosen} is none: say in {folder / PARAMS} what leaves your pictures")
        typer.echo("  of their kind (flip, xray, mri, microscopy, natural)")
    where = "" if folder == Path() else f"cd {folder} && "
    typer.echo(f"next: {where}descry convert {chosen}, or all at once: dvc repro")


def _plain(name: str) -> str:
    """A folder's name as a dataset may be called."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return plain if plain[:1].isalpha() else f"data_{plain}".rstrip("_")

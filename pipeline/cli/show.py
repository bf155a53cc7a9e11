"""The `show` command: what a model file says of itself."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer


def show(
    model: Annotated[Path, typer.Argument(help="A model.safetensors.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what a model is: format, detector, classes, thresholds, origin, figures."""
    from pipeline.models import storage

    content = storage.read(model)
    said: dict[str, Any] = {
        "format": content.format,
        "written by descry": content.version,
        "weights": sum(value.numel() for value in content.weights.values()),
        "detector": asdict(content.about.detector),
        **content.meta,
    }
    typer.echo(json.dumps(said, indent=1, sort_keys=True) if as_json else "\n".join(_lines(said)))


def _lines(tree: dict[str, Any], above: str = "") -> list[str]:
    """Dotted names and values, one a line."""
    lines = []
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            lines += _lines(value, f"{above}{key}.")
        else:
            lines.append(f"{above}{key}: {value}")
    return lines

"""The file of a model: weights as safetensors, and beside them, as JSON, all that they need.

A file of any released format is read; nothing in it is ever executed. What the JSON says is
checked whole before a detector is built of it.

Format 2 (``.safetensors``): the weights by name; one metadata entry "descry" with JSON: "format",
"version" (of descry that wrote it), "about". Format 1 (``.pt``): a dictionary of PyTorch with
"descry" (1), "about" (JSON) and "weights".
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pipeline import __version__
from pipeline.atomic import replacing
from pipeline.data.intensity import Intensity
from pipeline.errors import DescryError, first_line
from pipeline.models.params import DetectorSpec
from pipeline.schema import Fraction, Schema

FORMAT = 2
SUFFIX = ".safetensors"
WAY_OUT = "give a model.safetensors that `descry train` wrote"
_PACKED = b"PK"  # what a zip archive, as torch.save makes it, begins with


@dataclass(frozen=True, config=ConfigDict(extra="ignore", strict=True))
class About:
    """What a model file has to say, and what it may; all else in it is for people.

    Attributes
    ----------
    detector : DetectorSpec
    categories : tuple of (id, name)
        In the order of the labels.
    intensity : Intensity
    image_size : int
        Side in pixels of the square that images are fitted into.
    score_threshold : float
        The operating point of all classes.
    dataset : str
        What it was trained on.
    score_threshold_source, class_thresholds, class_threshold_sources
        See `pipeline.models.thresholds`.
    modality : tuple of str
        DICOM modalities that the images resemble.
    longest_side : int or None
        Of the largest image of training, in pixels.
    """

    detector: DetectorSpec
    categories: tuple[tuple[int, str], ...]
    intensity: Intensity
    image_size: int
    score_threshold: Fraction
    dataset: str
    score_threshold_source: str = "unknown"
    class_thresholds: dict[str, Fraction] = field(default_factory=dict)
    class_threshold_sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    modality: tuple[str, ...] = ()
    longest_side: int | None = None


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True))
class Content:
    """A model file that was read: what was checked, all that it says, its weights and format."""

    about: About
    meta: dict[str, Any]
    weights: dict[str, Tensor]
    format: int
    version: str


def write(
    path: Path, weights: Mapping[str, Tensor], spec: DetectorSpec, meta: Mapping[str, Any]
) -> None:
    """Write a model file atomically; equal models give equal bytes."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    about = {**meta, "detector": asdict(spec)}
    header = {"format": FORMAT, "version": __version__, "about": about}
    # one entry: safetensors writes several in an order of its own
    metadata = {"descry": json.dumps(header, sort_keys=True)}
    with replacing(path, "wb") as stream:
        stream.write(save(tensors, metadata))


def read(path: Path) -> Content:
    """Read a model file of any format.

    Raises
    ------
    DescryError
        When the file is missing, is not one of ours, was written by a later version, or does not
        say what it has to.
    """
    if not path.is_file():
        raise DescryError(f"{path}: no such checkpoint; {WAY_OUT}")
    with path.open("rb") as stream:
        packed = stream.read(2) == _PACKED
    header, weights = _read_format_1(path) if packed else _read_safetensors(path)
    number, version = header.get("format"), str(header.get("version", "?"))
    if not isinstance(number, int) or not 1 <= number <= FORMAT:
        raise DescryError(
            f"{path}: written by descry {version} in format {number}; this is descry "
            f"{__version__}, which reads formats 1 to {FORMAT}: update it"
        )
    meta = header.get("about")
    about = check_about(path, meta, version)
    assert isinstance(meta, dict)
    del meta["detector"]
    return Content(about, meta, weights, number, version)


def check_about(path: Path, meta: Any, version: str) -> About:
    """What a model says of itself, every field checked; `version` wrote it."""
    mistakes: list[str] = []
    about = None
    try:
        about = Schema(About, ("about",)).read(meta, mistakes)
    except DescryError as error:  # of a group inside that checks itself
        mistakes.append(str(error))
    if about is not None and len(about.categories) != about.detector.num_classes:
        mistakes.append(
            f"about.categories names {len(about.categories)} classes, the detector has "
            f"{about.detector.num_classes}"
        )
    if mistakes or about is None:
        raise DescryError(
            "\n".join(f"{path}: {mistake}" for mistake in mistakes)
            + f"\n(written by descry {version}, read by {__version__}; {WAY_OUT})"
        )
    return about


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as content:
            metadata = content.metadata() or {}
            weights = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise DescryError(
            f"{path}: not a readable checkpoint ({first_line(error)}); {WAY_OUT}"
        ) from error
    if "descry" not in metadata:
        raise DescryError(
            f"{path}: weights, but not a model of descry; {WAY_OUT}, or start a training from it: "
            f"-S train.init={path}"
        )
    return parse_header(path, metadata["descry"]), weights


def _read_format_1(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load documents no set of exceptions
        raise DescryError(
            f"{path}: not a readable checkpoint (damaged, or more than plain data); {WAY_OUT}"
        ) from error
    if not isinstance(content, dict) or content.get("descry") != 1:
        raise DescryError(f"{path}: not a model of descry; {WAY_OUT}")
    meta = parse_header(path, content.get("about"))
    weights = content.get("weights")
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise DescryError(f"{path}: its weights are damaged; {WAY_OUT}")
    versions = meta.get("versions")
    version = versions.get("descry", "?") if isinstance(versions, dict) else "?"
    return {"format": 1, "version": version, "about": meta}, weights


def parse_header(path: Path, text: Any) -> dict[str, Any]:
    """The JSON object in a model file's metadata."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError) as error:
        raise DescryError(f"{path}: what it says of itself is damaged; {WAY_OUT}") from error
    if not isinstance(found, dict):
        raise DescryError(f"{path}: what it says of itself is damaged; {WAY_OUT}")
    return found

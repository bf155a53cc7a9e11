"""Weights to start a training from: a model of one's own, or what others have published.

A published file fills the backbone (`pipeline.models.layouts` knows the names); pyramid and head
start anew. One's own model fills all that fits: another set of classes starts the class layer
anew, an interaction that the source has not starts as it always does, which changes no output.
Nothing is guessed: what the file holds beyond that is refused by name.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import DescryError, first_line
from pipeline.models import storage
from pipeline.models.build import build_detector
from pipeline.models.detector import Colours, Detector
from pipeline.models.layouts import LAYOUTS, PREFIXES, Layout
from pipeline.models.params import DetectorSpec, checked

NESTED = ("model_ema", "model", "state_dict", "params")  # where published files keep the weights
BACKBONE = "backbone.backbone."
ANEW = "random weights"
_NORMALISATIONS = {
    "config.json": ("mean", "std"),
    "preprocessor_config.json": ("image_mean", "image_std"),
}
_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Source:
    """Weights under our names, and what is known of them.

    Attributes
    ----------
    name : str
        Of the file, without its folder.
    sha256 : str
    layout : str
        Whose names the file has.
    weights : dict
        By the names of a detector; a published file has those of the backbone alone.
    spec : DetectorSpec or None
        Of one's own model.
    classes : tuple of str
        Of one's own model.
    mean, std : tuple of float
        How its images, RGB from 0 to 1, were normalised.
    left_out : tuple of str
        Names of theirs that a detector has no use for.
    """

    name: str
    sha256: str
    layout: str
    weights: dict[str, Tensor]
    spec: DetectorSpec | None
    classes: tuple[str, ...]
    mean: Colours
    std: Colours
    left_out: tuple[str, ...] = ()

    def about(self) -> dict[str, str]:
        """What a model that started from it says."""
        return {"file": self.name, "sha256": self.sha256, "layout": self.layout}

    def adapt(self, spec: DetectorSpec) -> DetectorSpec:
        """The detector that normalises its images as the source did.

        Raises
        ------
        DescryError
            When one's own model has another backbone.
        """
        if self.spec is not None and self.spec.backbone != spec.backbone:
            raise DescryError(
                f"train.init: {self.name} has a {self.spec.backbone} backbone, model.backbone is "
                f"{spec.backbone}; set it to {self.spec.backbone}"
            )
        return replace(spec, mean=self.mean, std=self.std)


@dataclass(slots=True)
class Report:
    """What became of a detector's weights, by their names.

    Attributes
    ----------
    filled, resized, kept : list of str
        From the source; from the source after a change of size; as they were drawn.
    left_out : tuple of str
        What the source has and a detector has no use for.
    """

    filled: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    left_out: tuple[str, ...] = ()

    def text(self) -> str:
        """One line for the console."""
        parts = [f"{len(self.filled)} tensors filled"]
        for what, names in (("resized", self.resized), ("start anew", self.kept)):
            parts += [f"{len(names)} {what} ({_few(names)})"] if names else []
        parts += [f"{len(self.left_out)} not used"] if self.left_out else []
        return ", ".join(parts)


def read_source(path: Path, backbone: str) -> Source:
    """Read a file of weights: a model of ours, .safetensors, .pt or .pth; no code in it is run.

    Raises
    ------
    DescryError
        When the file cannot be read, or is not of this backbone.
    """
    if not path.is_file():
        raise DescryError(f"train.init: {path}: no such file; give a local file of weights, or ''")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if _is_ours(path):
        content = storage.read(path)
        spec, about = content.about.detector, content.about
        classes = tuple(name for _, name in about.categories)
        return Source(
            path.name, digest, "descry", content.weights, spec, classes, spec.mean, spec.std
        )
    weights = _without_prefix(_plain(path))
    layout = _layout_of(weights, backbone, path)
    named, left_out = _translated(weights, layout, path)
    mean, std = _normalisation(path)
    return Source(path.name, digest, layout.name, named, None, (), mean, std, left_out)


def fill(detector: Detector, spec: DetectorSpec, source: Source, classes: Sequence[str]) -> Report:
    """Put a source's weights into a freshly built detector.

    Raises
    ------
    DescryError
        When something in the source has no place in the detector, or another size.
    """
    state, report = detector.state_dict(), Report(left_out=source.left_out)
    of_classes = _class_dependent(spec) if tuple(classes) != source.classes else set()
    given = dict(source.weights)
    if "class_token" not in {name.rsplit(".", 1)[-1] for name in state}:
        dropped = given.pop(BACKBONE + "class_token", None)
        if dropped is not None:
            report.left_out += ("class token",)
    foreign = _of_another_task(given, source.spec, spec)
    given = {name: value for name, value in given.items() if name not in foreign}
    report.left_out += foreign
    strange = [n for n in given if n not in state and n not in of_classes]
    if strange:
        raise DescryError(
            f"train.init: {source.name} holds what this detector has no place for: "
            f"{_few(strange)}; is it of another size or form than model says ({spec.backbone}, "
            f"{spec.size})?"
        )
    for name, place in state.items():
        if name not in given or name in of_classes:
            report.kept.append(name)
            continue
        fitted = _fitted(given[name], place, name)
        if fitted is None:
            raise DescryError(
                f"train.init: {source.name}: {name} is {tuple(given[name].shape)}, this detector's "
                f"{tuple(place.shape)}; is it of another size than model says "
                f"({spec.backbone}, {spec.size})?"
            )
        (report.filled if fitted.numel() == given[name].numel() else report.resized).append(name)
        place.copy_(fitted)
    return report


def _of_another_task(
    given: Mapping[str, Tensor], theirs: DetectorSpec | None, ours: DetectorSpec
) -> tuple[str, ...]:
    """Names of heads that a model of another task has, which start anew."""
    if theirs is None or theirs.task == ours.task:
        return ()
    other = "semantic" in (theirs.task, ours.task)
    heads = ("mask_head.", "head.") if other else ("mask_head.",)
    return tuple(name for name in given if name.startswith(heads))


def _is_ours(path: Path) -> bool:
    """Whether a file says that it is a model of this project, whatever its state."""
    with path.open("rb") as stream:
        head = stream.read(1 << 16)
    if head[:2] == b"PK":  # format 1 names itself in a pickle of plain values
        content = _unpickled(path)
        return isinstance(content, dict) and "descry" in content
    return b'"__metadata__"' in head and b'"descry"' in head


def _plain(path: Path) -> dict[str, Tensor]:
    """Tensors by name, whatever a file wraps them in."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise DescryError(f"train.init: {path}: not readable: {first_line(error)}") from error
    content: Any = _unpickled(path)
    while isinstance(content, dict):
        inner = next((content[key] for key in NESTED if isinstance(content.get(key), dict)), None)
        if inner is None:
            return {str(n): v for n, v in content.items() if isinstance(v, Tensor)}
        content = inner
    raise DescryError(f"train.init: {path}: holds no weights by name")


def _unpickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load documents no set of exceptions
        raise DescryError(
            f"train.init: {path}: not readable, or holds more than plain tensors; convert it to "
            ".safetensors where it comes from"
        ) from error


def _without_prefix(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's weights alone, under its own names."""
    for prefix in PREFIXES:
        own = {n[len(prefix) :]: v for n, v in weights.items() if n.startswith(prefix)}
        if own:
            return _without_prefix(own)
    return dict(weights)


def _layout_of(weights: Mapping[str, Tensor], backbone: str, path: Path) -> Layout:
    marked = [
        layout for layout in LAYOUTS if any(re.fullmatch(layout.mark, name) for name in weights)
    ]
    fitting = [layout for layout in marked if backbone in layout.backbones]
    if fitting:
        return fitting[0]
    known = "; ".join(layout.name for layout in LAYOUTS if backbone in layout.backbones)
    found = f"names of {marked[0].name}" if marked else f"unknown names ({_few(list(weights))})"
    raise DescryError(f"train.init: {path}: has {found}; model.backbone={backbone} reads: {known}")


def _translated(
    weights: Mapping[str, Tensor], layout: Layout, path: Path
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Weights under our names, joined where they come in parts; and what is of no use."""
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    left_out, strange = [], []
    for theirs, value in weights.items():
        ours = layout.translate(theirs)
        if ours is None:
            strange.append(theirs)
        elif not ours:
            left_out.append(theirs)
        elif "|" in ours:
            whole, part = ours.split("|")
            parts.setdefault(whole, {})[int(part)] = value
        else:
            found[BACKBONE + ours] = value
    if strange:
        raise DescryError(
            f"train.init: {path}: {layout.name}, but with names that are none of its: "
            f"{_few(strange)}"
        )
    for whole, pieces in parts.items():
        found[BACKBONE + whole] = torch.cat([pieces[i] for i in sorted(pieces)])
    return found, tuple(left_out)


def _normalisation(path: Path) -> tuple[Colours, Colours]:
    """Mean and deviation as timm's or transformers' file beside the weights says; or ImageNet's."""
    for name, keys in _NORMALISATIONS.items():
        config = path.parent / name
        if config.is_file():
            said = json.loads(config.read_text(encoding="utf-8"))
            said = said.get("pretrained_cfg", said)
            if all(key in said for key in keys):
                mean, std = ([float(value) for value in said[key]] for key in keys)
                spec = checked(DetectorSpec, {"num_classes": 1, "mean": mean, "std": std}, name)
                return spec.mean, spec.std
    plain = DetectorSpec(num_classes=1)
    return plain.mean, plain.std


def _class_dependent(spec: DetectorSpec) -> set[str]:
    """Names of the weights whose size follows from the number of classes."""
    with torch.device("meta"):
        one, two = (
            build_detector(replace(spec, num_classes=spec.num_classes + n)).state_dict()
            for n in (0, 1)
        )
    return {name for name in one if one[name].shape != two[name].shape}


def _fitted(value: Tensor, place: Tensor, name: str) -> Tensor | None:
    """A source's tensor in the shape of its place, or None."""
    last = name.rsplit(".", 1)[-1]
    if value.shape == place.shape:
        return value
    if value.numel() == place.numel() and _solid(value) == _solid(place):
        return value.reshape(place.shape)  # a convolution of 1 x 1 is a linear layer
    if last == "positions":
        return _resized_positions(value.float(), place)
    if last == "table" and value.ndim == place.ndim:
        return _resized_table(value.float(), place)
    return None


def _solid(tensor: Tensor) -> list[int]:
    return [side for side in tensor.shape if side != 1]


def _resized_positions(value: Tensor, place: Tensor) -> Tensor | None:
    """A position table (1, P + N, C) on another grid, the class token's slot kept or cut off."""
    if value.shape[-1] != place.shape[-1]:
        return None
    source, target = isqrt(value.shape[1]), isqrt(place.shape[1])
    prefix, wanted = value.shape[1] - source**2, place.shape[1] - target**2
    if prefix > 1 or wanted > prefix:
        return None
    grid = value[:, prefix:].transpose(1, 2).unflatten(2, (source, source))
    table = _bicubic(grid, (target, target)).flatten(2).transpose(1, 2)
    return torch.cat([value[:, :wanted], table], dim=1)


def _resized_table(value: Tensor, place: Tensor) -> Tensor | None:
    """A relative position table: Swin's ((2w - 1)**2, h), or DAT++'s (h, a, b)."""
    if value.ndim == 3 and value.shape[0] == place.shape[0]:
        return _bicubic(value[None], (place.shape[1], place.shape[2]))[0]
    if value.ndim != 2 or value.shape[1] != place.shape[1]:
        return None
    source, target = isqrt(value.shape[0]), isqrt(place.shape[0])
    grid = value.T.unflatten(1, (source, source))[None]  # (1, h, 2w - 1, 2w - 1)
    return _bicubic(grid, (target, target))[0].flatten(1).T


def _bicubic(grid: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(grid.shape[-2:]) == size:
        return grid
    return F.interpolate(grid, size, mode="bicubic", antialias=False, align_corners=False)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

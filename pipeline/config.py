"""params.yaml as frozen, validated dataclasses: the only configuration there is.

A recipe (``sample`` or ``paper``) holds what depends on the size of the undertaking; all other
groups hold for both. Nothing here imports torch, so that a mistake in params.yaml shows in well
under a second, before any stage starts to work.
"""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pipeline.errors import DescryError

DatasetName = Literal["ccellbio", "cod10k", "brain_tumor", "nih", "rsna"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Side = Annotated[int, Field(ge=64, le=4096, multiple_of=32)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]

_FROZEN = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=_FROZEN)
class Data:
    """Where images come from and how they are divided."""

    source: Literal["sample", "raw"] = "sample"
    seed: Seed = 0
    val_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.15
    test_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.2


@dataclass(frozen=True, config=_FROZEN)
class CCellBioParams:
    """Adapter for COCO, VOC and YOLO layouts, with tiling of large slides (pixels)."""

    layout: Literal["auto", "coco", "voc", "yolo"] = "auto"
    classes: tuple[str, ...] = ()
    tile: Annotated[int, Field(ge=0)] = 0
    tile_overlap: Annotated[int, Field(ge=0)] = 0
    tile_keep: Fraction = 0.5


@dataclass(frozen=True, config=_FROZEN)
class Cod10kParams:
    """Which annotation and which class system of COD10K."""

    annotations: Literal["auto", "json", "instance", "object"] = "auto"
    classes: Literal["single", "super", "sub"] = "single"
    noncam: bool = True
    object_boxes: Literal["image", "component"] = "image"


@dataclass(frozen=True, config=_FROZEN)
class BrainTumorParams:
    """Which of the brain-tumor layouts, and Cheng's cross-validation fold for testing."""

    layout: Literal["auto", "cheng", "yolo"] = "auto"
    plane: Literal["all", "axial", "coronal", "sagittal"] = "all"
    fold: Annotated[int, Field(ge=0, le=5)] = 1
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, config=_FROZEN)
class NihParams:
    """`negatives`: images without finding per boxed image."""

    negatives: NotNegative = 1.0


@dataclass(frozen=True, config=_FROZEN)
class RsnaParams:
    """`mapping`: path of RSNA's mapping to NIH patients; empty looks for it in the raw folder."""

    mapping: str = ""


@dataclass(frozen=True, config=_FROZEN)
class Convert:
    """Choices of each converter."""

    png_level: Annotated[int, Field(ge=0, le=9)] = 1
    ccellbio: CCellBioParams = CCellBioParams()
    cod10k: Cod10kParams = Cod10kParams()
    brain_tumor: BrainTumorParams = BrainTumorParams()
    nih: NihParams = NihParams()
    rsna: RsnaParams = RsnaParams()


@dataclass(frozen=True, config=_FROZEN)
class IntensityParams:
    """From stored values to 8 bits where there are more than 8; see `pipeline.data.intensity`."""

    window: Literal["first", "none"] = "first"
    low_percentile: Annotated[float, Field(ge=0.0, lt=50.0)] = 0.5
    high_percentile: Annotated[float, Field(gt=50.0, le=100.0)] = 99.5


AugmentName = Literal["none", "flip", "xray", "mri", "microscopy", "natural"]


@dataclass(frozen=True, config=_FROZEN)
class Augment:
    """The augmentation recipe of each dataset; see `pipeline.data.augment`."""

    ccellbio: AugmentName = "microscopy"
    cod10k: AugmentName = "natural"
    brain_tumor: AugmentName = "mri"
    nih: AugmentName = "xray"
    rsna: AugmentName = "xray"


@dataclass(frozen=True, config=_FROZEN)
class Model:
    """Backbone and interaction; the size of it stands in the recipe."""

    backbone: Literal["vit", "swin", "dat", "acmix_swin", "acmix_resnet", "glnet"] = "vit"
    pool_layers: Annotated[int, Field(ge=0, le=8)] = 2
    concepts: Annotated[int, Field(ge=0, le=256)] = 16
    placement: Literal["stream", "branch"] = "stream"
    pool_stride: Literal[1, 2] = 1
    copies: bool = False
    width: Annotated[int, Field(ge=0, le=4096)] = 0
    drop_path: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0


@dataclass(frozen=True, config=_FROZEN)
class Train:
    """Optimisation; see `pipeline.train.schedule` and `pipeline.train.settings`.

    `lr` is for `lr_batch` images a step and scales with the images of a step. `compile`,
    `channels_last` and `fused` are about speed, but they change bits.
    """

    seed: Seed = 0
    lr: Positive = 1e-3
    lr_batch: Annotated[int, Field(ge=1)] = 16
    weight_decay: NotNegative = 0.05
    schedule: Literal["cosine", "step"] = "cosine"
    warmup: Fraction = 0.05
    final_lr: Fraction = 0.01
    milestones: tuple[Fraction, ...] = (0.7, 0.9)
    decay: Fraction = 0.1
    clip_norm: Positive = 1.0
    accumulate: Annotated[int, Field(ge=1)] = 1
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    keep: Literal["last", "best"] = "last"
    precision: Literal["fp32", "bf16"] = "fp32"
    deterministic: bool = True
    gradient_checkpointing: bool = False
    compile: bool = False
    channels_last: bool = False
    fused: bool = True


@dataclass(frozen=True, config=_FROZEN)
class Evaluate:
    """Detections kept for the metrics, how many pictures are drawn, and how sure the figures are.

    `gallery` counts crops of each kind (false positives, missed objects, true positives).
    `resamples` and `seed` make the bootstrap intervals, of which `level` is the coverage.
    """

    score_threshold: Fraction = 0.05
    nms_threshold: Fraction = 0.5
    max_detections: Annotated[int, Field(ge=1, le=1000)] = 100
    pictures: Annotated[int, Field(ge=0)] = 8
    gallery: Annotated[int, Field(ge=0)] = 12
    resamples: Annotated[int, Field(ge=0, le=100_000)] = 1000
    seed: Seed = 0
    level: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95


@dataclass(frozen=True, config=_FROZEN)
class Predict:
    """The pipeline's own inference stage: whose model, on which folder."""

    dataset: DatasetName = "rsna"
    source: str = "datasets/rsna/sample/stage_2_train_images"


@dataclass(frozen=True, config=_FROZEN)
class Machine:
    """What changes speed but not what is computed; no stage depends on it.

    ``device: auto`` takes a GPU where there is one. ``workers: -1`` takes one per core. `cache` is
    where decoded training images are kept, `cache_gib` how many GiB of them. `devices` are
    training processes, `scratch` the folder in which an interrupted run is kept. (Another device
    or number of processes does give other bits, see docs/training.md.)
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Annotated[int, Field(ge=-1, le=256)] = -1
    cache: Annotated[str, Field(min_length=1)] = "auto"
    cache_gib: Positive = 50.0
    devices: Annotated[int, Field(ge=1, le=64)] = 1
    scratch: Annotated[str, Field(min_length=1)] = ".descry"
    checkpoint_minutes: NotNegative = 5.0
    track: bool = False


@dataclass(frozen=True, config=_FROZEN)
class Epochs:
    """Passes over the training split, per dataset."""

    ccellbio: Annotated[int, Field(ge=1)] = 30
    cod10k: Annotated[int, Field(ge=1)] = 30
    brain_tumor: Annotated[int, Field(ge=1)] = 30
    nih: Annotated[int, Field(ge=1)] = 30
    rsna: Annotated[int, Field(ge=1)] = 30


@dataclass(frozen=True, config=_FROZEN)
class Recipe:
    """What depends on the size of the undertaking.

    `image_size` is the side in pixels of the square that images are fitted into, `train_sizes`
    the sides of which each training step takes one (none: `image_size`), `anchor_scale` the side
    of the smallest anchor in units of its level's stride.
    """

    size: Literal["micro", "tiny", "small", "base"] = "small"
    image_size: Side = 512
    train_sizes: tuple[Side, ...] = ()
    fpn_channels: Annotated[int, Field(ge=16, le=1024, multiple_of=16)] = 256
    anchor_scale: Positive = 4.0
    batch_size: Annotated[int, Field(ge=1)] = 16
    epochs: Epochs = Epochs()


@dataclass(frozen=True, config=_FROZEN)
class Recipes:
    """The two sizes of undertaking."""

    sample: Recipe = Recipe()
    paper: Recipe = Recipe()


@dataclass(frozen=True, config=_FROZEN)
class Params:
    """All of params.yaml."""

    recipe: Literal["sample", "paper"] = "sample"
    datasets: Annotated[tuple[DatasetName, ...], Field(min_length=1)] = (
        "ccellbio",
        "cod10k",
        "brain_tumor",
        "nih",
        "rsna",
    )
    data: Data = Data()
    convert: Convert = Convert()
    intensity: IntensityParams = IntensityParams()
    augment: Augment = Augment()
    model: Model = Model()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    predict: Predict = Predict()
    machine: Machine = Machine()
    recipes: Recipes = Recipes()

    @property
    def scale(self) -> Recipe:
        """The recipe in force."""
        return getattr(self.recipes, self.recipe)


_ADAPTER = TypeAdapter(Params)
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


def load_params(path: Path = Path("params.yaml"), overrides: Sequence[str] = ()) -> Params:
    """Read and check params.yaml; ``key=value`` overrides go on top.

    Without the file (outside a project folder) the defaults hold.

    Raises
    ------
    DescryError
        Naming the file, the key, the value and what is allowed.
    """
    tree = _read(path) if path.exists() else {}
    for override in overrides:
        _override(tree, override)
    return validate(tree, str(path))


def validate(tree: Mapping[str, Any], name: str = "params.yaml") -> Params:
    """Check a tree of plain values as `Params`."""
    try:
        return _ADAPTER.validate_json(json.dumps(_read_floats(tree), default=str))
    except ValidationError as error:
        lines = [_explain(dict(item)) for item in error.errors(include_url=False)]
        raise DescryError("\n".join(f"{name}: {line}" for line in lines)) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise DescryError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise DescryError(f"{path}: must be a mapping of parameter groups, not {tree!r}")
    return tree


def _override(tree: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals:
        raise DescryError(f"-S {text}: write it as key=value, for example model.pool_layers=3")
    *parents, last = key.strip().split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise DescryError(f"-S {text}: {parent} is a value, not a group")
    tree[last] = yaml.safe_load(value)


def _read_floats(value: Any) -> Any:
    """Make floats of what YAML 1.1 leaves as text, such as ``1e-4``."""
    if isinstance(value, dict):
        return {key: _read_floats(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_read_floats(inner) for inner in value]
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    return value


def _explain(item: dict[str, Any]) -> str:
    where = [str(part) for part in item["loc"]]
    key, value = ".".join(where), item["input"]
    if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return _explain_unknown(where)
    if item["type"] in ("dataclass_type", "dataclass_exact_type"):
        return f"{key} = {value!r} must be a group of keys: {', '.join(_keys(where))}"
    return f"{key} = {value!r} is not allowed: must be {_allowed(where)}"


def _explain_unknown(where: list[str]) -> str:
    known = _keys(where[:-1])
    close = difflib.get_close_matches(where[-1], known, 1)
    hint = f" Did you mean {'.'.join([*where[:-1], close[0]])}?" if close else ""
    return f"{'.'.join(where)} is not a known key.{hint} Known here: {', '.join(known) or 'none'}"


def _keys(where: Sequence[str]) -> list[str]:
    return list(_schema(where).get("properties", {}))


def _schema(where: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of the value at a path of keys."""
    root = _ADAPTER.json_schema()
    node = root
    for part in where:
        node = node.get("items", {}) if part.isdigit() else node.get("properties", {}).get(part, {})
        if "$ref" in node:
            node = root["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node


def _allowed(where: Sequence[str]) -> str:
    node = _schema(where)
    if "enum" in node:
        return "one of " + ", ".join(map(str, node["enum"]))
    if node.get("type") == "array":
        return f"a list of {_allowed([*where, '0']).removeprefix('a list of ')}"
    kind = {"integer": "an integer", "number": "a number", "boolean": "true or false"}
    words = [kind.get(node.get("type", ""), "text")]
    limits = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}
    limits |= {"exclusiveMaximum": "below", "multipleOf": "a multiple of"}
    words += [f"{text} {node[key]:g}" for key, text in limits.items() if key in node]
    return ", ".join(words)

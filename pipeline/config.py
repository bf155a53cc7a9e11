"""params.yaml as frozen, validated dataclasses: the only configuration there is.

A recipe (``sample`` or ``paper``) holds what depends on the size of the undertaking; all other
groups hold for both. A dataset of one's own is a group in `convert`; its name then stands in the
other groups by dataset, too. Nothing here imports torch, so that a mistake in params.yaml shows in
well under a second, before any stage starts to work.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pipeline.errors import DescryError
from pipeline.schema import Schema

BuiltIn = Literal["ccellbio", "cod10k", "brain_tumor", "nih", "rsna"]
DatasetName = str  # one of these, or of one's own
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Side = Annotated[int, Field(ge=64, le=4096, multiple_of=32)]
Passes = Annotated[int, Field(ge=1)]
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
class FolderParams:
    """Adapter for COCO, VOC, YOLO and mask layouts, with tiling of large slides (pixels).

    `masks` says what a value in a mask is: an object or a class. `group` is a regular expression
    for what in a path names the patient or slide.
    """

    layout: Literal["auto", "coco", "voc", "yolo", "masks"] = "auto"
    classes: tuple[str, ...] = ()
    masks: Literal["instances", "classes"] = "instances"
    group: str = ""
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
    ccellbio: FolderParams = FolderParams()
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
class Modality:
    """DICOM modalities like the dataset's images (PS3.3 C.7.3.1.1.1); none: not radiology."""

    ccellbio: tuple[str, ...] = ()
    cod10k: tuple[str, ...] = ()
    brain_tumor: tuple[str, ...] = ("MR",)
    nih: tuple[str, ...] = ("CR", "DX")
    rsna: tuple[str, ...] = ("CR", "DX")


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

    dataset: BuiltIn = "rsna"
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

    ccellbio: Passes = 30
    cod10k: Passes = 30
    brain_tumor: Passes = 30
    nih: Passes = 30
    rsna: Passes = 30


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
    datasets: Annotated[tuple[BuiltIn, ...], Field(min_length=1)] = get_args(BuiltIn)
    data: Data = Data()
    convert: Convert = Convert()
    intensity: IntensityParams = IntensityParams()
    augment: Augment = Augment()
    modality: Modality = Modality()
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

    @property
    def known(self) -> tuple[str, ...]:
        """All datasets that have parameters, whether chosen in `datasets` or not."""
        return tuple(field.name for field in fields(self.augment))


_NAME = re.compile(r"[a-z][a-z0-9_]*")
_TAKEN = ("compare", "grid", "metrics", "predict", "report")  # folders of runs/ that are no dataset
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
    own = _own_datasets(tree)
    schema = _schema(own)
    if own:  # how they are augmented has to be said: not every picture may be mirrored
        tree = {"augment": {}, **tree}
    try:
        return schema.adapter.validate_json(json.dumps(_read_floats(tree), default=str))
    except ValidationError as error:
        lines = [schema.explain(dict(item)) for item in error.errors(include_url=False)]
        if own:
            lines.append(f"(datasets of your own, as convert has their groups: {', '.join(own)})")
        raise DescryError("\n".join(f"{name}: {line}" for line in lines)) from None


def _own_datasets(tree: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the groups in `convert` that are not of a dataset we know."""
    convert = tree.get("convert")
    if not isinstance(convert, Mapping):
        return ()
    known = {field.name for field in fields(Convert)}
    groups = [str(key) for key, value in convert.items() if isinstance(value, Mapping)]
    taken = [key for key in groups if key in _TAKEN]
    if taken:
        raise DescryError(f"convert.{taken[0]}: is no name for a dataset, see runs/{taken[0]}")
    return tuple(key for key in groups if key not in known and _NAME.fullmatch(key))


@lru_cache(maxsize=8)
def _schema(own: tuple[str, ...]) -> Schema[Params]:
    """The schema of `Params`, with one's own datasets wherever datasets have a key."""
    if not own:
        return Schema(TypeAdapter(Params))
    names: Any = Literal[(*get_args(BuiltIn), *own)]
    datasets = Annotated[tuple[names, ...], Field(min_length=1)]
    epochs = _wider(Epochs, dict.fromkeys(own, (Passes, 30)))
    recipe = _wider(Recipe, {"epochs": (epochs, epochs())})
    recipes = _wider(Recipes, {key: (recipe, recipe()) for key in ("sample", "paper")})
    convert = _wider(Convert, {name: (FolderParams, FolderParams()) for name in own})
    modality = _wider(Modality, dict.fromkeys(own, (tuple[str, ...], ())))
    predict = _wider(Predict, {"dataset": (names, "rsna")})
    augment = _wider(Augment, dict.fromkeys(own, (AugmentName,)))
    changed: dict[str, tuple[Any, ...]] = {
        "datasets": (datasets, get_args(BuiltIn)),
        "convert": (convert, convert()),
        "augment": (augment,),
        "modality": (modality, modality()),
        "predict": (predict, predict()),
        "recipes": (recipes, recipes()),
    }
    return Schema(TypeAdapter(_wider(Params, changed)))


def _wider(group: type, more: Mapping[str, tuple[Any, ...]]) -> Any:
    """A group with further or changed keys: name -> (type,) or (type, default)."""
    defaults = {name: given[1] for name, given in more.items() if len(given) > 1}
    annotations = {name: given[0] for name, given in more.items()}
    body = {"__annotations__": annotations, "__module__": __name__, **defaults}
    wider = type(group.__name__, (group,), body)
    return dataclass(frozen=True, config=_FROZEN, kw_only=True)(wider)


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

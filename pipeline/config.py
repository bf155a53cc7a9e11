"""params.yaml as frozen, validated dataclasses: the only configuration there is.

A recipe (``sample`` or ``paper``) holds what depends on the size of the undertaking; all other
groups hold for both. What belongs to a dataset (its group in `convert`, its defaults) stands in
`pipeline.convert.registry`; a dataset of one's own is a group in `convert` of a new name. Nothing
here imports torch, so that a mistake in params.yaml shows in well under a second, before any stage
starts to work.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import field, make_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.convert.registry import AugmentName, Dataset, annotated, built_in
from pipeline.errors import DescryError
from pipeline.models.params import Model, Scale, Selection
from pipeline.schema import FROZEN, Fraction, NotNegative, Positive, Schema, unknown_key
from pipeline.yaml_text import read_yaml

DatasetName = str  # of a built-in dataset, or of one of your own
Side = Annotated[int, Field(ge=64, le=4096, multiple_of=32)]
Passes = Annotated[int, Field(ge=1)]
TrackerName = Literal["dvclive", "mlflow", "tensorboard", "wandb"]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


def _defaults(key: str) -> dict[str, Any]:
    """What the built-in datasets say of themselves: name -> value."""
    return {name: getattr(one, key) for name, one in built_in().items()}


@cache
def _convert(datasets: tuple[Dataset, ...]) -> Schema[Any]:
    """The group `convert`: `png_level`, and a group for each of the datasets."""
    level: Any = Annotated[int, Field(ge=0, le=9)]
    groups = [(one.name, one.params, one.params()) for one in datasets]
    plain = make_dataclass("Convert", [("png_level", level, 1), *groups], frozen=True)
    return Schema(dataclass(frozen=True, config=FROZEN)(plain), ("convert",))


@dataclass(frozen=True, config=FROZEN)
class Data:
    """Where images come from and how they are divided."""

    source: Literal["sample", "raw"] = "sample"
    seed: Seed = 0
    val_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.15
    test_fraction: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.2


@dataclass(frozen=True, config=FROZEN)
class IntensityParams:
    """From stored values to 8 bits where there are more than 8; see `pipeline.data.intensity`."""

    window: Literal["first", "none"] = "first"
    low_percentile: Annotated[float, Field(ge=0.0, lt=50.0)] = 0.5
    high_percentile: Annotated[float, Field(gt=50.0, le=100.0)] = 99.5


@dataclass(frozen=True, config=FROZEN)
class Train:
    """Optimisation; see `pipeline.train.optimisation` and `pipeline.train.settings`.

    `lr` is for `lr_batch` images a step and grows with the root of a step's images. `steps` are the
    least updates of a run. `augment_strength`, `mosaic` and `oversample` are those of
    `pipeline.data.loader`, `weak_epochs` is the share of the epochs at the end without them. `init`
    is a file of weights to start from, empty: random weights. `compile`, `channels_last` and
    `fused` are about speed, but change bits.
    """

    seed: Seed = 0
    init: str = ""
    lr: Positive = 1e-3
    lr_batch: Annotated[int, Field(ge=1)] = 16
    weight_decay: NotNegative = 0.05
    schedule: Literal["cosine", "flat", "step"] = "cosine"
    warmup: Fraction = 0.05
    final_lr: Fraction = 0.01
    flat: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    milestones: tuple[Fraction, ...] = (0.7, 0.9)
    decay: Fraction = 0.1
    clip_norm: Positive = 1.0
    steps: Annotated[int, Field(ge=0)] = 0
    accumulate: Annotated[int, Field(ge=1)] = 1
    augment_strength: Annotated[float, Field(ge=0.0, le=3.0)] = 1.0
    weak_epochs: Fraction = 0.0
    mosaic: Fraction = 0.0
    oversample: Fraction = 0.0
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    keep: Literal["last", "best"] = "last"
    precision: Literal["fp32", "bf16"] = "fp32"
    deterministic: bool = True
    gradient_checkpointing: bool = False
    compile: bool = False
    channels_last: bool = False
    fused: bool = True


@dataclass(frozen=True, config=FROZEN)
class Pretrain:
    """Masked-image pretraining before training; see `pipeline.train.pretrain`.

    `epochs` 0 leaves it out. `lr` is for ``train.lr_batch`` images a step.
    """

    epochs: Annotated[int, Field(ge=0)] = 0
    mask_ratio: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.6
    lr: Positive = 1e-3


@dataclass(frozen=True, config=FROZEN)
class Evaluate(Selection):
    """How detections are found for the metrics, what is drawn, and how sure the figures are.

    `suppression` and `tta` are those of `pipeline.models.ensemble`. `gallery` counts crops of
    each kind (false positives, missed objects, true positives).
    `resamples` and `seed` make the bootstrap intervals, of which `level` is the coverage.
    """

    suppression: Literal["nms", "soft_nms", "wbf"] = "nms"
    tta: tuple[Literal["flip", "scale"], ...] = ()
    pictures: Annotated[int, Field(ge=0)] = 8
    gallery: Annotated[int, Field(ge=0)] = 12
    resamples: Annotated[int, Field(ge=0, le=100_000)] = 1000
    seed: Seed = 0
    level: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.95


@dataclass(frozen=True, config=FROZEN)
class Predict:
    """The pipeline's own inference stage: which saved model, on which folder."""

    model: Annotated[str, Field(min_length=1)] = "zoo/bccd_cells/model.safetensors"
    source: Annotated[str, Field(min_length=1)] = "zoo/bccd_cells/test_images"


@dataclass(frozen=True, config=FROZEN)
class Machine:
    """What changes speed but not what is computed; no stage depends on it.

    ``device: auto`` takes a GPU where there is one. ``workers: -1`` takes one per core. `cache` is
    where decoded training images are kept, `cache_gib` how many GiB of them. `devices` are
    training processes, `scratch` the folder in which an interrupted run is kept, `track` what hears
    of every epoch. (Another device
    or number of processes does give other bits, see docs/how-to/training.md.)
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Annotated[int, Field(ge=-1, le=256)] = -1
    cache: Annotated[str, Field(min_length=1)] = "auto"
    cache_gib: Positive = 50.0
    devices: Annotated[int, Field(ge=1, le=64)] = 1
    scratch: Annotated[str, Field(min_length=1)] = ".descry"
    checkpoint_minutes: NotNegative = 5.0
    track: tuple[TrackerName, ...] = ()


@dataclass(frozen=True, config=FROZEN)
class Recipe:
    """What depends on the size of the undertaking.

    `model` is the size of the detector, `image_size` the side in pixels of the square that images
    are fitted into, `train_sizes` the sides of which each training step takes one (none:
    `image_size`).
    """

    model: Scale = Scale()
    image_size: Side = 512
    train_sizes: tuple[Side, ...] = ()
    batch_size: Annotated[int, Field(ge=1)] = 16
    epochs: dict[DatasetName, Passes] = field(default_factory=lambda: _defaults("epochs"))


@dataclass(frozen=True, config=FROZEN)
class Recipes:
    """The two sizes of undertaking."""

    sample: Recipe = Recipe()
    paper: Recipe = Recipe()


@dataclass(frozen=True, config=FROZEN)
class Params:
    """All of params.yaml.

    `convert` has `png_level` and a group for each dataset, of the type that its entry in
    `pipeline.convert.registry` names; `augment`, `modality` and the recipes' `epochs` have a value
    for each.
    """

    recipe: Literal["sample", "paper"] = "sample"
    datasets: Annotated[tuple[DatasetName, ...], Field(min_length=1)] = tuple(built_in())
    data: Data = Data()
    convert: Any = field(default_factory=lambda: _convert(tuple(built_in().values())).kind())
    intensity: IntensityParams = IntensityParams()
    augment: dict[DatasetName, AugmentName] = field(default_factory=lambda: _defaults("augment"))
    modality: dict[DatasetName, tuple[str, ...]] = field(
        default_factory=lambda: _defaults("modality")
    )
    model: Model = Model()
    pretrain: Pretrain = Pretrain()
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
        return tuple(self.augment)


_PARAMS = Schema(Params)
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
    mistakes: list[str] = []
    groups = dict(_read_floats(tree))
    own = _own_datasets(groups.get("convert"))
    datasets = built_in() | {key: annotated(key) for key in own}
    convert = _convert(tuple(datasets.values())).read(groups.pop("convert", {}), mistakes)
    params = _PARAMS.read(groups, mistakes)
    if params is not None:
        params = _complete(params, datasets, mistakes)
    if params is None or mistakes:
        if own:
            mistakes.append(
                f"(datasets of your own, as convert has their groups: {', '.join(own)})"
            )
        raise DescryError("\n".join(f"{name}: {line}" for line in mistakes))
    return replace(params, convert=convert)


def allowed(key: str) -> str:
    """What a key of params.yaml may be, in words."""
    first, *rest = key.split(".")
    if first == "convert":
        return _convert(tuple(built_in().values())).allowed(rest)
    return _PARAMS.allowed([first, *rest])


def _own_datasets(convert: Any) -> tuple[str, ...]:
    """Names of the groups in `convert` that are not of a built-in dataset."""
    if not isinstance(convert, Mapping):
        return ()
    groups = [str(key) for key, value in convert.items() if isinstance(value, Mapping)]
    taken = [key for key in groups if key in _TAKEN]
    if taken:
        raise DescryError(f"convert.{taken[0]}: is no name for a dataset, see runs/{taken[0]}")
    return tuple(key for key in groups if key not in built_in() and _NAME.fullmatch(key))


def _complete(params: Params, datasets: Mapping[str, Dataset], mistakes: list[str]) -> Params:
    """Fill in the defaults of datasets that a group leaves out; unknown names are mistakes."""

    def filled(group: str, given: Mapping[str, Any], key: str) -> dict[str, Any]:
        unknown = [name for name in given if name not in datasets]
        mistakes.extend(unknown_key((group, name), datasets) for name in unknown)
        return {name: given.get(name, getattr(one, key)) for name, one in datasets.items()}

    augment = filled("augment", params.augment, "augment")
    mistakes += [  # which changes leave a picture one of its kind is not ours to say
        f"augment.{name} is missing: must be one of {', '.join(get_args(AugmentName))}"
        for name, recipe in augment.items()
        if recipe is None
    ]
    words = f"is not allowed: must be one of {', '.join(datasets)}"
    mistakes += [f"datasets = {name!r} {words}" for name in params.datasets if name not in datasets]
    modality = filled("modality", params.modality, "modality")
    sample, paper = (
        replace(recipe, epochs=filled(f"recipes.{name}.epochs", recipe.epochs, "epochs"))
        for name, recipe in (("sample", params.recipes.sample), ("paper", params.recipes.paper))
    )
    if mistakes:
        return params
    return replace(params, augment=augment, modality=modality, recipes=Recipes(sample, paper))


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DescryError(f"{path}: {error.strerror}; give a file of parameters") from None
    except UnicodeDecodeError as error:
        raise DescryError(f"{path}: not UTF-8 text (byte {error.start})") from None
    tree = read_yaml(text, str(path))
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
    tree[last] = read_yaml(value, f"-S {text}")


def _read_floats(value: Any) -> Any:
    """Make floats of what YAML 1.1 leaves as text, such as ``1e-4``."""
    if isinstance(value, dict):
        return {key: _read_floats(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_read_floats(inner) for inner in value]
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    return value

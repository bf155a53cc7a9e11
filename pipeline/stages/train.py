"""A detector trained from scratch on one converted dataset."""

from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from pipeline.config import DatasetName, Params
from pipeline.convert.registry import find
from pipeline.data.coco import load_coco
from pipeline.data.index import CocoIndex
from pipeline.data.intensity import Intensity
from pipeline.errors import DescryError
from pipeline.evaluate.operating_point import validate
from pipeline.models.build import build_detector
from pipeline.models.heads.coverage import coverage, coverage_lines
from pipeline.models.params import DetectorSpec, Selection
from pipeline.stages import DATASETS, RUNS
from pipeline.stages.machine import lasting, loader_workers, pick_device, picture_cache
from pipeline.train.processes import find_processes
from pipeline.train.run import train as run
from pipeline.train.settings import Machine, Settings
from pipeline.work.progress import Progress
from pipeline.work.workspace import filling

NOT_RECORDED = "not recorded: images of one's own"


def train(params: Params, name: DatasetName, coco: Path | None, out: Path | None) -> Path:
    """Train on one converted dataset; return the model file."""
    device = pick_device(params.machine.device)
    given = coco is not None
    coco, out = coco or DATASETS / name / "coco", out or RUNS / name / "train"
    terms = NOT_RECORDED if given else data_terms(params, name)
    spec, settings = detector_spec(params, coco), train_settings(params, name, terms)
    if params.pretrain.epochs:
        settings = _pretrained(settings, out.parent / "pretrain/model.safetensors", name)
    machine = train_machine(params, device)
    first = find_processes(machine.devices).rank == 0
    with (
        filling(out) if first else nullcontext(),  # of several processes one writes
        Progress(f"train {name}", "steps", shown=first) as progress,
    ):
        judge = partial(validate, task=spec.task)
        run(coco, out, spec, settings, judge, machine, progress)
    return out / "model.safetensors"


def _pretrained(settings: Settings, model: Path, name: DatasetName) -> Settings:
    """Settings that start from what the stage `pretrain` has left beside a training's folder."""
    if not model.is_file():
        raise DescryError(
            f"{model}: no such file, but pretrain.epochs is above 0: run `descry pretrain {name}` "
            "first, or set it to 0"
        )
    return replace(settings, train=replace(settings.train, init=str(model)))


def box_coverage(params: Params, coco: Path) -> dict[str, str]:
    """What the head that the parameters ask for has for a dataset's training boxes, by class."""
    index = CocoIndex(coco / "annotations/train.json", coco / "images")
    head = build_detector(spec_of(params, len(index.categories))).head
    return coverage_lines(coverage(head, index, params.scale.image_size))


def data_terms(params: Params, name: DatasetName) -> str:
    """Whose the images of `data.source` are and under which licence, as far as it is known."""
    dataset = find(name)
    known = dataset.sample_terms if params.data.source == "sample" else dataset.raw_terms
    return known or NOT_RECORDED


def train_settings(params: Params, name: DatasetName, terms: str = NOT_RECORDED) -> Settings:
    """What decides over a training run's result."""
    recipe = params.scale
    return Settings(
        dataset=name,
        modality=params.modality[name],
        image_size=recipe.image_size,
        train_sizes=recipe.train_sizes,
        intensity=Intensity(**asdict(params.intensity)),
        epochs=recipe.epochs[name],
        batch_size=recipe.batch_size,
        augment=params.augment[name],
        train=params.train,
        data_terms=terms,
    )


def train_machine(params: Params, device: str) -> Machine:
    """Where and how comfortably a training run is computed."""
    chosen = params.machine
    return Machine(
        device=device,
        devices=chosen.devices,
        workers=loader_workers(params, device),
        cache=picture_cache(params, device),
        scratch=lasting(chosen.scratch),
        checkpoint_minutes=chosen.checkpoint_minutes,
        track=chosen.track,
    )


def detector_spec(params: Params, coco: Path) -> DetectorSpec:
    """The detector that the parameters ask for, with the classes of a converted dataset."""
    return spec_of(params, len(load_coco(coco / "annotations/train.json")["categories"]))


def spec_of(params: Params, num_classes: int) -> DetectorSpec:
    """The detector that the parameters ask for.

    Validation always selects detections by the defaults of `Selection`: what leaves the model is a
    choice of evaluation and of prediction, and none that a training depends on.
    """
    return DetectorSpec.of(params.model, params.scale.model, Selection(), num_classes)

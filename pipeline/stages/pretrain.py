"""A backbone pretrained on the training images of a converted dataset, where that is asked for."""

from pathlib import Path

from pipeline.atomic import write_json
from pipeline.config import DatasetName, Params
from pipeline.errors import DescryError
from pipeline.stages import DATASETS, RUNS


def pretrain(params: Params, name: DatasetName, coco: Path | None, out: Path | None) -> Path:
    """Pretrain on one converted dataset; return the folder that training starts from.

    Without epochs the folder says so and no more, and training starts from random weights.
    """
    from pipeline.work.workspace import filling

    out = out or RUNS / name / "pretrain"
    with filling(out):
        if params.pretrain.epochs:
            _run(params, name, coco, out)
        write_json(out / "pretrain.json", {"epochs": params.pretrain.epochs})
    return out


def _run(params: Params, name: DatasetName, coco: Path | None, out: Path) -> None:
    from pipeline.stages.machine import pick_device
    from pipeline.stages.train import (
        NOT_RECORDED,
        data_terms,
        detector_spec,
        train_machine,
        train_settings,
    )
    from pipeline.train.pretrain import pretrain as run
    from pipeline.work.progress import Progress

    if params.machine.devices > 1:
        raise DescryError("machine.devices: pretraining takes one device; set it to 1")
    if params.train.init:
        raise DescryError(
            "pretrain.epochs: with train.init there is nothing to pretrain; set it to 0"
        )
    machine = train_machine(params, pick_device(params.machine.device))
    terms = NOT_RECORDED if coco else data_terms(params, name)
    coco = coco or DATASETS / name / "coco"
    spec, settings = detector_spec(params, coco), train_settings(params, name, terms)
    with Progress(f"pretrain {name}", "steps") as progress:
        run(coco, out, spec, settings, params.pretrain, machine, progress)

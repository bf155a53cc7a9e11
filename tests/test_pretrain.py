"""Masked-image pretraining: what it hides, what it may look at, and what it leaves for training."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from train_factory import SETTINGS, SPEC, changed, make_squares, run

from pipeline.config import Pretrain, load_params
from pipeline.errors import DescryError
from pipeline.models.build import BACKBONES, build_backbone
from pipeline.models.params import DetectorSpec
from pipeline.models.saved import SavedModel
from pipeline.stages.pretrain import pretrain as stage
from pipeline.train import pretrain as module
from pipeline.train.pretrain import Decoder, hidden_squares, pretrain
from pipeline.train.settings import Machine

CHOSEN = Pretrain(epochs=3)
FILES = ("model.safetensors", "history.csv")


def pretrained(coco, out, chosen=CHOSEN, settings=SETTINGS):
    machine = Machine(scratch=out / "scratch", checkpoint_minutes=0.0)
    out.mkdir(exist_ok=True)
    pretrain(coco, out, SPEC, settings, chosen, machine)
    return out


def test_as_many_squares_of_every_image_are_hidden_and_each_step_others():
    first = hidden_squares(0, 1, 2, 3, 128, 0.6)
    assert first.shape == (3, 1, 128, 128) and first.dtype == torch.bool
    # round(.6 * 16) = 10 squares of 32 x 32 px
    assert first.sum(dim=(1, 2, 3)).tolist() == [10 * 32 * 32] * 3
    cells = first.view(3, 4, 32, 4, 32)
    assert (cells.all(dim=(2, 4)) == cells.any(dim=(2, 4))).all()
    assert torch.equal(first, hidden_squares(0, 1, 2, 3, 128, 0.6))
    assert not torch.equal(first, hidden_squares(0, 1, 3, 3, 128, 0.6))
    assert hidden_squares(0, 0, 0, 1, 80, 0.6).shape == (1, 1, 80, 80)


@pytest.mark.parametrize("family", sorted(BACKBONES))
def test_all_of_a_backbone_learns(family):
    torch.manual_seed(0)
    backbone = build_backbone(DetectorSpec(backbone=family, size="micro", num_classes=1))
    decoder = Decoder(backbone.channels)
    image = decoder(backbone(torch.rand(1, 3, 64, 64)))
    assert image.shape == (1, 3, 64, 64)
    image.square().sum().backward()
    without = [n for n, p in backbone.named_parameters() if p.grad is None]
    assert without == []


def test_it_sees_the_training_split_alone_and_training_starts_from_it(tmp_path, monkeypatch):
    whole, alone = make_squares(tmp_path / "whole"), make_squares(tmp_path / "alone")
    for split in ("val", "test"):
        (alone / f"annotations/{split}.json").unlink()
        for image in (alone / "images").glob(f"{split}*"):
            image.unlink()
    first = pretrained(whole, tmp_path / "first")
    second = pretrained(alone, tmp_path / "second")
    assert [(first / f).read_bytes() == (second / f).read_bytes() for f in FILES] == [True] * 2
    rows = list(csv.DictReader((first / "history.csv").read_text().splitlines()))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    monkeypatch.setattr(module, "_step", _failing_at(module._step, 5))  # in the second epoch
    with pytest.raises(KeyboardInterrupt):
        pretrained(whole, tmp_path / "third")
    monkeypatch.undo()
    third = pretrained(whole, tmp_path / "third")
    assert [(first / f).read_bytes() == (third / f).read_bytes() for f in FILES] == [True] * 2

    init = str(first / "model.safetensors")
    trained = run(whole, tmp_path / "trained", settings=changed(init=init, steps=0, epochs=1))
    about = SavedModel.load(trained / "model.safetensors").meta
    assert about["initialised_from"]["file"] == "model.safetensors"
    assert SavedModel.load(first / "model.safetensors").meta["pretraining"]["epochs"] == 3


def _failing_at(step, nth):
    calls = []

    def wrapped(*args):
        calls.append(1)
        if len(calls) == nth:
            raise KeyboardInterrupt
        return step(*args)

    return wrapped


def test_without_epochs_the_stage_leaves_a_word_and_nothing_else(tmp_path):
    params = load_params(tmp_path / "none.yaml")
    out = stage(params, "rsna", tmp_path / "coco", tmp_path / "out")
    assert [path.name for path in out.iterdir()] == ["pretrain.json"]
    assert json.loads((out / "pretrain.json").read_text()) == {"epochs": 0}


def test_training_that_should_start_from_it_says_what_is_missing(tmp_path):
    from pipeline.stages.train import train

    coco = make_squares(tmp_path / "coco")
    params = load_params(tmp_path / "none.yaml", ["pretrain.epochs=1"])
    with pytest.raises(DescryError, match="descry pretrain rsna"):
        train(params, "rsna", coco, tmp_path / "runs/train")
    init = replace(params, train=replace(params.train, init="x.pth"))
    with pytest.raises(DescryError, match=r"with train.init there is nothing to pretrain"):
        stage(init, "rsna", coco, tmp_path / "runs/pretrain")

"""A training run: what it writes, that it repeats to the bit, and what it refuses."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data.coco import write_coco
from pipeline.data.dataset import Sample
from pipeline.data.intensity import Intensity
from pipeline.errors import DescryError
from pipeline.evaluate.metrics import CocoScore, operating_point
from pipeline.evaluate.run import evaluate
from pipeline.models.build import DetectorSpec, build_detector
from pipeline.models.saved import SavedModel
from pipeline.train.module import Optimisation, TrainingModule, lr_factor, parameter_groups
from pipeline.train.run import Judge, Settings, train

SPEC = DetectorSpec("vit", "micro", 1, 16, 2.0, 0.05, 0.5, 100, pool_layers=1, concepts=4)
SETTINGS = Settings(
    dataset="squares",
    modality=("CR",),
    image_size=64,
    intensity=Intensity(),
    epochs=2,
    batch_size=2,
    optimisation=Optimisation(lr=5e-4, weight_decay=0.05, warmup=0.1, final_lr=0.01),
    clip_norm=1.0,
    flip=True,
    seed=0,
    precision="fp32",
    deterministic=True,
    device="cpu",
    workers=0,
)
JUDGE = Judge(lambda truth, rows: CocoScore.of(truth, rows).summary(), operating_point)


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Path:
    """A bright square each on a dark image; every third image is empty."""
    folder = tmp_path_factory.mktemp("squares")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3), ("test", 3)):
        images, annotations = [], []
        for i in range(count):
            pixels = rng.integers(0, 60, (48, 64), dtype=np.uint8)
            if i % 3:
                x, y = map(int, rng.integers(2, 24, 2))
                pixels[y : y + 20, x : x + 20] += 180
                box = {"image_id": i + 1, "category_id": 1, "bbox": [x, y, 20, 20]}
                annotations.append(box)
            name = f"{split}{i}.png"
            Image.fromarray(pixels).save(folder / "images" / name)
            images.append({"file_name": name, "width": 64, "height": 48})
        write_coco(
            folder / f"annotations/{split}.json",
            info={},
            licenses=[],
            categories=[("square", "")],
            images=images,
            annotations=annotations,
        )
    return folder


@pytest.fixture(scope="module")
def trained(squares, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train(squares, out, SPEC, SETTINGS, JUDGE)
    return out


def test_two_runs_give_the_same_bytes(squares, trained, tmp_path):
    train(squares, tmp_path, SPEC, SETTINGS, JUDGE)
    for name in ("history.csv", "about.json"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()
    one, two = (SavedModel.load(p / "model.pt").detector.state_dict() for p in (tmp_path, trained))
    assert all(torch.equal(one[name], two[name]) for name in one)
    for folder in (tmp_path, trained):
        run = SavedModel.load(folder / "model.pt")
        evaluate(run, squares, folder / "e", folder / "m", pictures=2, batch_size=2, workers=0)
    for name in ("e/predictions.json", "m/squares.json", "e/pictures/000002.png"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


def test_another_seed_gives_another_model(squares, trained, tmp_path):
    train(squares, tmp_path, SPEC, replace(SETTINGS, seed=1, epochs=1), JUDGE)
    one, two = (SavedModel.load(p / "model.pt").detector.state_dict() for p in (tmp_path, trained))
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_the_model_file_says_what_it_is(trained):
    model = SavedModel.load(trained / "model.pt")
    assert model.categories == ((1, "square"),)
    assert model.trained_on == "squares" and model.image_size == 64
    assert model.intensity == Intensity() and len(model.sha256) == 64
    assert model.meta["modality"] == ["CR"] and "Research only" in model.meta["intended_use"]
    assert model.meta["versions"]["torch"] == torch.__version__
    about = json.loads((trained / "about.json").read_text())
    assert about["score_threshold"] == model.score_threshold
    assert about["score_threshold_source"]
    rows = (trained / "history.csv").read_text().splitlines()
    assert rows[0] == "epoch,loss,classification,box,lr,val_AP,val_AP50" and len(rows) == 3


def test_detections_are_in_pixels_of_the_image_as_given(trained):
    model = SavedModel.load(trained / "model.pt")
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((30, 200), (128, 128, 3))]
    for image, found in zip(images, model.detect(images), strict=True):
        height, width = image.shape[:2]
        assert found.boxes.shape == (len(found.scores), 4)
        assert (found.boxes >= 0).all() and (found.boxes[:, 2] <= width).all()
        assert (found.boxes[:, 3] <= height).all() and set(found.labels) <= {1}
        assert (np.diff(found.scores) <= 0).all()


def test_a_foreign_or_malicious_file_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "was_run",)

    torch.save({"descry": 1, "about": Evil()}, tmp_path / "evil.pt")
    torch.save({"weights": {}}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("no")
    for name in ("evil.pt", "other.pt", "text.pt", "missing.pt"):
        with pytest.raises(DescryError, match=name):
            SavedModel.load(tmp_path / name)
    assert not (tmp_path / "was_run").exists()


def test_a_model_of_other_classes_is_not_evaluated(squares, trained, tmp_path):
    tree = json.loads((squares / "annotations/test.json").read_text())
    tree["categories"] = [{"id": 1, "name": "circle"}]
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/test.json").write_text(json.dumps(tree))
    model = SavedModel.load(trained / "model.pt")
    with pytest.raises(DescryError, match="circle"):
        evaluate(model, tmp_path, tmp_path, tmp_path, pictures=0, batch_size=1, workers=0)


def test_no_training_images_is_an_error_that_points_to_the_report(tmp_path):
    for split in ("train", "val"):
        write_coco(
            tmp_path / f"annotations/{split}.json",
            info={},
            licenses=[],
            categories=[("a", "")],
            images=[],
            annotations=[],
        )
    with pytest.raises(DescryError, match=r"no training images.*report\.json"):
        train(tmp_path, tmp_path / "out", SPEC, SETTINGS, JUDGE)


def test_a_loss_that_is_not_finite_stops_with_parts_and_image_ids(monkeypatch):
    module = TrainingModule(build_detector(SPEC), SETTINGS.optimisation)
    monkeypatch.setattr(TrainingModule, "trainer", type("T", (), {"global_step": 7}))
    bad = {"classification": torch.tensor(math.nan), "box": torch.tensor(1.0)}
    monkeypatch.setattr(module.detector, "forward", lambda images, targets: bad)
    sample = Sample(
        torch.zeros(3, 64, 64, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0), 42
    )
    with pytest.raises(DescryError, match=r"step 7 .*classification nan.*image ids 42.*train\.lr"):
        module.training_step([sample], 0)


def test_decay_spares_norms_biases_positions_and_gates():
    detector = build_detector(SPEC)
    decay, spared = parameter_groups(detector, 0.05)
    names = {id(p): n for n, p in detector.named_parameters()}
    decayed = {names[id(p)] for p in decay["params"]}
    kept = {names[id(p)] for p in spared["params"]}
    assert (decay["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    assert "backbone.backbone.blocks.0.attn.qkv.weight" in decayed
    assert "backbone.backbone.positions" in kept
    assert "backbone.backbone.blocks.0.stream.interaction.acp.gates" in kept
    assert not any(n.endswith("bias") or "norm" in n for n in decayed)
    assert len(decayed) + len(kept) == len(names)


def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine():
    optimisation = Optimisation(lr=1.0, weight_decay=0, warmup=0.2, final_lr=0.1)
    at = [lr_factor(step, 10, optimisation) for step in range(11)]
    assert at[:3] == [0.5, 1.0, 1.0]
    assert at[6] == pytest.approx(0.55)  # half way down
    assert at[10] == pytest.approx(0.1)

"""A training run: what it writes, that it repeats to the bit, and what it refuses."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from train_factory import changed, make_squares, run, same_bytes

from pipeline.config import load_params
from pipeline.data.coco import write_coco
from pipeline.data.intensity import Intensity
from pipeline.errors import DescryError
from pipeline.evaluate.run import evaluate
from pipeline.models.ensemble import Ensemble
from pipeline.models.saved import SavedModel
from pipeline.models.thresholds import OperatingPoint
from pipeline.stages.train import data_terms
from pipeline.train.checkpoint import RunFolder

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def squares(tmp_path_factory) -> Path:
    return make_squares(tmp_path_factory.mktemp("data") / "coco")


@pytest.fixture(scope="module")
def trained(squares, tmp_path_factory) -> Path:
    return run(squares, tmp_path_factory.mktemp("run"))


def weights(folder: Path, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    return SavedModel.load(folder / name).detector.state_dict()


def equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


def test_two_runs_give_the_same_bytes(squares, trained, tmp_path):
    run(squares, tmp_path, checkpoint_minutes=5.0)  # that it writes checkpoints changes nothing
    assert same_bytes(tmp_path, trained) == []
    for folder in (tmp_path, trained):
        model = SavedModel.load(folder / "model.safetensors")
        alone = Ensemble([model], model.detector.selection)
        evaluate(alone, squares, folder / "e", folder / "m", pictures=2, batch_size=2, workers=0)
    for name in ("e/predictions.json", "m/squares.json", "e/pictures/000002.png"):
        assert (tmp_path / name).read_bytes() == (trained / name).read_bytes()


def test_another_seed_gives_another_model(squares, trained, tmp_path):
    run(squares, tmp_path, settings=changed(seed=1, epochs=1))
    assert not equal(weights(tmp_path), weights(trained))


def test_a_training_starts_from_given_weights_and_says_so(squares, trained, tmp_path, caplog):
    source = trained / "model.safetensors"
    with caplog.at_level("INFO"):
        run(squares, tmp_path / "on", settings=changed(epochs=1, init=str(source), lr=1e-9))
    assert "tensors filled" in caplog.text and "start anew" not in caplog.text
    model = SavedModel.load(tmp_path / "on/model.safetensors")
    for name, value in weights(trained).items():
        torch.testing.assert_close(model.detector.state_dict()[name], value, rtol=0, atol=1e-6)
    origin = SavedModel.load(source)
    assert model.meta["initialised_from"]["sha256"] == origin.sha256
    assert model.meta["training"]["init"] == "model.safetensors"
    assert origin.meta["initialised_from"] == "random weights"


def test_few_images_are_seen_more_often_where_steps_are_asked_for(squares, tmp_path):
    # Six images in batches of two are three steps an epoch: seven steps need three epochs.
    run(squares, tmp_path, settings=changed(epochs=1, steps=7))
    with (tmp_path / "history.csv").open(newline="") as stream:
        assert [row["epoch"] for row in csv.DictReader(stream)] == ["1", "2", "3"]
    assert SavedModel.load(tmp_path / "model.safetensors").meta["epochs"] == 3


@pytest.mark.parametrize(
    ("name", "sample", "raw"),
    [
        ("ccellbio", "MIT", "not recorded"),
        ("brain_tumor", "CC BY 4.0", "AGPL-3.0"),
        ("cod10k", "synthetic and not COD10K", "https://github.com/DengPingFan/SINet"),
        ("nih", "o restriction on use", "o restriction on use"),
        ("rsna", "with attribution", "with attribution"),
    ],
)
def test_whose_the_images_are_stands_on_the_card_too(name, sample, raw):
    card = (ROOT / "datasets" / name / "README.md").read_text()
    for source, words in (("sample", sample), ("raw", raw)):
        said = data_terms(load_params(ROOT / "params.yaml", [f"data.source={source}"]), name)
        assert words in said and (words in card or words == "not recorded")


def test_the_model_file_says_what_it_is(trained):
    model = SavedModel.load(trained / "model.safetensors")
    assert model.categories == ((1, "square"),)
    assert model.trained_on == "squares" and model.image_size == 64
    assert model.intensity == Intensity() and len(model.sha256) == 64
    assert model.meta["modality"] == ["CR"] and "Research only" in model.meta["intended_use"]
    assert model.meta["data_terms"] == "drawn squares, public domain"
    assert model.meta["versions"]["torch"] == torch.__version__
    assert model.meta["training"]["images_per_step"] == 2 and len(model.meta["data_sha256"]) == 64
    assert model.meta["epoch"] == 2 and model.meta["validation"]["images"] == 3
    about = json.loads((trained / "about.json").read_text())
    assert about["score_threshold"] == model.score_threshold
    assert about["score_threshold_source"]
    rows = (trained / "history.csv").read_text().splitlines()
    assert rows[0] == "epoch,loss,classification,box,lr,val_AP,val_AP50" and len(rows) == 3
    timing = (trained / "timing.csv").read_text().splitlines()
    assert timing[0] == "epoch,seconds,waiting,validation,checkpoints,images"
    assert [row.split(",")[-1] for row in timing[1:]] == ["6", "6"]


def test_detections_are_in_pixels_of_the_image_as_given(trained):
    model = SavedModel.load(trained / "model.safetensors")
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((30, 200), (128, 128, 3))]
    for image, found in zip(images, model.detect(images), strict=True):
        height, width = image.shape[:2]
        assert found.boxes.shape == (len(found.scores), 4)
        assert (found.boxes >= 0).all() and (found.boxes[:, 2] <= width).all()
        assert (found.boxes[:, 3] <= height).all() and set(found.labels) <= {1}
        assert (np.diff(found.scores) <= 0).all()


def test_the_best_epoch_is_kept_beside_the_last(squares, tmp_path):
    aps = iter([0.1, 0.4, 0.4, 0.2])

    def evaluator(truth, rows):
        return {"AP": next(aps), "AP50": 0.5}, OperatingPoint(0.5, "")

    run(squares, tmp_path, settings=changed(epochs=4, keep="best"), evaluator=evaluator)
    files = (tmp_path / f"{name}.safetensors" for name in ("best", "last"))
    best, last = (SavedModel.load(path).meta for path in files)
    assert (best["epoch"], best["validation"]["AP"]) == (3, 0.4)  # of equal ones the later
    assert (last["epoch"], last["validation"]["AP"]) == (4, 0.2)
    assert (tmp_path / "model.safetensors").read_bytes() == (
        tmp_path / "best.safetensors"
    ).read_bytes()
    assert json.loads((tmp_path / "about.json").read_text())["epoch"] == 3


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
    model = SavedModel.load(trained / "model.safetensors")
    with pytest.raises(DescryError, match="circle"):
        alone = Ensemble([model], model.detector.selection)
        evaluate(alone, tmp_path, tmp_path, tmp_path, pictures=0, batch_size=1, workers=0)


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
        run(tmp_path, tmp_path / "out")


def test_the_saved_model_is_the_moving_average(squares, tmp_path, monkeypatch):
    """Of the weights after each step: the first as they are, then n = 1, 2, ... of the warm-up."""
    passed, save = [], RunFolder.save

    def listening(folder, state):
        raw = state["current_model_state"].items()
        passed.append({k.removeprefix("detector."): v.clone() for k, v in raw})
        return save(folder, state)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", listening)
        run(squares, tmp_path / "mean", settings=changed(ema=0.9))
    plain = weights(run(squares, tmp_path / "plain", settings=changed(ema=0.0)))
    # a checkpoint after each step but the last, after which the weights are the plain run's
    passed.append(plain)
    assert len(passed) == 6
    mean = passed[0]
    for n, now in enumerate(passed[1:], 1):
        kept = (1 + n) / (10 + n)
        mean = {k: kept * mean[k] + (1 - kept) * now[k] for k in now}
    saved = weights(tmp_path / "mean")
    for name, value in saved.items():
        torch.testing.assert_close(value, mean[name], rtol=0, atol=1e-6)
    assert not equal(saved, plain)


def test_a_step_of_more_batches_than_an_epoch_has_is_refused(squares, tmp_path):
    with pytest.raises(DescryError, match=r"train\.accumulate = 4.*only 3 batches"):
        run(squares, tmp_path, settings=changed(accumulate=4))


@pytest.mark.parametrize(
    "changes",
    [
        {"channels_last": True},
        {"gradient_checkpointing": True},
        pytest.param({"compile": True, "compiler": "eager", "ema": 0.9}, marks=pytest.mark.slow),
        {"fused": True},
    ],
    ids=str,
)
def test_switches_for_speed_and_memory_train(squares, trained, tmp_path, changes):
    run(squares, tmp_path, settings=changed(**changes))
    one, two = weights(trained), weights(tmp_path)
    if "ema" not in changes:
        close = {n: torch.allclose(one[n], two[n], rtol=0, atol=5e-3) for n in one}
        assert all(close.values()), [n for n in close if not close[n]]
    if changes == {"gradient_checkpointing": True}:  # computes the same again
        assert equal(one, two)


def test_bf16_trains_except_where_a_cpu_gets_it_wrong(squares, tmp_path):
    bf16 = changed(precision="bf16")
    with pytest.raises(DescryError, match=r"bf16 at image_size = 64"):
        run(squares, tmp_path, settings=bf16)
    run(squares, tmp_path, settings=changed(bf16, image_size=96, epochs=1))
    assert all(value.dtype != torch.bfloat16 for value in weights(tmp_path).values())


def test_dvclive_follows_without_changing_anything(squares, trained, tmp_path):
    run(squares, tmp_path, track=("dvclive",))
    assert same_bytes(tmp_path, trained) == []
    rows = (tmp_path / "live/plots/metrics/loss.tsv").read_text().splitlines()
    history = [line.split(",") for line in (tmp_path / "history.csv").read_text().splitlines()[1:]]
    assert rows == ["step\tloss", *(f"{epoch}\t{loss}" for epoch, loss, *_ in history)]
    assert json.loads((tmp_path / "live/metrics.json").read_text())["step"] == 2
    assert not (tmp_path / "dvc.yaml").exists()


def test_other_trackers_follow_without_changing_anything(squares, trained, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs pip install '.[trackers]'")
    pytest.importorskip("tensorboard", reason="needs pip install '.[trackers]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    run(squares, out, track=("tensorboard", "mlflow"), scratch=scratch)
    assert same_bytes(out, trained) == []
    lines = (out / "history.csv").read_text().splitlines()[1:]
    losses = [(int(epoch), float(loss)) for epoch, loss, *_ in (line.split(",") for line in lines)]
    (folder,) = (scratch / "tracking/tensorboard").glob("*/version_0")
    events = EventAccumulator(str(folder)).Reload().Scalars("loss")
    assert [event.step for event in events] == [1, 2]
    assert [event.value for event in events] == pytest.approx([loss for _, loss in losses])
    client = mlflow.MlflowClient(f"sqlite:///{scratch / 'tracking/mlflow.db'}")
    (experiment,) = (e for e in client.search_experiments() if e.name == folder.parent.name)
    (known,) = client.search_runs([experiment.experiment_id])
    told = client.get_metric_history(known.info.run_id, "loss")
    assert sorted((m.step, m.value) for m in told) == losses
    assert known.info.status == "FINISHED" and known.data.params["seed"] == "0"


def test_a_tracker_that_is_not_installed_is_named(squares, tmp_path, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", False)
    with pytest.raises(DescryError, match=r"machine\.track=wandb: not installed"):
        run(squares, tmp_path, track=("wandb",), scratch=tmp_path / "scratch")

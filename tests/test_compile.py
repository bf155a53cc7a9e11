"""Compiled training and detection: agreement with eager, the same bits, every shape by itself."""

import csv
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from predict_factory import content, rows_of, spot, tiny_model
from torch import nn
from torch._dynamo import register_backend
from torch._inductor.utils import fresh_cache
from train_factory import SPEC, changed, make_squares, run, same_bytes

from pipeline.errors import DescryError
from pipeline.models.backbones import vit
from pipeline.models.saved import SavedModel
from pipeline.predict.options import Options
from pipeline.predict.run import predict_folder
from pipeline.train.module import TrainingModule

CXX = os.environ.get("CXX", "g++")  # as inductor chooses
needs_compiler = pytest.mark.skipif(
    shutil.which(CXX) is None, reason=f"no C++ compiler {CXX}; install it or set CXX"
)
COMPILED = changed(compile=True)
KEEPS_ALL = replace(SPEC, score_threshold=0.0)  # four steps teach no certainty


class Killed(BaseException):
    """Ends a run on the spot."""


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """One shape of batch in training and one in validation: 2 x 2 images, and 2."""
    folder = tmp_path_factory.mktemp("data") / "coco"
    return make_squares(folder, (("train", 4), ("val", 2)))


@pytest.fixture(scope="module", autouse=True)
def small():
    """ViT micro of one block, since compiling six takes minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vit.SIZES, "micro", (32, 1, 2))
        yield


@pytest.fixture(autouse=True)
def forgotten():
    """No test meets what another one compiled, but in the folder of `cache`."""
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = limit


@pytest.fixture(scope="module")
def cache():
    """A folder for compiled code, empty at first."""
    with fresh_cache():
        yield


@pytest.fixture(scope="module")
def compiled(squares, small, cache, tmp_path_factory):
    return run(squares, tmp_path_factory.mktemp("compiled"), KEEPS_ALL, COMPILED)


def losses(folder):
    """Loss, classification and box loss of each epoch."""
    with (folder / "history.csv").open() as stream:
        return [
            [float(row[name]) for name in ("loss", "classification", "box")]
            for row in csv.DictReader(stream)
        ]


@pytest.mark.slow
@needs_compiler
def test_compiled_training_has_the_losses_of_eager_training(squares, compiled, tmp_path):
    run(squares, tmp_path, KEEPS_ALL)
    assert len(losses(compiled)) == 2
    # Compiled sums round otherwise, 1e-7 a value. AdamW divides by a gradient's own size, so that
    # gradients that are hardly more than rounding move weights by the whole learning rate.
    np.testing.assert_allclose(losses(compiled), losses(tmp_path), rtol=1e-4)


@pytest.mark.slow
@needs_compiler
def test_compiled_training_repeats_and_resumes_to_the_bit(squares, compiled, tmp_path, monkeypatch):
    run(squares, tmp_path / "again", KEEPS_ALL, COMPILED)
    assert same_bytes(compiled, tmp_path / "again") == []
    step = TrainingModule.training_step

    def dies(module, batch, index):
        if module.step == 3:
            raise Killed
        return step(module, batch, index)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(TrainingModule, "training_step", dies)
        run(squares, tmp_path / "killed", KEEPS_ALL, COMPILED)
    torch._dynamo.reset()
    run(squares, tmp_path / "killed", KEEPS_ALL, COMPILED)
    assert same_bytes(compiled, tmp_path / "killed") == []


@pytest.mark.slow
@needs_compiler
def test_a_compiled_model_detects_as_in_eager(compiled):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (64, 64), dtype=np.uint8) for _ in range(2)]
    eager, model = (SavedModel.load(compiled / "model.safetensors") for _ in range(2))
    model.prepare("fp32", compiled=True, batch_size=2)
    for one, other in zip(eager.detect(images), model.detect(images), strict=True):
        assert len(one.scores) == 100
        np.testing.assert_allclose(other.scores, one.scores, rtol=1e-5)
        np.testing.assert_allclose(other.boxes, one.boxes, atol=1e-3)


@pytest.mark.slow
def test_each_shape_is_compiled_by_itself(squares, tmp_path):
    """A resumed run sees shapes in another order; its programs must be the same."""
    shapes = []

    @register_backend(name="recording")
    def record(graph, inputs):
        assert all(isinstance(value, torch.Tensor) for value in inputs)  # and no sides beside them
        shapes.extend(value.shape for value in inputs)
        return graph.forward

    sizes = (64, 96, 128)
    settings = changed(train_sizes=sizes, compile=True, compiler="recording", epochs=4)
    run(squares, tmp_path, settings=settings)
    assert {(2, 3, side, side) for side in sizes} <= set(shapes)


@pytest.mark.slow
def test_training_on_a_machine_that_cannot_compile_says_so(squares, tmp_path):
    words = r"train\.compile: .*No working C\+\+ compiler found.*no-such-compiler.*set it to false"
    nothing = torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")})
    with fresh_cache(), nothing, pytest.raises(DescryError, match=words):
        run(squares, tmp_path, settings=COMPILED)


@pytest.fixture
def pictures(tmp_path):
    """Nine pictures: not every batch is full."""
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(9):
        Image.fromarray(spot(at=(i, 2 * i, 9, 7))).save(folder / f"{i}.png")
    return folder


def test_prediction_has_one_program_for_windows_flips_and_the_last_batch(
    pictures, tmp_path, monkeypatch
):
    programs = []

    @register_backend(name="counting")
    def count(graph, inputs):
        assert all(isinstance(value, torch.Tensor) for value in inputs)  # and no sizes beside them
        programs.append(next(len(v) for v in inputs if not isinstance(v, nn.Parameter)))
        return graph.forward

    whole = nn.Module.compile

    def traced(module, *, dynamic, options):
        whole(module, backend="counting", dynamic=dynamic)

    monkeypatch.setattr(nn.Module, "compile", traced)
    model = tiny_model()
    model.prepare("fp32", compiled=True, batch_size=5)
    options = Options(workers=0, batch_size=5, window="30", tta=True)  # 8 views a picture
    counts = predict_folder(pictures, tmp_path / "out", model, options=options).counts
    assert (counts["processed"], counts["failed"]) == (9, 0)
    assert programs == [5, 5]  # backbone and head
    model.detect([spot()] * 3)
    assert programs == [5, 5, 3, 3]  # for 3, not for any number


@pytest.mark.slow
@needs_compiler
def test_compiled_prediction_that_was_stopped_ends_with_the_same_bytes(pictures, tmp_path):
    options = Options(workers=0, batch_size=2, score_threshold=0.0)

    def predict(out, stops_at=9):
        torch._dynamo.reset()
        model = tiny_model()
        model.prepare("fp32", compiled=True, batch_size=2)
        whole, calls = model.detect, iter(range(9))

        def detect(images):
            if next(calls) == stops_at:
                raise Killed
            return whole(images)

        model.detect = detect
        predict_folder(pictures, out, model, options=options)

    with fresh_cache():
        predict(tmp_path / "whole")
    with fresh_cache():
        with pytest.raises(Killed):
            predict(tmp_path / "out", stops_at=3)
        journal = tmp_path / "out.partial/state/journal"
        assert len(journal.read_text().splitlines()) == 6
        predict(tmp_path / "out")
    assert len(rows_of(tmp_path / "whole" / "detections.csv")) > 9
    assert content(tmp_path / "out") == content(tmp_path / "whole")

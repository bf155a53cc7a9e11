"""Saved models: what they keep, and what is said of files that are none."""

import copy
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from predict_factory import META, tiny_model
from safetensors.torch import load, save
from typer.testing import CliRunner

from pipeline import __version__
from pipeline.cli import app
from pipeline.errors import DescryError
from pipeline.models import storage
from pipeline.models.build import BACKBONES, build_detector
from pipeline.models.params import OPTIONS, DetectorSpec
from pipeline.models.saved import SavedModel

FORMATS = Path(__file__).parent / "formats"  # one file of every released format, the same model
FILES = {1: FORMATS / "1.pt", 2: FORMATS / "2.safetensors"}
# of each family an option that changes the output of the same weights
CHANGES = {
    "swin": {"mask_padding": True},
    "dat": {"centred_points": True},
    "acmix_swin": {"seam": False},
    "glnet": {"mask_padding": True},
}


def spec(backbone, **changes):
    micro = {"backbone": backbone, "size": "micro", "num_classes": 2, "fpn_channels": 16}
    return DetectorSpec(**{**micro, "pool_layers": 0, "concepts": 0, **changes})


@pytest.mark.parametrize("backbone", CHANGES)
def test_a_backbones_options_are_saved_and_restored(backbone, tmp_path):
    torch.manual_seed(0)
    chosen = spec(backbone, options=CHANGES[backbone], drop_path=None)
    model = SavedModel(build_detector(chosen), chosen, META)
    model.save(tmp_path / "model.safetensors")
    again = SavedModel.load(tmp_path / "model.safetensors")
    assert again.spec == chosen and again.meta == META
    images = torch.rand(1, 3, 96, 70)
    plain = build_detector(spec(backbone)).eval()
    plain.load_state_dict(model.detector.state_dict())
    with torch.inference_mode():
        maps = [m.backbone(images)["c3"] for m in (model.detector, again.detector, plain)]
    assert torch.equal(maps[0], maps[1]) and not torch.equal(maps[0], maps[2])


def test_every_backbone_has_its_options():
    assert list(OPTIONS) == list(BACKBONES)


def test_equal_models_are_equal_bytes_and_the_hash_is_the_files(tmp_path):
    for name in ("a", "b"):
        tiny_model().save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert SavedModel.load(tmp_path / "a").sha256 == SavedModel.load(tmp_path / "b").sha256 != ""


def test_every_released_format_is_kept():
    assert sorted(FILES) == list(range(1, storage.FORMAT + 1))


@pytest.mark.parametrize("number", FILES)
def test_files_of_every_released_format_load_and_detect_the_same(number):
    assert storage.read(FILES[number]).format == number
    model = SavedModel.load(FILES[number])
    assert (model.spec.width, model.spec.pool_layers, model.spec.concepts) == (8, 1, 2)
    assert model.categories == ((1, "spot"), (2, "other"))
    assert (model.score_threshold, model.image_size, model.trained_on) == (0.3, 64, "toy")
    assert model.meta["class_thresholds"] == {"spot": 0.25}
    image = (np.arange(64 * 48, dtype=np.uint32).reshape(48, 64) * 7 % 256).astype(np.uint8)
    (found,) = model.detect([image])
    np.testing.assert_allclose(found.scores[:3], [0.306081, 0.304530, 0.303081], atol=2e-5)
    np.testing.assert_allclose(found.boxes[0], [0.14745, 40.83534, 28.35373, 48.0], atol=2e-3)
    assert found.labels[:3].tolist() == [1, 2, 2]


def rewritten(path, change):
    """A copy of the format 2 file, its header changed in place."""
    content = storage.read(FILES[2])
    with (FILES[2]).open("rb") as stream:
        weights = load(stream.read())
    metadata = {"format": 2, "version": "0.0.7"}
    metadata["about"] = content.meta | {"detector": asdict(content.about.detector)}
    change(metadata)
    path.write_bytes(save(weights, {"descry": json.dumps(metadata)}))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: h.update(format=9), "in format 9; .* reads formats 1 to 2: update it"),
        (lambda h: h.update(about=[]), "about"),
        (lambda h: h["about"].pop("categories"), "about.categories is missing"),
        (lambda h: h["about"]["categories"].pop(), "names 1 classes, the detector has 2"),
        (lambda h: h["about"].update(image_size="64"), "about.image_size = '64'"),
        (lambda h: h["about"]["intensity"].update(window="last"), "intensity.window='last'"),
        (lambda h: h["about"]["detector"].update(depth=3), "detector.depth is not a known key"),
        (lambda h: h["about"]["detector"].update(backbone="vim"), "backbone = 'vim'"),
        (lambda h: h["about"]["detector"].update(options={"seam": 1}), "options.seam is not a"),
        (lambda h: h["about"]["detector"].update(fpn_channels=32), "not those of the detector"),
    ],
)
def test_a_header_that_cannot_be_used_is_named_with_both_versions(change, words, tmp_path):
    path = rewritten(tmp_path / "model.safetensors", change)
    with pytest.raises(DescryError, match=words) as caught:
        SavedModel.load(path)
    for word in (str(path), "0.0.7", __version__):
        assert word in str(caught.value)


def places(tree, above=()):
    """Paths to all values of nested dictionaries and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(items):
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from places(value, (*above, key))


def test_no_change_of_a_header_ends_in_anything_but_our_own_error(tmp_path):
    whole = {}
    rewritten(tmp_path / "m", whole.update)
    refused = tried = 0
    for place in places(whole):
        for value in ("gone", None, "x", -1, [], {}, 1e300, [[1]]):
            header = copy.deepcopy(whole)
            *parents, last = place
            node = header
            for parent in parents:
                node = node[parent]
            if value == "gone":
                del node[last]
            else:
                node[last] = value

            def put(target, header=header):
                target.clear()
                target.update(header)

            tried += 1
            try:
                storage.read(rewritten(tmp_path / "m", put))
            except DescryError as error:
                refused += 1
                assert str(tmp_path / "m") in str(error)
    assert tried > 250 and refused > tried / 2


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x03\x04 no", b"\xff" * 40])
def test_what_is_no_model_is_named(content, tmp_path):
    (tmp_path / "thing").write_bytes(content)
    with pytest.raises(DescryError, match="thing: not a readable checkpoint"):
        SavedModel.load(tmp_path / "thing")


def test_weights_alone_say_what_they_are_good_for(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(save({"a": torch.zeros(1)}))
    with pytest.raises(DescryError, match=r"train\.init=.*w\.safetensors"):
        SavedModel.load(tmp_path / "w.safetensors")


@pytest.mark.parametrize("number", FILES)
def test_show_says_what_a_model_is(number):
    result = CliRunner().invoke(app, ["show", str(FILES[number])])
    for line in (f"format: {number}", "detector.width: 8", "dataset: toy", "score_threshold: 0.3"):
        assert line in result.output.splitlines()
    result = CliRunner().invoke(app, ["show", "--json", str(FILES[number])])
    assert json.loads(result.output)["categories"] == [[1, "spot"], [2, "other"]]

"""A MONAI bundle: MONAI's own tools accept it, load it and run it to what `predict` writes."""

import json
from pathlib import Path

import monai.bundle
import numpy as np
import pytest
import torch
from PIL import Image
from predict_factory import META, content
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import DescryError
from pipeline.models.build import BACKBONES, HEADS, build_detector
from pipeline.models.bundle import model_of, network, write
from pipeline.models.params import DetectorSpec
from pipeline.models.saved import SavedModel
from pipeline.stages.export import synthetic

MODEL = Path(__file__).parent / "formats/2.safetensors"
# What MONAI's specification of bundles demands (docs.monai.io, "MONAI Bundle Specification");
# the published schema lies on a server and is not part of MONAI.
_TEXT = {"type": "string", "minLength": 1}
_TENSOR = {
    "type": "object",
    "required": [
        *("type", "format", "modality", "num_channels", "spatial_shape", "dtype"),
        *("value_range", "is_patch_data", "channel_def"),
    ],
    "properties": {
        "type": {"enum": ["image", "series", "tuples", "probabilities"]},
        "format": _TEXT,
        "modality": _TEXT,
        "num_channels": {"type": "integer", "minimum": 1},
        "spatial_shape": {"type": "array", "items": {"type": ["integer", "string"]}},
        "dtype": {"enum": ["uint8", "float32"]},
        "value_range": {"type": "array", "items": {"type": "number"}},
        "is_patch_data": {"type": "boolean"},
        "channel_def": {
            "type": "object",
            "patternProperties": {"^[0-9]+$": _TEXT},
            "additionalProperties": False,
        },
    },
}
_TENSORS = {"type": "object", "minProperties": 1, "additionalProperties": _TENSOR}
_WORDS = (
    *("version", "monai_version", "pytorch_version", "numpy_version", "task", "description"),
    *("authors", "copyright"),
)
SCHEMA = {
    "type": "object",
    "required": [*_WORDS, "optional_packages_version", "network_data_format"],
    "properties": {
        **dict.fromkeys(_WORDS, _TEXT),
        "optional_packages_version": {"type": "object", "additionalProperties": _TEXT},
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {"inputs": _TENSORS, "outputs": _TENSORS},
        },
    },
}


@pytest.fixture
def bundle(tmp_path):
    out = tmp_path / "bundle"
    done = CliRunner().invoke(app, ["export", str(MODEL), "--to", "monai", "-o", str(out)])
    assert done.exit_code == 0, done.exception
    return out


def test_a_bundle_is_what_the_specification_says(bundle, tmp_path):
    names = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert names == {
        "configs/metadata.json",
        "configs/inference.json",
        "configs/model.json",
        "models/model.pt",
        "docs/README.md",
        "docs/license.txt",
    }
    schema, meta = tmp_path / "schema.json", bundle / "configs/metadata.json"
    schema.write_text(json.dumps(SCHEMA))
    said = json.loads(meta.read_text()) | {"schema": schema.as_uri()}
    tensors = said["network_data_format"]
    assert tensors["inputs"]["image"]["spatial_shape"] == [64, 64]
    assert tensors["outputs"]["pred"]["channel_def"]["5"] == (
        "labels: place, from 0, in spot, other"
    )
    given = tmp_path / "metadata.json"
    given.write_text(json.dumps(said))
    monai.bundle.verify_metadata(str(given), str(schema))
    given.write_text(json.dumps({key: value for key, value in said.items() if key != "task"}))
    with pytest.raises(ValueError, match="Failed validating"):
        monai.bundle.verify_metadata(str(given), str(schema))
    weights = torch.load(bundle / "models/model.pt", weights_only=True)
    ours = SavedModel.load(MODEL).detector.state_dict()
    assert list(weights) == list(ours) and all(torch.equal(weights[k], ours[k]) for k in ours)


def test_monai_runs_a_bundle_to_what_predict_writes(bundle, tmp_path):
    (tmp_path / "in").mkdir()
    for i, pixels in enumerate(synthetic(64)):
        Image.fromarray(pixels).save(tmp_path / f"in/{i}.png")
    (tmp_path / "in/4.dcm").write_bytes(b"broken")
    workflow = monai.bundle.ConfigWorkflow(
        str(bundle / "configs/inference.json"),
        workflow_type="inference",
        bundle_root=str(bundle),
        output_dir=str(tmp_path / "theirs"),
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    monai.bundle.run(
        config_file=str(bundle / "configs/inference.json"),
        bundle_root=str(bundle),
        dataset_dir=str(tmp_path / "in"),
        output_dir=str(tmp_path / "theirs"),
        device="cpu",
    )
    command = ["predict", str(tmp_path / "in"), "-o", str(tmp_path / "ours"), "--device", "cpu"]
    assert CliRunner().invoke(app, [*command, "--checkpoint", str(MODEL)]).exit_code == 1
    theirs, ours = content(tmp_path / "theirs"), content(tmp_path / "ours")
    assert theirs.keys() == ours.keys() and len(ours["detections.csv"].splitlines()) > 4
    of_file = {"run.json", "report.html"}  # name the hash of the checkpoint's file
    assert {k: v for k, v in theirs.items() if k not in of_file} == {
        k: v for k, v in ours.items() if k not in of_file
    }
    assert json.loads(theirs["run.json"])["counts"]["failed"] == 1


def test_a_bundle_gives_the_model_back(bundle):
    about, weights = str(bundle / "configs/model.json"), bundle / "models/model.pt"
    model, ours = model_of(network(about), about, str(weights)), SavedModel.load(MODEL)
    assert (model.meta, model.spec) == (ours.meta, ours.spec)
    (found,), (same,) = model.detect(synthetic(64)[:1]), ours.detect(synthetic(64)[:1])
    np.testing.assert_array_equal(found.boxes, same.boxes)
    weights.write_bytes(b"damaged")
    with pytest.raises(DescryError, match=r"model.pt: not the weights of this bundle"):
        model_of(network(about), about, str(weights))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_bundle_of_every_family_holds_its_weights(backbone, head, tmp_path):
    spec = DetectorSpec(
        backbone=backbone, size="micro", head=head, num_classes=2, fpn_channels=16, pool_layers=1
    )
    ours = build_detector(spec)
    write(SavedModel(ours, spec, META), tmp_path / "bundle")
    about = str(tmp_path / "bundle/configs/model.json")
    model = model_of(network(about), about, str(tmp_path / "bundle/models/model.pt"))
    theirs = model.detector.state_dict()
    assert model.spec == spec and theirs.keys() == ours.state_dict().keys()
    assert all(torch.equal(theirs[name], value) for name, value in ours.state_dict().items())


def test_a_former_bundle_is_replaced_and_anything_else_refused(bundle, tmp_path):
    (bundle / "old.txt").write_text("")
    command = ["export", str(MODEL), "--to", "monai", "-o"]
    assert CliRunner().invoke(app, [*command, str(bundle)]).exit_code == 0
    assert not (bundle / "old.txt").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("years of work")
    done = CliRunner().invoke(app, [*command, str(tmp_path / "mine")])
    assert isinstance(done.exception, DescryError) and "not a bundle" in str(done.exception)

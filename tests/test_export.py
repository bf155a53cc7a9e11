"""Exported models: what the file says, that it detects the same, and what is refused."""

import hashlib
import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from predict_factory import META, rows_of
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import DescryError
from pipeline.models import export as exporting
from pipeline.models.build import build_detector
from pipeline.models.exported import ExportedModel, open_model
from pipeline.models.params import DetectorSpec, Selection
from pipeline.models.saved import SavedModel
from pipeline.stages.export import run, synthetic

FORMATS = Path(__file__).parent / "formats"
MODEL, KEPT = FORMATS / "2.safetensors", FORMATS / "export-1.onnx"  # the same model
SAMPLE = Path(__file__).parents[1] / "datasets/ccellbio/sample/BCCD/JPEGImages"
onnx = pytest.importorskip("onnx", reason="needs onnx: pip install 'descry[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")


def micro(backbone, head):
    """A detector with random weights, the ViT with its stem of convolutions.

    Batch norms have seen images: with fresh ones activations of `acmix_resnet` grow to hundreds.
    """
    spec = DetectorSpec(
        backbone=backbone,
        size="micro",
        stem="convolutions" if backbone == "vit" else "patch",
        head=head,
        num_classes=2,
        fpn_channels=16,
    )
    torch.manual_seed(0)
    detector = build_detector(spec)
    with torch.no_grad():
        for _ in range(20):
            detector.backbone(torch.randn(4, 3, 128, 128))
    return SavedModel(detector, spec, META)


CASES = [
    ("onnx", "vit", "retinanet"),
    ("onnx", "vit", "aligned"),
    ("onnx", "swin", "aligned"),
    ("onnx", "glnet", "aligned"),
    ("onnx", "acmix_resnet", "aligned"),
    ("torch", "vit", "retinanet"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "backbone", "head"), CASES)
def test_an_exported_model_detects_the_same(form, backbone, head, tmp_path):
    (tmp_path / "images").mkdir()
    for path in sorted(SAMPLE.glob("*.jpg"))[:4]:
        shutil.copy(path, tmp_path / "images")
    model = micro(backbone, head)
    model.save(tmp_path / "model.safetensors")
    out = tmp_path / f"model.{form}"
    found = run(tmp_path / "model.safetensors", out, form, tmp_path / "images")
    assert found.pictures == 4 and found.detections > 20
    assert found.box <= 1e-3 and found.score <= 1e-4
    if form == "onnx":
        written = exporting.parity(model, ExportedModel.load(out), synthetic(64))
        assert written.box <= 1e-3 and written.score <= 1e-4


def test_a_kept_export_stands_alone():
    session = onnxruntime.InferenceSession(KEPT, providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type, taken.shape[1:]) == ("images", "tensor(uint8)", [3, 64, 64])
    assert [given.name for given in session.get_outputs()] == ["scores", "boxes"]
    said = json.loads(session.get_modelmeta().custom_metadata_map["descry"])
    about = said["about"]
    assert said["format"] == 1 and said["program"]["places"] == [576, 144, 36, 9, 9]
    assert about["categories"] == [[1, "spot"], [2, "other"]]
    assert (about["score_threshold"], about["image_size"]) == (0.3, 64)
    assert about["class_thresholds"] == {"spot": 0.25}
    assert about["intensity"]["low_percentile"] == 0.5
    assert about["intended_use"].startswith("Research only")
    assert str(Path(__file__).parents[1]).encode() not in KEPT.read_bytes()


def test_a_kept_export_detects_what_its_model_detects():
    model, other = SavedModel.load(MODEL), open_model(KEPT)
    assert other.sha256 == hashlib.sha256(KEPT.read_bytes()).hexdigest()
    assert (other.spec, other.meta) == (model.spec, model.meta)
    image = (np.arange(64 * 48, dtype=np.uint32).reshape(48, 64) * 7 % 256).astype(np.uint8)
    (found,) = other.detect([image])
    np.testing.assert_allclose(found.scores[:3], [0.306081, 0.304530, 0.303081], atol=2e-5)
    for batch in (1, 2, 4):
        same = exporting.parity(model, other, synthetic(64)[:batch])
        assert same.box <= 1e-3 and same.score <= 1e-4 and same.detections == 100 * batch


def test_predict_takes_an_export_and_gives_the_same_detections(tmp_path):
    for i, pixels in enumerate(synthetic(64)):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"in/{i}.png")
    rows = []
    for checkpoint in (MODEL, KEPT):
        out = tmp_path / checkpoint.name
        command = ["predict", str(tmp_path / "in"), "-o", str(out), "--checkpoint"]
        done = CliRunner().invoke(app, [*command, str(checkpoint), "--device", "cpu"])
        assert done.exit_code == 0, done.exception
        rows.append(rows_of(out / "detections.csv"))
    assert len(rows[0]) == len(rows[1]) > 4
    for ours, theirs in zip(*rows, strict=True):
        for key, value in ours.items():
            try:
                assert float(theirs[key]) == pytest.approx(float(value), abs=1e-3), key
            except ValueError:
                assert theirs[key] == value, key


@pytest.fixture
def traced(monkeypatch):
    """`run` finds the graph of the kept export in the place of its slow steps."""
    proto = onnx.load(KEPT)
    del proto.metadata_props[:]
    monkeypatch.setattr(exporting, "_traced", lambda *_: None)
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: SimpleNamespace(model_proto=proto))


@pytest.mark.parametrize(
    ("threshold", "most", "overlap"), [(0.05, 100, 0.5), (0.29, 20, 0.2), (0.3, 1000, 0.7)]
)
def test_a_graph_that_chooses_itself_chooses_the_same(threshold, most, overlap, traced, tmp_path):
    model = SavedModel.load(MODEL)
    chosen = Selection(threshold, overlap, most)
    model.spec = replace(model.spec, **asdict(chosen))
    model.detector.selection = chosen
    model.save(tmp_path / "model.safetensors")
    out = tmp_path / "model.onnx"
    found = run(tmp_path / "model.safetensors", out, "onnx", None, "inside")
    assert found.pictures == 4 and found.box <= 1e-3 and found.score <= 1e-4
    graph = onnx.load(out).graph
    shapes = [[d.dim_value for d in o.type.tensor_type.shape.dim[1:]] for o in graph.output]
    depth = min(most, 2 * 774)
    assert [o.name for o in graph.output] == ["scores", "boxes", "labels"]
    assert shapes == [[depth], [depth, 4], [depth]]
    other = open_model(out)
    for pictures in (synthetic(64)[:1], synthetic(64)):
        pairs = list(zip(model.detect(pictures), other.detect(pictures), strict=True))
        assert sum(len(ours.scores) for ours, _ in pairs) > 0
        for ours, theirs in pairs:
            assert len(ours.scores) == len(theirs.scores) and (ours.labels == theirs.labels).all()
            np.testing.assert_allclose(theirs.boxes, ours.boxes, atol=1e-3)
    assert storage_format(out) == 2


def storage_format(path):
    (entry,) = onnx.load(path).metadata_props
    return json.loads(entry.value)["format"]


@pytest.mark.parametrize("how", ["dynamic", pytest.param("static", marks=pytest.mark.slow)])
def test_a_graph_in_8_bits_says_how_far_it_is_and_detects_about_the_same(how, traced, tmp_path):
    (tmp_path / "images").mkdir()
    for i, pixels in enumerate(synthetic(64)):
        Image.fromarray(pixels).save(tmp_path / f"images/{i}.png")
    out = tmp_path / "model.onnx"
    found = run(MODEL, out, "onnx", tmp_path / "images", int8=how)
    assert found.pictures == 4 and 1e-6 < found.score < 0.05  # another graph, and near
    program = json.loads(onnx.load(out).metadata_props[0].value)["program"]
    assert program["int8"] == how and storage_format(out) == 1
    kinds = {node.op_type for node in onnx.load(out).graph.node}
    assert ("MatMulInteger" in kinds, "QuantizeLinear" in kinds) == (
        how == "dynamic",
        how != "dynamic",
    )
    (ours,), (theirs,) = (open_model(path).detect(synthetic(64)[:1]) for path in (KEPT, out))
    assert theirs.scores[0] == pytest.approx(ours.scores[0], abs=0.05)


def reweighted(proto):
    weights = max(proto.graph.initializer, key=lambda one: len(one.raw_data))
    weights.raw_data = weights.raw_data[:-4] + b"\0\0\0\0"


def resaid(old, new):
    def change(proto):
        (entry,) = proto.metadata_props
        assert old in entry.value
        entry.value = entry.value.replace(old, new)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (reweighted, "changed since it was exported"),
        (resaid('"score_threshold": 0.3', '"score_threshold": 0.2'), "changed since"),
        (resaid('"format": 1', '"format": 9'), "export format 9"),
        (resaid('"image_size": 64', '"image_size": "big"'), "about.image_size"),
        (resaid('{"about"', '"about"'), "damaged"),
        (lambda proto: proto.ClearField("metadata_props"), "not a model of descry"),
    ],
)
def test_a_changed_file_is_refused(change, words, tmp_path):
    proto = onnx.load(KEPT)
    change(proto)
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString(deterministic=True))
    with pytest.raises(DescryError, match=words):
        open_model(tmp_path / "model.onnx")


def test_what_is_no_onnx_file_is_refused(tmp_path):
    with pytest.raises(DescryError, match="no such checkpoint"):
        open_model(tmp_path / "model.onnx")
    (tmp_path / "model.onnx").write_bytes(MODEL.read_bytes())
    with pytest.raises(DescryError, match="not a readable ONNX file"):
        open_model(tmp_path / "model.onnx")


def test_what_an_export_cannot_do_is_refused():
    model = open_model(KEPT)
    model.prepare("fp32")
    for options in ({"precision": "bf16"}, {"precision": "fp32", "compiled": True}):
        with pytest.raises(DescryError, match="an exported model"):
            model.prepare(**options)
    with pytest.raises(DescryError, match="takes 64 px"):
        model.detect(synthetic(64), side=96)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_without_the_extra_predict_says_how_to_get_it(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DescryError, match=f"needs {missing}: .*descry\\[onnx\\]"):
        open_model(KEPT)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_without_the_extra_export_says_how_to_get_it(missing, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(exporting, "_traced", lambda *_: None)
    with pytest.raises(DescryError, match=f"needs {missing}: .*descry\\[onnx\\]"):
        run(MODEL, tmp_path / "model.onnx", "onnx", None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("box", "score", "written"),
    [(0.0, 0.0, True), (4e-4, 4e-5, True), (2e-3, 0.0, False), (0.0, 2e-4, False)],
)
def test_a_program_that_detects_something_else_is_not_written(
    box, score, written, monkeypatch, tmp_path
):
    model, out = SavedModel.load(MODEL), tmp_path / "model.pt2"
    exact = exporting.Candidates(model.detector, 64).eval()

    def inexact(images):
        scores, boxes = exact(images)
        return scores + score, boxes + box

    monkeypatch.setattr(exporting, "_traced", lambda *_: None)
    program = exporting._Written(b"program", b"", inexact, exact.counts)
    monkeypatch.setattr(exporting, "_torch", lambda *_: program)
    form = exporting.Form("torch")
    if written:
        assert exporting.export(model, out, form, synthetic(64)).detections == 400
        assert out.read_bytes() == b"program"
        return
    with pytest.raises(DescryError, match="not written: the program's detections differ"):
        exporting.export(model, out, form, synthetic(64))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("task", ["instances", "semantic"])
def test_masks_have_no_form(task, tmp_path):
    spec = DetectorSpec(backbone="vit", size="micro", task=task, num_classes=2, fpn_channels=16)
    SavedModel(build_detector(spec), spec, META).save(tmp_path / "model.safetensors")
    with pytest.raises(DescryError, match=f"a model of model.task={task} finds masks"):
        run(tmp_path / "model.safetensors", tmp_path / "model.onnx", "onnx", None)
    assert not (tmp_path / "model.onnx").exists()


def test_what_has_no_form_is_said_and_not_written(monkeypatch, tmp_path):
    def refuses(*_, **__):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch.export, "export", refuses)
    with pytest.raises(DescryError, match="backbone vit with head retinanet does not export"):
        run(MODEL, tmp_path / "model.onnx", "onnx", None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "tflite"], "--to 'tflite': must be one of onnx, torch, monai"),
        (["--nms", "beside"], "--nms 'beside': must be one of outside, inside"),
        (["--int8", "4"], "--int8 '4': must be one of dynamic, static"),
        (["--to", "torch", "--int8", "dynamic"], "go with --to onnx"),
        (["--int8", "static"], "needs --images"),
        (["--images", "nowhere"], "--images nowhere: no such folder"),
        (["--images", str(FORMATS)], "no picture"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(options, words, tmp_path):
    done = CliRunner().invoke(app, ["export", str(MODEL), "-o", str(tmp_path / "o"), *options])
    assert isinstance(done.exception, DescryError) and words in str(done.exception)

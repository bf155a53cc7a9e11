"""The library: its names, and that it finds what the command finds."""

import csv
import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from predict_factory import META, SPEC
from pydicom import dcmread
from pydicom.data import get_testdata_file
from torchvision.ops import FeaturePyramidNetwork

import pipeline
from pipeline.data.masks import decode
from pipeline.errors import DescryError
from pipeline.models.build import build_detector
from pipeline.models.saved import SavedModel
from pipeline.predict.options import Options
from pipeline.predict.run import predict_folder

FORMAT_2 = Path(__file__).parent / "formats/2.safetensors"


def test_the_public_names_and_their_arguments_stay():
    assert pipeline.__all__ == [
        "Model", "Prediction", "Predictions", "__version__", "build_backbone", "enhance", "load",
    ]  # fmt: skip
    arguments = {
        pipeline.load: ["path", "device"],
        pipeline.Model.predict: ["self", "source", "threshold", "batch_size"],
        pipeline.Predictions.to_coco: ["self"],
        pipeline.enhance: ["model", "pool_layers", "concepts"],
        pipeline.build_backbone: [
            "name", "size", "pool_layers", "concepts", "placement", "drop_path", "options",
        ],
    }  # fmt: skip
    for function, names in arguments.items():
        assert list(inspect.signature(function).parameters) == names
    assert list(pipeline.Prediction.__dataclass_fields__) == [
        "source", "frame", "height", "width", "boxes", "scores", "labels", "names",
        "masks",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return pipeline.load(FORMAT_2)


def test_arrays_give_boxes_scores_and_names(model):
    rng = np.random.default_rng(0)
    grey, colour = (rng.integers(0, 255, s, dtype=np.uint8) for s in ((48, 64), (70, 40, 3)))
    assert model.thresholds == {"spot": 0.25, "other": 0.3}
    both = model.predict([grey, colour], threshold=0.0, batch_size=1)
    assert [(p.height, p.width, p.source) for p in both] == [(48, 64, ""), (70, 40, "")]
    (alone,) = model.predict(grey, threshold=0.0)
    assert np.array_equal(alone.boxes, both[0].boxes) and len(alone.boxes) == 100
    (kept,) = model.predict(grey)
    lowest = {"spot": 0.25, "other": 0.3}
    assert 0 < len(kept.boxes) < 100
    assert all(s >= lowest[n] for s, n in zip(kept.scores, kept.names, strict=True))
    coco = both.to_coco()
    assert [image["id"] for image in coco["images"]] == [1, 2]
    assert coco["categories"] == [{"id": 1, "name": "spot"}, {"id": 2, "name": "other"}]
    x1, y1, x2, y2 = both[0].boxes[0]
    np.testing.assert_allclose(
        coco["annotations"][0]["bbox"], [x1, y1, x2 - x1, y2 - y1], atol=0.01
    )


@pytest.mark.parametrize("task", ["instances", "semantic"])
def test_masks_lie_on_the_image_as_it_was_given_inside_their_boxes(tmp_path, task):
    torch.manual_seed(0)
    spec = replace(SPEC, task=task)
    SavedModel(build_detector(spec), spec, META).save(tmp_path / "model.safetensors")
    model = pipeline.load(tmp_path / "model.safetensors")
    image = np.random.default_rng(0).integers(0, 255, (100, 70), dtype=np.uint8)
    (found,) = predictions = model.predict(image, threshold=0.0)
    assert found.masks.shape == (len(found.boxes), 100, 70) and found.masks.dtype == bool
    assert len(found.boxes) and found.masks.any()
    for (x1, y1, x2, y2), mask in zip(found.boxes, found.masks, strict=True):
        rows, columns = np.nonzero(mask)
        assert ((rows + 1 > y1) & (rows < y2) & (columns + 1 > x1) & (columns < x2)).all()
    rows = predictions.to_coco()["annotations"]
    mask = decode(rows[0]["segmentation"]["counts"], 100, 70)
    np.testing.assert_array_equal(mask, found.masks[0])


def test_a_folder_and_a_dataset_are_read_as_the_command_reads_them(model, tmp_path):
    folder, source = tmp_path / "in", Path(get_testdata_file("CT_small.dcm"))
    folder.mkdir()
    (folder / "ct.dcm").write_bytes(source.read_bytes())
    Image.fromarray(np.full((40, 50), 90, np.uint8)).save(folder / "grey.png")
    (folder / "notes.txt").write_text("no image")
    found = model.predict(folder)
    assert [p.source for p in found] == ["ct.dcm", "grey.png"] and list(found.failures) == [
        "notes.txt"
    ]
    options = Options(workers=0, overlays="none")
    predict_folder(folder, tmp_path / "out", SavedModel.load(FORMAT_2), options=options)
    with (tmp_path / "out/detections.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if "ct.dcm" in row.values()]
    assert len(rows) == len(found[0].scores) > 0
    np.testing.assert_allclose([float(r["score"]) for r in rows], found[0].scores, atol=1e-4)
    (dataset,) = model.predict(dcmread(source))
    # another batch size rounds otherwise
    np.testing.assert_allclose(dataset.boxes, found[0].boxes, atol=1e-3)
    assert (dataset.height, dataset.width) == (128, 128)


def test_a_backbone_stands_in_anyones_pyramid():
    backbone = pipeline.build_backbone("swin", "micro", options={"mask_padding": True})
    pyramid = FeaturePyramidNetwork(list(backbone.channels), 32)
    levels = pyramid({str(i): m for i, m in enumerate(backbone(torch.rand(1, 3, 64, 96)))})
    assert [tuple(level.shape) for level in levels.values()] == [
        (1, 32, 8, 12), (1, 32, 4, 6), (1, 32, 2, 3),
    ]  # fmt: skip
    with pytest.raises(DescryError, match=r"backbone = 'resnet'"):
        pipeline.build_backbone("resnet")

"""What a head has for a dataset's boxes."""

import json

import pytest
import torch

from pipeline.data.index import CocoIndex
from pipeline.models.build import build_detector
from pipeline.models.heads.coverage import coverage, level_grids
from pipeline.models.params import DetectorSpec

SPEC = {"size": "micro", "num_classes": 2, "fpn_channels": 32, "pool_layers": 0, "concepts": 0}


@pytest.fixture
def index(tmp_path) -> CocoIndex:
    """Of 256 px: a box that an anchor of 16 px is, and a dot of 2 px that lies between places."""
    boxes = {1: [8, 8, 16, 16], 2: [17, 17, 2, 2]}  # places: 4, 12, 20 ...; 8, 24 ...; 16, 48 ...
    tree = {
        "images": [{"id": 1, "file_name": "1.png", "width": 256, "height": 128}],
        "categories": [{"id": 1, "name": "cell"}, {"id": 2, "name": "dot"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": i, "bbox": box, "iscrowd": 0}
            for i, box in boxes.items()
        ],
    }
    (tmp_path / "train.json").write_text(json.dumps(tree))
    return CocoIndex(tmp_path / "train.json", tmp_path)


@pytest.mark.parametrize(
    ("given", "side", "cell", "dot"),
    [
        # An anchor of 16 px around (16, 16) is the cell; a dot has only its nearest.
        ({"head": "retinanet", "anchor_scale": 2.0}, 256, 0.0, 1.0),
        # Anchors from 32 px on: the cell is a quarter of the smallest.
        ({"head": "retinanet", "anchor_scale": 4.0}, 256, 1.0, 1.0),
        # Without anchors a place in the box is enough; at twice the pixels the dot has one.
        ({"head": "aligned"}, 256, 0.0, 1.0),
        ({"head": "aligned"}, 512, 0.0, 0.0),
    ],
)
def test_what_fits_which_box(index, given, side, cell, dot):
    head = build_detector(DetectorSpec(**SPEC, **given)).head
    table = coverage(head, index, side)
    assert {name: row["unfitted"] for name, row in table.items()} == {"cell": cell, "dot": dot}
    assert all(row["boxes"] == 1 for row in table.values())
    assert table["cell"]["positives_per_box"] >= 1  # the dot's only anchor may be the cell's too


@pytest.mark.parametrize("side", [224, 256, 352])
def test_the_levels_are_those_of_the_pyramid(side):
    pyramid = build_detector(DetectorSpec(**SPEC)).backbone.eval()
    with torch.inference_mode():
        levels = pyramid(torch.zeros(1, 3, side, side))
    assert level_grids(side) == [tuple(level.shape[-2:]) for level in levels.values()]

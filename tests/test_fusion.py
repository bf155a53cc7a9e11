"""Soft-NMS, weighted box fusion, ensembles and test-time augmentation, against figures by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.data.intensity import Intensity
from pipeline.errors import DescryError
from pipeline.models.ensemble import Ensemble
from pipeline.models.fusion import Boxes, nms, soft_nms, weighted_box_fusion
from pipeline.models.params import Selection
from pipeline.models.saved import Detections


def boxes(*rows):
    """Of (x1, y1, x2, y2, score, label)."""
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return Boxes(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


A, B = (0, 0, 10, 10), (0, 0, 10, 5)  # IoU 1/2
FAR = (50, 50, 60, 60)


@pytest.mark.parametrize(
    ("rows", "left"),
    [
        ([(*A, 0.9, 1), (*B, 0.8, 1)], [0.9]),
        ([(*A, 0.9, 1), (*B, 0.8, 2)], [0.9, 0.8]),  # of another class
        ([(*A, 0.9, 1), (*FAR, 0.8, 1)], [0.9, 0.8]),
        ([], []),
    ],
)
def test_nms_keeps_the_best_of_a_class(rows, left):
    assert nms(boxes(*rows), 0.45, 1).scores.tolist() == left


def test_soft_nms_lowers_what_overlaps():
    # by A: exp(-.25 / .5) = .6065 for B; C equals A: exp(-1 / .5) = .1353, then IoU 1/2 with B
    found = soft_nms(boxes((*A, 0.9, 1), (*B, 0.8, 1), (*A, 0.7, 1), (*A, 0.6, 2)), 0.5, 1)
    expected = [0.9, 0.8 * np.exp(-0.5), 0.7 * np.exp(-2) * np.exp(-0.5), 0.6]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-12)
    assert len(found.boxes) == 4


def test_weighted_box_fusion_by_hand():
    # IoU of (0,0,10,10) and (0,0,10,8) is .8: one cluster, weights .6 and .2 -> height 9.5.
    rows = [(0, 0, 10, 10, 0.6, 1), (0, 0, 10, 8, 0.2, 1), (*FAR, 0.5, 1), (*A, 0.4, 2)]
    found = weighted_box_fusion(boxes(*rows), 0.55, 2)
    assert found.labels.tolist() == [1, 1, 2]
    np.testing.assert_allclose(found.boxes[0], [0, 0, 10, 9.5], atol=1e-9)
    # mean .4, of both sources; the others were seen by one of two and lose half
    np.testing.assert_allclose(found.scores, [0.4, 0.25, 0.2])


def test_a_box_joins_the_cluster_that_it_overlaps_most():
    rows = [(0, 0, 10, 10, 0.9, 1), (0, 0, 10, 5, 0.8, 1), (0, 0, 10, 6, 0.7, 1)]
    found = weighted_box_fusion(boxes(*rows), 0.55, 1)  # IoU .6 with the first, 5/6 with the second
    np.testing.assert_allclose(found.scores, [0.9, 0.75])
    np.testing.assert_allclose(found.boxes[1][3], (5 * 0.8 + 6 * 0.7) / 1.5)


class Bright:
    """A stand-in for a saved model: one box around what is bright, its score the share given."""

    categories, intensity, image_size, trained_on = ((1, "spot"),), Intensity(), 64, "toy"
    score_threshold, spec = 0.3, SimpleNamespace(task="detect")

    def __init__(self, score=0.8, **changed):
        self.score, self.sides, self.meta = score, [], {}
        self.detector = SimpleNamespace(selection=Selection())
        for name, value in changed.items():
            setattr(self, name, value)

    def detect(self, images, side=0):
        self.sides.append(side)
        found = []
        for image in images:
            rows, columns = np.nonzero(image > 128)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            score = np.float32(self.score)
            found.append(Detections(np.array([box], np.float32), score[None], np.array([1])))
        return found


@pytest.fixture
def image():
    pixels = np.zeros((40, 60), np.uint8)
    pixels[5:15, 10:30] = 255
    return pixels


def test_one_model_in_one_view_is_the_model_itself(image):
    model = Bright()
    alone = Ensemble([model], Selection())
    (found,) = alone.detect([image])
    assert found.boxes.dtype == np.float32 and model.sides == [0]
    assert alone.operating_point.threshold == 0.3


@pytest.mark.parametrize(
    ("models", "selection", "suppression", "tta"),
    [
        (1, Selection(score_threshold=0.2), "nms", ()),
        (2, Selection(), "nms", ()),
        (1, Selection(), "wbf", ()),
        (1, Selection(), "nms", ("flip",)),
    ],
)
def test_what_detects_otherwise_needs_an_operating_point_of_its_own(
    models, selection, suppression, tta
):
    many = Ensemble([Bright() for _ in range(models)], selection, suppression, tta)
    assert many.operating_point is None
    assert all(one.detector.selection == selection for one in many.models)


@pytest.mark.parametrize(
    ("tta", "sides"),
    [
        (("flip",), [64] * 2),
        (("scale",), [64, 48, 80]),
        (("flip", "scale"), [64, 64, 48, 48, 80, 80]),
    ],
)
def test_views_are_brought_back_to_the_image(image, tta, sides):
    model = Bright()
    (found,) = Ensemble([model], Selection(), tta=tta).detect([image])
    assert found.boxes.tolist() == [[10, 5, 30, 15]] and model.sides == sides


@pytest.mark.parametrize(
    ("suppression", "scores"),
    # the second box equals the first: soft-NMS leaves .6 exp(-2) = .0812 of it
    [("nms", [0.8]), ("soft_nms", [0.8, 0.0812]), ("wbf", [0.7])],
)
def test_models_are_fused(image, suppression, scores):
    models = [Bright(0.8), Bright(0.6)]
    (found,) = Ensemble(models, Selection(), suppression).detect([image])
    np.testing.assert_allclose(found.scores, scores, atol=1e-4)
    if suppression == "soft_nms":
        assert models[0].detector.selection.nms_threshold == 1.0  # the model drops nothing itself


def test_the_floor_and_the_limit_hold_after_fusion(image):
    models = [Bright(0.8), Bright(0.6)]
    for changed in ({"score_threshold": 0.1}, {"max_detections": 1}):
        (found,) = Ensemble(models, Selection(**changed), "soft_nms").detect([image])
        assert len(found.scores) == 1


def test_models_of_other_classes_are_no_ensemble():
    with pytest.raises(DescryError, match=r"same categories, not .*spot.* and .*mass"):
        Ensemble([Bright(), Bright(categories=((1, "mass"),))], Selection())

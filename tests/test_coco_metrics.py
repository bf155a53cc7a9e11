"""COCO figures: equal to pycocotools, honest where there is nothing to count."""

import contextlib
import copy
import io

import numpy as np
import pytest
from evaluate_factory import coco_of, found
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.errors import DescryError
from pipeline.evaluate.coco_arrays import GroundTruth, Predictions
from pipeline.evaluate.coco_matching import match
from pipeline.evaluate.coco_metrics import SUMMARY, CocoMetrics, self_test


def pycocotools(coco, results):
    """Precision (T, 101, K, A), recall (T, K, A, M) and the twelve figures."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(coco)
        truth.createIndex()
        detections = truth.loadRes(copy.deepcopy(results)) if results else COCO()
        if not results:  # its loadRes fails on an empty list
            detections.dataset = {**truth.dataset, "annotations": []}
            detections.createIndex()
        evaluation = COCOeval(truth, detections, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.eval["precision"][..., 2], evaluation.eval["recall"], evaluation.stats


# Sides around COCO's size borders (32 and 96), few places and scores: overlaps and ties abound.
SIDE = st.sampled_from([6, 10, 16, 31, 32, 33, 64, 96, 97])
PLACE = st.integers(0, 12).map(lambda v: 4 * v)
BOX = st.tuples(PLACE, PLACE, SIDE, SIDE).map(list)
IMAGE = st.sampled_from([3, 7, 8, 1000])  # ids with gaps; some have no objects, some nothing
CLASS = st.sampled_from([2, 5])  # and 9, which never has an object
OBJECT = st.tuples(IMAGE, CLASS, BOX, st.sampled_from([1.0, 1.0, 0.4]), st.integers(0, 5))
SCORE = st.sampled_from([0.1, 0.5, 0.5, 0.9]) | st.floats(0, 1)
SHIFT = st.tuples(*[st.sampled_from([0, 0, 1, 2, 5])] * 4)
FREE = st.tuples(IMAGE, st.sampled_from([2, 5, 9]), BOX, SCORE)


@st.composite
def cases(draw):
    objects = draw(st.lists(OBJECT, max_size=14))
    annotations = [
        {
            "id": 10 + 3 * n,
            "image_id": image,
            "category_id": label,
            "bbox": box,
            "area": share * box[2] * box[3],
            "iscrowd": int(kind == 0),
        }
        for n, (image, label, box, share, kind) in enumerate(objects)
    ]
    results = [found(*row) for row in draw(st.lists(FREE, max_size=8))]
    for a in annotations:
        for _ in range(draw(st.integers(0, 3))):
            shift = draw(SHIFT)
            box = [float(v + s) for v, s in zip(a["bbox"], shift, strict=True)]
            results.append(found(a["image_id"], a["category_id"], box, draw(SCORE)))
    images = [{"id": i, "file_name": f"{i}.png", "width": 200, "height": 200} for i in (8, 3, 1000)]
    images += [{"id": i, "file_name": f"{i}.png", "width": 200, "height": 200} for i in (7, 55)]
    categories = [{"id": i, "name": str(i)} for i in (9, 2, 5)]
    return {"images": images, "categories": categories, "annotations": annotations}, results


@settings(max_examples=150, deadline=None)
@given(cases())
@example((coco_of([[(1, 10, 10, 40, 40)], []]), []))
@example((coco_of([[], []]), [found(1, 1, [1, 1, 5, 5], 0.5)]))
def test_every_figure_equals_pycocotools(case):
    coco, results = case
    precision, recall, stats = pycocotools(coco, results)
    score = CocoMetrics.between(coco, results)
    np.testing.assert_allclose(score.averages.precision, precision, rtol=0, atol=1e-12)
    np.testing.assert_allclose(score.averages.recall, recall, rtol=0, atol=1e-12)
    for name, theirs in zip(SUMMARY, stats, strict=True):
        ours = score.value(name)
        assert (ours is None) == (theirs == -1), name
        assert ours is None or ours == pytest.approx(theirs, abs=5.1e-7), name  # 6 decimals


def test_more_than_a_hundred_detections_and_parts_of_any_size(monkeypatch):
    rng = np.random.default_rng(0)
    boxes = rng.integers(0, 150, (3, 160, 2))
    truth = coco_of([[(1, *map(int, b), 20, 20) for b in image[:30]] for image in boxes])
    results = [
        found(i, 1, [float(b[0]), float(b[1]), 20.0, 20.0], float(rng.integers(0, 20)) / 20)
        for i, image in enumerate(boxes, 1)
        for b in image
    ]
    precision, recall, _ = pycocotools(truth, results)
    for at_once, chunk in ((200_000, 2_000_000), (1, 50)):
        monkeypatch.setattr("pipeline.evaluate.coco_matching.AT_ONCE", at_once)
        monkeypatch.setattr("pipeline.evaluate.coco_matching.CHUNK", chunk)
        averages = CocoMetrics.between(truth, results).averages
        np.testing.assert_allclose(averages.precision, precision, rtol=0, atol=1e-12)
        np.testing.assert_allclose(averages.recall, recall, rtol=0, atol=1e-12)


def test_annotation_ids_from_zero_do_no_harm():
    # pycocotools takes an object with id 0 for a missing match.
    coco = coco_of([[(1, 10, 10, 40, 40)]])
    coco["annotations"][0]["id"] = 0
    assert CocoMetrics.between(coco, [found(1, 1, [10, 10, 40, 40], 0.9)]).value("AP") == 1.0


def test_a_worked_example():
    # One object; a hit at IoU 1 ranked below a miss: precision 1/2 at every recall -> AP 0.5.
    coco = coco_of([[(1, 10, 10, 40, 40)]])
    results = [found(1, 1, [100, 100, 40, 40], 0.9), found(1, 1, [10, 10, 40, 40], 0.8)]
    score = CocoMetrics.between(coco, results)
    assert score.value("AP") == 0.5
    assert score.value("AR1") == 0.0  # the one detection allowed is the miss
    assert score.value("AR10") == 1.0
    # IoU 0.7 = 28/40: hits at thresholds 0.5 to 0.7, which is 5 of 10.
    score = CocoMetrics.between(coco, [found(1, 1, [10, 10, 28, 40], 0.9)])
    assert (score.value("AP"), score.value("AP50"), score.value("AP75")) == (0.5, 1.0, 0.0)


def test_no_detections_is_zero_and_no_ground_truth_is_none_with_its_count():
    coco = coco_of([[(1, 10, 10, 40, 40)], []])
    figures = CocoMetrics.between(coco, []).summary()
    assert figures["AP"] == 0.0 and figures["AR100"] == 0.0
    assert figures["AP_small"] is None and figures["objects_small"] == 0
    assert figures["objects_medium"] == 1 and figures["images"] == 2
    assert CocoMetrics.between(coco_of([[], []]), []).summary()["AP"] is None


def test_an_area_on_the_border_counts_for_both_sizes_as_in_coco():
    figures = CocoMetrics.between(coco_of([[(1, 10, 10, 32, 32)]]), []).summary()
    assert (figures["objects_small"], figures["objects_medium"]) == (1, 1)
    assert figures["AP_small"] == figures["AP_medium"] == 0.0


def test_per_class_tells_a_class_without_ground_truth_from_a_missed_one():
    rows = CocoMetrics.between(coco_of([[(1, 10, 10, 40, 40)]]), []).per_class()
    assert [(r["class"], r["objects"], r["AP"]) for r in rows] == [("a", 1, 0.0), ("b", 0, None)]


def test_ground_truth_scores_one_against_itself_even_with_many_objects():
    many = [(1 + j % 2, 10 * (j % 15), 10 * (j // 15), 9, 9) for j in range(250)]
    assert self_test(coco_of([many, [], [(2, 1, 1, 150, 60)]])) == 1.0
    assert self_test(coco_of([[], []])) is None


def test_foreign_ids_are_named():
    coco = coco_of([[(1, 10, 10, 40, 40)]])
    with pytest.raises(DescryError, match="image_id 7"):
        CocoMetrics.between(coco, [found(7, 1, [0, 0, 5, 5], 0.5)])
    with pytest.raises(DescryError, match=r"category_id 9.*It has 1, 2"):
        CocoMetrics.between(coco, [found(1, 9, [0, 0, 5, 5], 0.5)])


def test_a_match_says_which_object_it_is():
    truth = GroundTruth.of(coco_of([[(1, 0, 0, 40, 40), (2, 0, 0, 40, 40)], [(1, 50, 50, 20, 20)]]))
    rows = [found(2, 1, [50, 50, 20, 20], 0.3), found(1, 2, [0, 0, 40, 30], 0.9)]
    rows.append(found(1, 2, [0, 0, 40, 40], 0.8))
    assert match(truth, Predictions.of(truth, rows)).partner.tolist() == [1, -1, 2]

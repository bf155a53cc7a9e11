"""COCO figures: equal to pycocotools, honest where there is nothing to count."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.errors import DescryError
from pipeline.evaluate.metrics import SUMMARY, CocoScore, operating_point, self_test


def coco_of(boxes_per_image, categories=("a", "b"), size=(200, 200)):
    """Ground truth from a list (one entry an image) of lists of (class id, x, y, w, h)."""
    annotations = [
        {"image_id": i, "category_id": k, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
        for i, boxes in enumerate(boxes_per_image, 1)
        for k, x, y, w, h in boxes
    ]
    for n, annotation in enumerate(annotations, 1):
        annotation["id"] = n
    return {
        "info": {},
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": size[0], "height": size[1]}
            for i in range(1, len(boxes_per_image) + 1)
        ],
        "categories": [
            {"id": i, "name": name, "supercategory": ""} for i, name in enumerate(categories, 1)
        ],
        "annotations": annotations,
    }


def found(image_id, category_id, bbox, score):
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


def random_case(seed):
    rng = np.random.default_rng(seed)
    truth = [
        [
            (
                int(rng.integers(1, 3)),
                *map(int, rng.integers(0, 90, 2)),
                *map(int, rng.integers(5, 110, 2)),
            )
            for _ in range(rng.integers(0, 6))
        ]
        for _ in range(12)
    ]
    results = []
    for i, boxes in enumerate(truth, 1):
        for k, *bbox in boxes:
            if rng.random() < 0.8:
                moved = (np.array(bbox) + rng.integers(-6, 7, 4)).clip(1).tolist()
                results.append(found(i, k, moved, round(rng.random(), 1)))  # with ties
        for _ in range(rng.integers(0, 4)):
            bbox = [*map(int, rng.integers(0, 90, 2)), *map(int, rng.integers(5, 110, 2))]
            results.append(found(i, int(rng.integers(1, 3)), bbox, round(rng.random(), 2)))
    return coco_of(truth), results


@pytest.mark.parametrize("seed", range(8))
def test_all_twelve_equal_pycocotools_own_summary(seed):
    coco, results = random_case(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = coco
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ours = CocoScore(coco, results).summary()
    for name, theirs in zip(SUMMARY, evaluation.stats, strict=True):
        if theirs == -1:
            assert ours[name] is None, name
        else:
            assert ours[name] == pytest.approx(theirs, abs=5.1e-7), name


def test_a_worked_example():
    # One object; a hit at IoU 1 ranked below a miss: precision 1/2 at every recall -> AP 0.5.
    coco = coco_of([[(1, 10, 10, 40, 40)]])
    results = [found(1, 1, [100, 100, 40, 40], 0.9), found(1, 1, [10, 10, 40, 40], 0.8)]
    score = CocoScore(coco, results)
    assert score.value("AP") == 0.5
    assert score.value("AR1") == 0.0  # the one detection allowed is the miss
    assert score.value("AR10") == 1.0
    # IoU 0.7 = 28/40: hits at thresholds 0.5 to 0.7, which is 5 of 10.
    score = CocoScore(coco, [found(1, 1, [10, 10, 28, 40], 0.9)])
    assert (score.value("AP"), score.value("AP50"), score.value("AP75")) == (0.5, 1.0, 0.0)


def test_no_detections_is_zero_and_no_ground_truth_is_none_with_its_count():
    coco = coco_of([[(1, 10, 10, 40, 40)], []])
    figures = CocoScore(coco, []).summary()
    assert figures["AP"] == 0.0 and figures["AR100"] == 0.0
    assert figures["AP_small"] is None and figures["objects_small"] == 0
    assert figures["objects_medium"] == 1 and figures["images"] == 2
    assert CocoScore(coco_of([[], []]), []).summary()["AP"] is None


def test_per_class_tells_a_class_without_ground_truth_from_a_missed_one():
    rows = CocoScore(coco_of([[(1, 10, 10, 40, 40)]]), []).per_class()
    assert [(r["class"], r["objects"], r["AP"]) for r in rows] == [("a", 1, 0.0), ("b", 0, None)]


def test_ground_truth_scores_one_against_itself_even_with_many_objects():
    many = [(1 + j % 2, 10 * (j % 15), 10 * (j // 15), 9, 9) for j in range(150)]
    assert self_test(coco_of([many, [], [(2, 1, 1, 150, 60)]])) == 1.0
    assert self_test(coco_of([[], []])) is None


def test_foreign_ids_are_named():
    coco = coco_of([[(1, 10, 10, 40, 40)]])
    with pytest.raises(DescryError, match="image_id 7"):
        CocoScore(coco, [found(7, 1, [0, 0, 5, 5], 0.5)])
    with pytest.raises(DescryError, match="category_id 9"):
        CocoScore(coco, [found(1, 9, [0, 0, 5, 5], 0.5)])


def test_operating_point_is_the_best_f1(tmp_path):
    from pipeline.data.coco import write_coco

    coco = coco_of([[(1, 10, 10, 40, 40), (1, 100, 100, 50, 50)], [(2, 20, 20, 30, 30)]])
    write_coco(
        tmp_path / "val.json",
        info={},
        licenses=[],
        categories=[("a", ""), ("b", "")],
        images=[{k: v for k, v in i.items() if k != "id"} for i in coco["images"]],
        annotations=[{k: v for k, v in a.items() if k != "id"} for a in coco["annotations"]],
    )
    results = [
        found(1, 1, [10, 10, 40, 40], 0.9),
        found(2, 2, [20, 20, 30, 30], 0.7),
        found(1, 1, [150, 10, 20, 20], 0.6),
        found(1, 1, [100, 100, 50, 50], 0.2),
        found(2, 1, [100, 10, 20, 20], 0.1),
    ]
    # F1 after each: 2*1/(1+3)=.5, 2*2/(2+3)=.8, 4/6=.67, 6/7=.857, 6/8=.75
    threshold, words = operating_point(tmp_path / "val.json", results)
    assert threshold == 0.2 and "0.857" in words and "3 objects" in words
    assert operating_point(tmp_path / "val.json", [])[1].startswith("default")

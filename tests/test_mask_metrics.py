"""Figures of masks: AP equal to pycocotools, Dice and boundary F by hand."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.data.masks import encode, rle
from pipeline.errors import DescryError
from pipeline.evaluate.coco_arrays import GroundTruth, Predictions
from pipeline.evaluate.coco_metrics import SUMMARY, CocoMetrics
from pipeline.evaluate.intervals import Resampling, Units, mask_intervals
from pipeline.evaluate.masks import MaskMetrics, boundary_f, dice
from pipeline.evaluate.operating_point import validate
from pipeline.evaluate.run import evaluate_files

H, W = 120, 160


def ellipse(rng) -> np.ndarray:
    y, x = np.mgrid[:H, :W]
    centre, radius = rng.uniform((20, 20), (H - 20, W - 20)), rng.uniform(4, 50, 2)
    return np.hypot((y - centre[0]) / radius[0], (x - centre[1]) / radius[1]) < 1


def annotation(mask: np.ndarray, **more) -> dict:
    shape = rle(encode(mask), H, W)
    box = [float(v) for v in coco_mask.toBbox(shape)]
    return {"bbox": box, "segmentation": shape, **more}


def case(seed: int) -> tuple[dict, list[dict]]:
    """Random ellipses of two classes in four images, moved and changed ones as detections."""
    rng = np.random.default_rng(seed)
    objects, results = [], []
    for image in (1, 2, 3, 9):
        for _ in range(rng.integers(0, 6)):
            mask, label = ellipse(rng), int(rng.integers(2, 4))
            kind = {"image_id": image, "category_id": label}
            crowd = int(rng.random() < 0.15)
            one = annotation(mask, id=len(objects) + 1, iscrowd=crowd, **kind)
            objects.append(one | {"area": float(mask.sum())})
            for _ in range(rng.integers(0, 3)):
                moved = np.roll(mask, rng.integers(-12, 12, 2), (0, 1)) & (rng.random() < 0.95)
                score = float(rng.choice([0.2, 0.5, 0.5, 0.9]))
                results.append(annotation(moved, score=score, **kind))
        if rng.random() < 0.7:
            results.append(annotation(ellipse(rng), image_id=image, category_id=2, score=0.4))
    images = [{"id": i, "file_name": f"{i}.png", "width": W, "height": H} for i in (9, 3, 2, 1)]
    categories = [{"id": i, "name": str(i)} for i in (3, 2)]
    return {"images": images, "categories": categories, "annotations": objects}, results


@pytest.mark.parametrize("seed", range(12))
def test_mask_ap_equals_pycocotools(seed: int) -> None:
    coco, results = case(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(coco)
        truth.createIndex()
        # a result with a box would be of the box's area to it
        plain = [{k: v for k, v in row.items() if k != "bbox"} for row in results]
        theirs = COCOeval(truth, truth.loadRes(plain), "segm")
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    ours = CocoMetrics.between(coco, results, masks=True)
    np.testing.assert_allclose(
        ours.averages.precision, theirs.eval["precision"][..., 2], rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(ours.averages.recall, theirs.eval["recall"], rtol=0, atol=1e-12)
    for name, value in zip(SUMMARY, theirs.stats, strict=True):
        found = ours.value(name)
        assert (found is None) == (value == -1)
        assert found is None or found == pytest.approx(value, abs=5.1e-7)


def square(x: int, y: int, side: int) -> np.ndarray:
    mask = np.zeros((H, W), dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


def test_dice_and_boundary_f_by_hand() -> None:
    one = square(20, 20, 40)
    assert (dice(one, one), boundary_f(one, one)) == (1.0, 1.0)
    assert dice(square(20, 20, 40), square(40, 20, 40)) == 0.5  # 2 * 800 / 3200
    assert dice(one, np.zeros_like(one)) == boundary_f(one, np.zeros_like(one)) == 0.0
    # 1.6 px is 0.8 % of the diagonal, 200 px: one pixel aside is near, three are not
    assert boundary_f(square(21, 20, 40), one) == 1.0
    # 3 px to the right: of the 156 edge pixels 38 of top and bottom are near, and one below each
    assert boundary_f(square(23, 20, 40), one) == pytest.approx((2 * 38 + 2) / 156)


def test_images_are_judged_by_class_at_the_operating_point() -> None:
    images = [{"id": i, "file_name": f"{i}.png", "width": W, "height": H} for i in (1, 2, 3)]
    coco = {"images": images, "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}
    one, two = square(10, 10, 20), square(60, 10, 20)
    rows = [(1, 1, one), (1, 1, two), (2, 2, one)]
    coco["annotations"] = [
        annotation(mask, id=i, image_id=image, category_id=label, iscrowd=0, area=400.0)
        for i, (image, label, mask) in enumerate(rows, 1)
    ]
    results = [
        annotation(one, image_id=1, category_id=1, score=0.9),
        annotation(two, image_id=1, category_id=1, score=0.2),  # below the operating point
        annotation(one, image_id=2, category_id=2, score=0.9),
        annotation(one, image_id=3, category_id=2, score=0.9),  # nothing there
    ]
    truth = GroundTruth.of(coco, masks=True)
    metrics = MaskMetrics(truth, Predictions.of(truth, results), 0.5)
    a, b = metrics.per_class()
    assert (a["images"], a["dice"]) == (1, pytest.approx(2 / 3, abs=1e-6))
    assert (b["images"], b["dice"], b["boundary_f"]) == (2, 0.5, 0.5)
    flat = metrics.flat()
    assert flat["dice"] == pytest.approx((2 / 3 + 0.5) / 2, abs=1e-6)
    assert flat["mask_AP50"] == pytest.approx((1 + 1) / 2, abs=1e-6)
    spread = mask_intervals(metrics, Units.of(images), Resampling(resamples=200))
    low, high = spread["dice"]
    # drawn thrice: the image of b's wrong region alone gives 0, that of b's right one 1
    assert (low, high) == (0.0, 1.0) and spread["mask_AP"] is not None


def test_results_of_other_programs_are_judged_by_their_masks_if_both_files_have_some(tmp_path):
    coco, results = case(3)
    truth, found = tmp_path / "gt.json", tmp_path / "found.json"
    truth.write_text(json.dumps(coco))

    def figures(rows):
        found.write_text(json.dumps(rows))
        how = {"threshold": 0.3, "images": None, "gallery": 0, "how": Resampling(resamples=5)}
        return evaluate_files(truth, found, tmp_path / "out", **how)

    whole = figures(results)
    assert whole["mask_AP"] == CocoMetrics.between(coco, results, masks=True).value("AP")
    assert 0 < whole["dice"] < 1
    details = json.loads((tmp_path / "out/details.json").read_text())
    assert len(details["intervals"]["figures"]["dice"]) == 2
    assert "dice" in (tmp_path / "out/per_class.csv").read_text().splitlines()[0]
    boxes = [{k: v for k, v in row.items() if k != "segmentation"} for row in results]
    plain = figures(boxes)
    assert "mask_AP" not in plain and plain["AP"] == whole["AP"]
    assert "mask_AP" not in figures([]) and "mask_AP" not in figures([*results, boxes[0]])
    wrong = results[0] | {"segmentation": {"size": [5, 5], "counts": "0"}}
    with pytest.raises(DescryError, match=r"detection 0: its segmentation is neither .* 160 x 120"):
        figures([wrong, *results[1:]])


def test_a_semantic_model_counts_all_its_regions(tmp_path) -> None:
    coco, results = case(3)
    path = tmp_path / "val.json"
    path.write_text(json.dumps(coco))
    scores, point = validate(path, results, "semantic")
    assert point.threshold == 0.0 and set(point.by_class.values()) <= {0.0}
    assert scores["dice"] > 0.3 and scores["mask_AP"] is not None
    assert "dice" not in validate(path, results)[0]

"""Resampling, intervals and the comparison of two runs."""

import numpy as np
import pytest
from evaluate_factory import A, B, coco_of, found, matched
from hypothesis import given, settings
from test_coco_metrics import cases

from pipeline.evaluate.coco_metrics import CocoMetrics
from pipeline.evaluate.compare import compare_matches
from pipeline.evaluate.intervals import Resampling, Units, intervals
from pipeline.evaluate.weighted import FIGURES, WeightedMetrics

TWO = Units("patient", np.array([0, 1]))


def copies(coco, results, times):
    """A data set with each image as often as `times` says, copies beside each other."""
    images, annotations, rows = [], [], []
    for image, n in zip(sorted(coco["images"], key=lambda i: i["id"]), times, strict=True):
        for _ in range(n):
            images.append({**image, "id": len(images) + 1})
            new = {"image_id": len(images)}
            mine = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
            annotations += [{**a, **new, "id": len(annotations) + j} for j, a in enumerate(mine)]
            rows += [{**r, **new} for r in results if r["image_id"] == image["id"]]
    return {**coco, "images": images, "annotations": annotations}, rows


@settings(max_examples=40, deadline=None)
@given(cases())
def test_weights_are_copies_of_images(case):
    coco, results = case
    rng = np.random.default_rng(len(results))
    # Distinct scores: among equal ones, copies would stand together and weights would not matter.
    for row, score in zip(results, rng.permutation(len(results)), strict=True):
        row["score"] = (int(score) + 1) / (len(results) + 1)
    weighted = WeightedMetrics([matched(coco, results)], [0.5])
    for times in ([1, 1, 1, 1, 1], [2, 0, 1, 3, 1]):
        weights = np.array(times)
        figures = weighted.figures(weights, weights)
        more = copies(coco, results, times)
        score = CocoMetrics.between(*more)
        for name in ("AP", "AP50", "AP75", "AR100"):
            expected = score.value(name)
            assert np.isnan(figures[name]) if expected is None else True
            assert expected is None or figures[name] == pytest.approx(expected, abs=5.1e-7)
        ones = np.ones(sum(times), dtype=int)
        alike = WeightedMetrics([matched(*more)], [0.5]).figures(ones, ones)
        assert figures == pytest.approx(alike, nan_ok=True)


def test_bootstrap_by_hand():
    # One patient's object is found, the other's is not. A generator of seed 0 draws the patients
    # (1, 1), (1, 0), (0, 0), (0, 0), (0, 1), (1, 1): a sensitivity of 0, 1/2, 1, 1, 1/2, 0.
    matches = matched(coco_of([[(1, *A)], [(1, *A)]]), [found(1, 1, A, 0.9)])
    how = Resampling(resamples=6, seed=0, level=0.6)
    draws = np.random.default_rng(0)
    assert [draws.integers(0, 2, 2).sum() for _ in range(6)] == [2, 1, 0, 0, 1, 2]
    found_intervals = intervals(matches, 0.5, TWO, how)
    # Sorted 0, 0, .5, .5, 1, 1; the 20th percentile is at place 1, the 80th at place 4.
    assert found_intervals["sensitivity"] == [0.0, 1.0]
    assert found_intervals["fp_per_image"] == [0.0, 0.0]
    how = Resampling(resamples=6, seed=0, level=0.4)  # places 1.5 and 3.5
    assert intervals(matches, 0.5, TWO, how)["sensitivity"] == [0.25, 0.75]
    # Precision does not exist where the patient without detection was drawn twice.
    assert found_intervals["precision"] == [1.0, 1.0]
    assert found_intervals["image_auc"] is None  # no negatives
    assert intervals(matches, None, TWO, how)["sensitivity"] is None  # no operating point


def test_patients_are_drawn_with_all_their_images():
    # Both images of a patient are found or not together: no draw has a sensitivity of 1/4.
    coco = coco_of([[(1, *A)]] * 4)
    matches = matched(coco, [found(1, 1, A, 0.9), found(2, 1, A, 0.9)])
    units = Units("patient", np.array([0, 0, 1, 1]))
    for level in (0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        low, high = intervals(matches, 0.5, units, Resampling(99, 1, level))["sensitivity"]
        assert low in (0, 0.5, 1) and high in (0, 0.5, 1)
    single = Units("image", np.arange(4))
    assert intervals(matches, 0.5, single, Resampling(99, 1, 0.5))["sensitivity"] == [0.25, 0.75]


def test_intervals_repeat_and_depend_on_the_seed():
    rng = np.random.default_rng(0)
    coco = coco_of([[(1, *A), (1, *B)]] * 8)
    rows = [found(i, 1, A, float(rng.random())) for i in range(1, 9) for _ in range(3)]
    units = Units("image", np.arange(8))
    first, again, other = (
        intervals(matched(coco, rows), 0.5, units, Resampling(50, seed)) for seed in (0, 0, 1)
    )
    assert first == again != other and list(first) == list(FIGURES)


def test_one_patient_alone_has_no_interval():
    one = Units("patient", np.zeros(2, dtype=int))
    matches = matched(coco_of([[(1, *A)], []]), [found(1, 1, A, 0.9)])
    assert intervals(matches, 0.5, one, Resampling(9))["AP"] is None


def test_units_are_patients_slides_or_images():
    def named(images):
        units = Units.of([{"id": i + 1, **image} for i, image in enumerate(images)])
        return units.name, units.count

    assert named([{}, {}]) == ("image", 2)
    assert named([{"group": "p"}, {"group": "p"}, {}]) == ("group", 2)
    assert named([{"patient_id": 7}, {"patient_id": 7}]) == ("patient", 1)
    assert named([{"group": "s", "crop": [0, 0, 9, 9]}] * 2) == ("slide", 1)
    units = Units.of([{"id": 2, "group": "b"}, {"id": 1, "group": "a"}])
    assert units.of_image.tolist() == [0, 1]  # in the order of the ids


def test_a_run_does_not_differ_from_itself():
    coco = coco_of([[(1, *A)], [(2, *B)], []] * 4)
    rows = [found(i, 1 + i % 2, A, round(0.1 * (i % 4), 1)) for i in range(1, 13)]
    run, units = matched(coco, rows), Units("image", np.arange(12))
    for row in compare_matches((run, run), (0.1, 0.1), units, Resampling(30)).values():
        assert (row["difference"], row["low"], row["high"], row["p"]) == (0, 0, 0, 1)


def test_a_clearly_better_run_is_seen():
    coco = coco_of([[(1, *A)]] * 12)
    worse = matched(coco, [found(i, 1, A, 0.9) for i in range(1, 5)])
    better = matched(coco, [found(i, 1, A, 0.9) for i in range(1, 12)])
    table = compare_matches(
        (worse, better), (0.5, 0.5), Units("image", np.arange(12)), Resampling(200)
    )
    row = table["sensitivity"]
    assert (row["a"], row["b"], row["difference"]) == (0.333333, 0.916667, 0.583333)
    assert 0 < row["low"] < row["difference"] < row["high"] < 1
    # Seven images differ, all in favour of b: by chance 2 of 2^7 swaps do that, p = .016.
    assert row["p"] < 0.05
    assert table["AP"]["low"] > 0 and table["AP"]["p"] < 0.05
    back = compare_matches(
        (better, worse), (0.5, 0.5), Units("image", np.arange(12)), Resampling(200)
    )
    assert back["sensitivity"]["difference"] == -row["difference"]
    assert back["sensitivity"]["high"] < 0


def test_the_permutation_test_by_hand():
    # Two patients, b finds both objects and a none: |difference| 1 when none or both are swapped,
    # 0 otherwise. A generator of seed (0, 1) decides.
    coco = coco_of([[(1, *A)], [(1, *A)]])
    runs = (matched(coco, []), matched(coco, [found(i, 1, A, 0.9) for i in (1, 2)]))
    draws = np.random.default_rng((0, 1))
    alike = sum(draws.integers(0, 2, 2).sum() != 1 for _ in range(20))
    row = compare_matches(runs, (0.5, 0.5), TWO, Resampling(20))["sensitivity"]
    assert row["difference"] == 1 and row["p"] == round((1 + alike) / 21, 6)
    assert 0 < alike < 20


def test_each_run_has_its_own_operating_point():
    coco = coco_of([[(1, *A)], [(1, *A)], []])
    rows = [found(i, 1, A, 0.4) for i in (1, 2)]
    run, units = matched(coco, rows), Units("image", np.arange(3))
    table = compare_matches((run, run), (0.5, 0.3), units, Resampling(5))
    assert (table["sensitivity"]["a"], table["sensitivity"]["b"]) == (0, 1)
    assert (table["image_sensitivity"]["a"], table["image_sensitivity"]["b"]) == (0, 1)
    assert table["AP"]["difference"] == 0

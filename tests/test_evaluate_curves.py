"""Curves, confusion, calibration, kinds of errors and subgroups on cases worked by hand."""

import numpy as np
import pytest
from evaluate_factory import NOWHERE, A, B, C, coco_of, found, matched

from pipeline.evaluate import curves
from pipeline.evaluate.coco_matching import above
from pipeline.evaluate.coco_metrics import CocoMetrics
from pipeline.evaluate.error_kinds import counts, find_errors, gains
from pipeline.evaluate.operating_point import rsna_score
from pipeline.evaluate.weighted import WeightedMetrics, subgroups


@pytest.fixture
def case():
    """Four images (the last two empty), three objects, four hits and misses by score."""
    coco = coco_of([[(1, *A), (1, *B)], [(2, *C)], [], []])
    results = [
        found(1, 1, A, 0.9),  # hit
        found(3, 1, NOWHERE, 0.8),  # miss
        found(2, 2, C, 0.7),  # hit
        found(1, 1, NOWHERE, 0.7),  # miss, tied with it
        found(1, 1, A, 0.3),  # duplicate: miss
    ]
    return coco, matched(coco, results)


def test_froc_by_hand(case):
    froc = curves.Froc.of(case[1])
    assert froc.threshold.tolist() == [np.inf, 0.9, 0.8, 0.7, 0.3]
    assert froc.rate.tolist() == [0, 0, 0.25, 0.5, 0.75]  # misses / 4 images
    assert froc.sensitivity.tolist() == [0, 1 / 3, 1 / 3, 2 / 3, 2 / 3]
    assert froc.at(0.125) == (1 / 3, 0.9) and froc.at(0.25) == (1 / 3, 0.8)
    assert froc.at(8) == (2 / 3, 0.3)
    assert froc.interpolated(0.375) == pytest.approx(0.5)  # half way from 1/3 to 2/3
    points = froc.points()
    assert [p["fp_per_image"] for p in points] == [0.125, 0.25, 0.5, 1, 2, 4, 8]
    assert [p["threshold"] for p in points] == [0.9, 0.8, 0.7, 0.3, 0.3, 0.3, 0.3]
    # interpolated at 1/8 and 1/4: 1/3 each; at 1/2 and above: 2/3 each
    assert froc.score() == round((2 / 3 + 5 * 2 / 3) / 7, 6)


def test_froc_agrees_with_monai(case):
    monai = pytest.importorskip("monai.metrics")
    rng = np.random.default_rng(0)
    boxes = [[(1, *map(int, rng.integers(0, 100, 2)), 40, 40) for _ in range(3)] for _ in range(9)]
    results = [
        found(i, 1, [b[1] + int(rng.integers(0, 15)), b[2], 40, 40], float(rng.random()))
        for i, image in enumerate(boxes, 1)
        for b in image * 4
    ]
    for matches in (case[1], matched(coco_of(boxes), results)):
        hit = matches.status[0, 0] == 1
        score = matches.found.score
        objects, images = len(matches.truth.area), matches.truth.images
        rate, sensitivity = monai.compute_froc_curve_data(score[~hit], score[hit], objects, images)
        ours = curves.Froc.of(matches)
        # MONAI leaves out the point of the lowest score and runs from many to none.
        np.testing.assert_allclose(ours.rate[:-1], rate[::-1], atol=1e-12)
        np.testing.assert_allclose(ours.sensitivity[:-1], sensitivity[::-1], atol=1e-12)
        theirs = monai.compute_froc_score(
            ours.rate[::-1], ours.sensitivity[::-1], curves.FROC_RATES
        )
        assert ours.score() == pytest.approx(theirs, abs=5.1e-7)


def test_nothing_to_find_has_no_froc():
    assert curves.Froc.of(matched(coco_of([[], []]), [found(1, 1, A, 0.9)])) is None


def test_f1_by_threshold(case):
    rows = {(r["class"], r["threshold"]): r for r in curves.f1_confidence(case[1])}
    assert len(rows) == 3 * 101
    at = rows["all", 0.7]  # both tied detections are in: 2 hits, 2 misses, 3 objects
    assert (at["precision"], at["recall"], at["f1"]) == (0.5, 0.666667, 0.571429)
    assert rows["all", 0.71]["f1"] == 0.4  # 1 hit, 1 miss: 2 / (2 + 3)
    assert rows["b", 0.7]["f1"] == 1.0 and rows["b", 0.71]["precision"] is None
    assert rows["all", 0.95]["precision"] is None and rows["all", 0.95]["recall"] == 0.0


def test_image_roc_and_auc_by_hand(case):
    coco, matches = case
    score, positive = curves.image_scores(matches)
    assert score.tolist() == [0.9, 0.7, 0.8, -np.inf] and positive.tolist() == [1, 1, 0, 0]
    rows = [tuple(row.values()) for row in curves.image_roc(matches)]
    assert rows == [(None, 0, 0), (0.9, 0, 0.5), (0.8, 0.5, 0.5), (0.7, 0.5, 1), (None, 1, 1)]
    # Pairs won: image 1 over both negatives, image 2 over the empty one: 3 of 4.
    ones = np.ones(4, dtype=int)
    figures = WeightedMetrics([matches], [0.75]).figures(ones, ones)
    assert figures["image_auc"] == 0.75
    assert (figures["image_sensitivity"], figures["image_specificity"]) == (0.5, 0.5)
    tied = matched(coco, [found(1, 1, A, 0.5), found(3, 1, A, 0.5)])
    # image 1: one tie, one win; image 2 (nothing found): one loss, one tie: (1/2 + 1 + 1/2) / 4
    assert WeightedMetrics([tied], [0.5]).figures(ones, ones)["image_auc"] == 0.5


def test_calibration_by_hand(case):
    rows, error = curves.calibration(case[1])
    counts_of = {row["bin_low"]: row["count"] for row in rows if row["count"]}
    assert counts_of == {0.3: 1, 0.7: 2, 0.8: 1, 0.9: 1}
    assert rows[7] == {
        "bin_low": 0.7,
        "bin_high": 0.8,
        "count": 2,
        "mean_score": 0.7,
        "precision": 0.5,
    }
    # (|.3 - 0| + 2 |.7 - .5| + |.8 - 0| + |.9 - 1|) / 5
    assert error == pytest.approx(0.32)
    assert curves.calibration(matched(case[0], []))[1] is None


def test_confusion_by_hand():
    coco = coco_of([[(1, *A), (2, *B)], [(1, *C)]])
    coco["annotations"].append(
        {"id": 9, "image_id": 2, "category_id": 1, "bbox": B, "area": 2500, "iscrowd": 1}
    )
    matches = matched(
        coco,
        [
            found(1, 1, A, 0.9),
            found(1, 1, B, 0.8),  # wrong class
            found(2, 2, NOWHERE, 0.7),  # of the background
            found(2, 1, B, 0.7),  # in a crowd: not counted
            found(2, 1, C, 0.1),  # below the threshold, so C is missed
        ],
    )
    at_point = above(matches, 0.5)
    table = {
        (r["true"], r["predicted"]): r["count"]
        for r in curves.confusion(at_point.truth, at_point.found)
    }
    assert {pair for pair, count in table.items() if count} == {
        ("a", "a"),
        ("b", "a"),
        ("background", "b"),
        ("a", "background"),
    }
    assert len(table) == 8 and sum(table.values()) == 4


def test_error_kinds_and_what_they_cost():
    coco = coco_of([[(1, *A), (1, *B)], [(2, *C)], [(1, *A)]])
    rows = [
        found(1, 1, A, 0.9),  # hit
        found(1, 1, A, 0.8),  # duplicate
        found(1, 1, [120, 100, 50, 50], 0.7),  # IoU with B 30/70 = .43: localisation
        found(1, 1, NOWHERE, 0.6),  # background
        found(2, 1, C, 0.5),  # class
        found(2, 1, [30, 20, 30, 50], 0.4),  # IoU with C 600/1800 = .33, other class: both
    ]
    matches = matched(coco, rows)
    errors = find_errors(matches)
    one = dict.fromkeys(("localisation", "class", "both", "duplicate", "background"), 1)
    assert counts(errors) == one | {"missed": 1}  # A in the third image
    assert errors.missed.tolist() == [False, True, True, True]
    assert errors.lost.tolist() == [False, False, False, True]
    # AP50 now: class a has 1 hit of 3 objects at rank 1: recalls 0 to .33, 34 of 101; class b 0.
    base = 34 / 101 / 2
    gain = gains(matches, errors)
    # Localisation: ranks hit, duplicate, hit: precision 1, then 2/3 up to recall 2/3 (33 points).
    assert gain["localisation"] == pytest.approx((34 + 33 * 2 / 3) / 101 / 2 - base, abs=1e-6)
    assert gain["class"] == pytest.approx((34 / 101 + 1) / 2 - base, abs=1e-6)
    # Without the missed object 1 of 2 is found: recalls 0 to .5, 51 points.
    assert gain["missed"] == pytest.approx(51 / 101 / 2 - base, abs=1e-6)
    assert gain["duplicate"] == gain["background"] == gain["both"] == 0.0  # below the only hit


def test_a_mended_error_needs_a_free_object_and_two_cannot_have_the_same():
    off = [120, 100, 50, 50]
    coco = coco_of([[(1, *A), (1, *B)]])
    rows = [found(1, 1, off, 0.9), found(1, 1, off, 0.8), found(1, 1, A, 0.7)]
    matches = matched(coco, rows)
    errors = find_errors(matches)
    assert counts(errors)["localisation"] == 2 and counts(errors)["missed"] == 0
    assert gains(matches, errors)["localisation"] == pytest.approx(1 - (51 / 101) / 3, abs=1e-6)
    matches = matched(coco, [*rows, found(1, 1, B, 0.6)])  # B is found after all
    assert find_errors(matches).kind.tolist().count(0) == 2
    # now 2 of 4; mended: both suppressed, 2 of 2
    assert gains(matches, find_errors(matches))["localisation"] == pytest.approx(0.5, abs=1e-6)


def test_a_threshold_only_takes_away(case):
    _, matches = case
    at_point = above(matches, 0.7)
    assert len(at_point.found) == 4 and (at_point.partner >= 0).sum() == 2
    assert find_errors(at_point).missed.tolist() == [False, True, False]


def test_subgroups_are_the_figures_of_their_images_alone(case):
    coco, matches = case
    ages = (17, 40, 59.5, 80)
    for image, age, sex in zip(coco["images"], ages, "FMFM", strict=True):
        image["attributes"] = {"age": age, "sex": sex, "mask": "a/b.png"}
    rows = subgroups(CocoMetrics(matches), coco["images"], 0.5)
    named = {(r["attribute"], r["value"]): r for r in rows}
    assert [v for a, v in named if a == "age"] == ["0-17", "40-59", "80+"]
    assert {a for a, _ in named} == {"size", "age", "sex"}
    women = named["sex", "F"]  # images 1 and 3: a hit, a tied miss, a miss in image 3
    assert (women["images"], women["objects"]) == (2, 2)
    assert (women["sensitivity"], women["fp_per_image"]) == (0.5, 1.0)
    alone = {**coco, "images": coco["images"][::2], "annotations": coco["annotations"][:2]}
    kept = [found(1, 1, A, 0.9), found(3, 1, NOWHERE, 0.8), found(1, 1, NOWHERE, 0.7)]
    assert women["AP"] == CocoMetrics.between(alone, [*kept, found(1, 1, A, 0.3)]).value("AP")
    assert named["age", "80+"]["AP"] is None and named["age", "80+"]["objects"] == 0
    medium = named["size", "medium"]  # A and B; C (900 px^2) is small
    assert (medium["objects"], medium["sensitivity"]) == (2, 0.5)
    assert named["size", "small"]["sensitivity"] == 1.0
    assert named["size", "large"]["AP"] is None


def test_the_rsna_challenge_score_by_hand(case):
    # Image 1 at .5: A found, B missed, a false alarm and a duplicate: 1 / (1 + 2 + 1). Image 2: 1.
    # Image 3: a false alarm without object, 0. Image 4: empty and nothing found, left out.
    assert rsna_score(case[1]) == pytest.approx((1 / 4 + 1 + 0) / 3)
    # IoU 30/50 = .6 with C: a hit from .4 to .6, which are 5 of 8 thresholds
    coco = coco_of([[(1, *C)], []])
    assert rsna_score(matched(coco, [found(1, 1, [20, 20, 30, 18], 0.9)])) == 5 / 8
    assert rsna_score(matched(coco, [])) == 0.0
    assert rsna_score(matched(coco_of([[], []]), [])) is None

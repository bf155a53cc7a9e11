"""The tables of the results page: seeds together, differences within them, intervals by hand."""

import pytest
import tables


def record(arm: str, seed: int, ap: float, backbone: str = "vit") -> dict:
    figures = {"AP": ap, "AP50": 2 * ap, "AP75": ap / 2, "AP_small": None}
    own = {"dataset": "cells", "backbone": backbone, "arm": arm, "seed": seed}
    cost = {"parameters": 7, "cpu seconds of training": 10.0 * seed}
    return {**own, **cost, "validation": {**figures, "AP": ap + 0.1}, "test": figures}


RUNS = [record("baseline", 0, 0.3), record("baseline", 1, 0.4), record("full", 0, 0.32)]
RUNS += [record("full", 1, 0.46), record("full", 2, 0.9), record("baseline", 2, 0.9, "swin")]


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.split("|")[1:-1]]


@pytest.mark.parametrize(
    ("split", "baseline", "full"),
    [("test", "0.350 ± 0.071", "0.560 ± 0.303"), ("validation", "0.450 ± 0.071", "0.660 ± 0.303")],
)
def test_an_arm_has_the_mean_and_spread_of_its_own_seeds(split, baseline, full):
    _, _, swin, first, second = tables.study(RUNS, split)
    assert cells(swin)[:3] == ["cells", "swin", "baseline"]
    assert cells(first)[4] == baseline and cells(second)[4] == full
    assert cells(second)[3] == "7" and cells(second)[-2:] == ["3", "10"]
    assert cells(first)[7] == ""  # small: no such object in any run


def test_a_difference_is_taken_within_the_seeds_and_backbone_that_both_arms_have():
    _, _, only = tables.differences(RUNS)
    # .02 and .06: mean .04, standard deviation .0283, half width 12.706 * .0283 / sqrt(2) = .2541.
    assert cells(only) == [
        *("cells", "vit", "full - baseline"),
        *("+0.040 (-0.214 to +0.294)", "+0.080 (-0.428 to +0.588)") * 2,
        "2",
    ]


def test_one_seed_has_neither_spread_nor_interval():
    assert tables.spread([0.25]) == "0.250"
    assert tables.interval([0.02]) == "+0.020"
    assert tables.spread([None, None]) == ""

"""The tables of the results page: seeds together, gains over the baseline of the same seed."""

import tables


def record(arm: str, seed: int, ap: float) -> dict:
    test = {"AP": ap, "AP50": 2 * ap, "AP75": ap / 2}
    own = {"dataset": "cells", "backbone": "vit", "arm": arm, "seed": seed}
    return {**own, "validation AP": ap, "test": test}


def test_a_gain_is_the_mean_over_the_seeds_that_both_arms_have():
    runs = [record("baseline", 0, 0.3), record("baseline", 1, 0.4)]
    runs += [record("full", 0, 0.32), record("full", 1, 0.46), record("full", 2, 0.9)]
    _, _, baseline, full = tables.study(runs)
    # Means of .3, .4 and of .32, .46, .9; gains .02 and .06.
    assert baseline.split(" | ")[3] == "0.350 ± 0.071" and baseline.endswith("|  | 2 |")
    assert full.split(" | ")[4] == "0.560 ± 0.303" and full.endswith("| 0.040 ± 0.028 | 3 |")


def test_one_seed_has_no_spread():
    assert tables.spread([0.25]) == "0.250"

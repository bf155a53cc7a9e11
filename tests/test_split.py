import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.convert.engine.split import (
    Fractions,
    assign_splits,
    count_leaking,
    find_copies,
    group_number,
    shares,
)
from pipeline.errors import DescryError

HALF = Fractions(0.25, 0.25)


def _assign(images, fractions=HALF, seed=0):
    """Split name of each image; images are (group, official or None, has a box)."""
    official = {None: -1, "train": 0, "val": 1, "test": 2}
    assigned = assign_splits(
        np.array(
            [group_number(seed, g, f"key{i}") for i, (g, _, _) in enumerate(images)], np.uint64
        ),
        np.array([official[o] for _, o, _ in images], np.int8),
        np.array([b for _, _, b in images], bool),
        fractions,
    )
    return [("train", "val", "test")[code] for code in assigned.codes], assigned


@pytest.mark.parametrize(
    ("groups", "val", "test", "expected"),
    [
        (0, 0.15, 0.2, (0, 0)),
        (1, 0.45, 0.45, (0, 0)),
        (2, 0.15, 0.2, (0, 0)),  # not enough for three splits: 0.3 and 0.4 round to none
        (2, 0.45, 0.45, (0, 1)),  # 0.9 and 0.9 round to one each, train keeps one
        (3, 0.15, 0.2, (1, 1)),  # 0.45 and 0.6, at least one each
        (3, 0.45, 0.45, (1, 1)),
        (2, 0.15, 0.0, (1, 0)),  # only val is wanted: two groups are enough
        (5, 0.15, 0.2, (1, 1)),
        (10, 0.15, 0.2, (2, 2)),  # 1.5 rounds up
        (100, 0.15, 0.2, (15, 20)),
        (10, 0.0, 0.2, (0, 2)),
        (10, 0.0, 0.0, (0, 0)),
    ],
)
def test_shares_of_groups_with_boxes(groups, val, test, expected):
    assert shares(groups, Fractions(val, test), at_least_one=True) == expected


def test_groups_without_boxes_need_not_reach_every_split():
    assert shares(3, Fractions(0.15, 0.1), at_least_one=False) == (0, 0)
    assert shares(7, Fractions(0.15, 0.2), at_least_one=False) == (1, 1)


@pytest.mark.parametrize(
    ("val", "test", "message"),
    [
        (-0.1, 0.2, "val_fraction is -0.1"),
        (0.1, 1.0, "test_fraction is 1.0"),
        (float("nan"), 0.2, "val_fraction is nan"),
        (0.5, 0.5, "leave nothing to train"),
    ],
)
def test_fractions_out_of_range_are_named(val, test, message):
    with pytest.raises(DescryError, match=message):
        Fractions(val, test)


def test_all_images_of_a_group_share_its_split():
    images = [(f"patient {i % 20}", None, i % 20 < 10) for i in range(200)]
    splits, assigned = _assign(images, Fractions(0.2, 0.3))
    for group in range(20):
        assert len({splits[i] for i in range(group, 200, 20)}) == 1
    # 10 groups with boxes and 10 without: 3 and 3 to test, 2 and 2 to val, ten images each.
    assert [splits.count(name) for name in ("train", "val", "test")] == [100, 40, 60]
    assert assigned.leaking == 0
    assert "drawn by group and seed" in assigned.words


def test_a_group_counts_as_boxed_if_any_of_its_images_is():
    images = [(f"g{i}", None, False) for i in range(30)] + [(f"g{i}", None, True) for i in range(4)]
    splits, _ = _assign(images, Fractions(0.1, 0.1))
    assert {"train", "val", "test"} == {splits[30 + i] for i in range(4)}


def test_the_seed_changes_the_draw_and_the_order_does_not():
    images = [(f"g{i}", None, True) for i in range(40)]
    splits, _ = _assign(images)
    backwards, _ = _assign(images[::-1])
    other, _ = _assign(images, seed=1)
    assert backwards[::-1] == splits
    assert other != splits


def test_an_unrelated_group_moves_at_most_the_edges():
    images = [(f"g{i}", None, True) for i in range(100)]
    before, _ = _assign(images)
    after, _ = _assign([*images, ("newcomer", None, True)])
    assert sum(a != b for a, b in zip(before, after, strict=False)) <= 2


def test_images_without_a_group_are_groups_of_their_own():
    splits, _ = _assign([("", None, True)] * 8)
    assert sorted(splits) == ["test"] * 2 + ["train"] * 4 + ["val"] * 2
    assert group_number(0, "", "a") != group_number(0, "a", "a")


def test_complete_official_split_is_kept_and_its_leak_counted():
    images = [("a", "train", True), ("a", "test", True), ("b", "val", True), ("c", "train", False)]
    splits, assigned = _assign(images)
    assert splits == ["train", "test", "val", "train"]
    assert assigned.leaking == 1
    assert assigned.words == "Official splits train, val, test."


def test_val_is_drawn_from_the_official_train():
    images = [(f"g{i // 2}", "train", True) for i in range(16)] + [("t", "test", True)]
    splits, assigned = _assign(images)
    assert splits[16] == "test"
    assert splits[:16].count("val") == 4  # 2 of 8 groups
    assert splits[:16].count("test") == 0
    assert all(splits[i] == splits[i + 1] for i in range(0, 16, 2))
    assert "val is 0.25 of the groups of the official train" in assigned.words


def test_official_val_without_test_is_held_out_as_test():
    images = [(f"g{i}", "train", True) for i in range(8)] + [("v", "val", True)]
    splits, assigned = _assign(images)
    assert splits[8] == "test"
    assert splits[:8].count("val") == 2
    assert "The official val is held out as test." in assigned.words


@pytest.mark.parametrize("only", ["train", "val", "test"])
def test_a_single_official_split_is_no_split(only):
    splits, assigned = _assign([(f"g{i}", only, True) for i in range(8)])
    assert [splits.count(name) for name in ("train", "val", "test")] == [4, 2, 2]
    assert f"has only {only} and is not used" in assigned.words


def test_images_left_out_of_the_official_split_follow_their_group():
    images = [
        ("a", "train", True),
        ("b", "val", True),
        ("c", "test", True),
        ("c", None, True),
        ("d", None, True),
    ]
    splits, assigned = _assign(images)
    assert splits == ["train", "val", "test", "test", "train"]
    assert "2 images without one went with their group, else to train" in assigned.words


def test_nothing_to_split():
    splits, assigned = _assign([])
    assert splits == []
    assert assigned.leaking == 0


groups_and_boxes = st.lists(
    st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=60
).map(lambda pairs: [(f"g{group}", None, box) for group, box in pairs])


@settings(max_examples=60, deadline=None)
@given(groups_and_boxes, st.floats(0.01, 0.45), st.floats(0.01, 0.45), st.integers(0, 5))
def test_no_group_is_ever_divided_and_no_wanted_split_empty(images, val, test, seed):
    splits, assigned = _assign(images, Fractions(val, test), seed)
    assert assigned.leaking == 0
    of_group = {}
    for (group, _, _), split in zip(images, splits, strict=True):
        assert of_group.setdefault(group, split) == split
    boxed = {group for group, _, box in images if box}
    if len(boxed) >= 3:
        assert {of_group[group] for group in boxed} == {"train", "val", "test"}
    assert "train" in splits


def test_leaking_groups_are_counted_once():
    groups = np.array([1, 1, 1, 2, 2, 3], np.uint64)
    assert count_leaking(groups, np.array([0, 1, 2, 0, 0, 1], np.int8)) == 1


def _pixels(names):
    return np.array([[ord(name), 0] for name in names], np.uint64)


def test_copies_leave_the_less_held_out_split():
    twin, within = find_copies(_pixels("abcabda"), np.array([0, 1, 0, 2, 0, 0, 1], np.int8))
    # a: train 0, test 3, val 6 -> test stays; b: val 1, train 4 -> val stays; c, d alone.
    assert twin.tolist() == [3, -1, -1, -1, 1, -1, 3]
    assert within == 0


def test_copies_within_a_split_stay_and_are_counted():
    twin, within = find_copies(_pixels("aaabb"), np.array([0, 0, 0, 2, 2], np.int8))
    assert twin.tolist() == [-1] * 5
    assert within == 3


def test_both_kinds_of_copies_at_once():
    twin, within = find_copies(_pixels("aaaa"), np.array([2, 0, 2, 0], np.int8))
    assert twin.tolist() == [-1, 0, -1, 0]
    assert within == 1


def test_half_of_a_digest_is_not_enough():
    pixels = np.array([[1, 2], [1, 3], [2, 2]], np.uint64)
    twin, within = find_copies(pixels, np.array([0, 1, 2], np.int8))
    assert twin.tolist() == [-1, -1, -1]
    assert within == 0


def test_no_images_have_no_copies():
    twin, within = find_copies(np.zeros((0, 2), np.uint64), np.zeros(0, np.int8))
    assert len(twin) == within == 0

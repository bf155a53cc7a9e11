"""Boxes and labels on pictures for people."""

from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.data.draw import draw_boxes, place_labels
from pipeline.predict.formats.overlays import _as_fits, draw

SIZE = (200, 100)


def touch(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def placed(*boxes, label="mass 0.50"):
    return place_labels(SIZE, np.array(boxes, dtype=float), [label] * len(boxes))


def test_a_label_stands_above_its_box_and_inside_where_there_is_no_room():
    (above,) = placed([20, 50, 90, 90])
    assert above[0] == 20 and above[3] == 50
    (inside,) = placed([20, 3, 90, 90])
    assert inside[:2] == (20, 3)
    (right,) = placed([180, 50, 199, 90])
    assert right[2] == 200  # moved into the picture


def test_labels_never_cover_each_other_and_the_last_box_chooses_first():
    same = [[20, 40, 90, 60]] * 9
    places = placed(*same)
    there = [place for place in places if place is not None]
    assert places[-1][3] == 40 and 2 <= len(there) < 9
    assert not any(touch(a, b) for i, a in enumerate(there) for b in there[:i])


def test_a_label_larger_than_the_picture_and_an_empty_one_are_left_out():
    assert place_labels((60, 8), np.array([[0.0, 0, 9, 8]]), ["mass"]) == [None]
    assert placed([20, 50, 90, 90], label="") == [None]


@pytest.mark.parametrize(("side", "width"), [(100, 1), (1000, 2), (3000, 6)])
def test_lines_stay_thin_on_large_images(side, width):
    box = np.array([[side * 0.2, side * 0.2, side * 0.8, side * 0.8]])
    drawn = np.asarray(draw_boxes(np.zeros((side, side), np.uint8), box, [""], [(255, 0, 0)]))
    assert (drawn[side // 2, : side // 2, 0] > 0).sum() == width


@pytest.mark.parametrize(("count", "numbered"), [(1, False), (30, True)])
def test_where_labels_do_not_fit_boxes_are_numbered_and_listed_beside(count, numbered):
    found = SimpleNamespace(
        boxes=[[60, 60, 40, 40]] * count,
        scores=[0.5] * count,
        labels=[1] * count,
        width=400,
        height=400,
        masks=[],
    )
    drawn = np.asarray(draw(np.zeros((400, 400), np.uint8), found, {1: "mass"}))
    assert (drawn.shape[1] > 400) is numbered
    assert drawn[:400, 400:].any() == numbered


def test_a_list_ends_with_what_does_not_fit():
    red, white = (255, 0, 0), (255, 255, 255)
    lines = list("abcde")
    assert list(_as_fits(lines, [red] * 5, 10, 35)) == [
        (0, "a", red),
        (10, "b", red),
        (20, "and 3 more", white),
    ]
    assert [text for _, text, _ in _as_fits(lines, [red] * 5, 10, 50)] == lines

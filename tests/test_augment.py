"""Augmentation recipes: what they do to boxes, worked by hand, and what they must never do."""

import albumentations as A
import numpy as np
import pytest

from pipeline.data.augment import RECIPES, augmentation
from pipeline.data.mosaic import Picture, mosaic

BOX = np.array([[20, 10, 60, 30]], np.float32)


def only(*transforms, boxes=BOX, shape=(80, 100), name="none"):
    """A recipe whose transforms are replaced by fixed ones; boxes and labels that come out."""
    RECIPES["fixed"] = lambda strength: list(transforms)
    try:
        out = augmentation("fixed")(
            image=np.zeros(shape, np.uint8), bboxes=boxes, labels=np.arange(len(boxes))
        )
    finally:
        del RECIPES["fixed"]
    return np.round(out["bboxes"], 3).tolist(), list(out["labels"])


def moved(**settings):
    base = {"scale": 1.0, "rotate_method": "ellipse", "p": 1.0}
    return A.Affine(**base | settings)


def test_a_quarter_turn_moves_a_box():
    class Quarter(A.D4):
        def get_params(self):
            return {"group_element": "r90"}  # anticlockwise: (x, y) -> (y, W - x)

    assert only(Quarter(p=1)) == ([[10, 40, 30, 80]], [0])


def test_a_box_that_leaves_the_picture_is_clipped_or_dropped():
    # 40 px wide, from x = 20: shifted by -40 a half is left, by -50 a quarter
    assert only(moved(translate_px={"x": -40, "y": 0})) == ([[0, 10, 20, 30]], [0])
    assert only(moved(translate_px={"x": -50, "y": 0})) == ([], [])


def test_labels_stay_with_their_boxes_when_one_is_dropped():
    boxes = np.array([[0, 0, 30, 30], [50, 40, 90, 70]], np.float32)
    assert only(moved(translate_px={"x": -40, "y": 0}), boxes=boxes) == ([[10, 40, 50, 70]], [1])


def test_a_turned_box_encloses_the_turned_ellipse():
    # A circle of radius 20 about the middle (50, 40) stays what it is.
    circle = np.array([[30, 20, 70, 60]], np.float32)
    (turned,), _ = only(moved(rotate=45), boxes=circle)
    np.testing.assert_allclose(turned, circle[0], atol=0.1)
    # An ellipse of half axes 30 and 10 turned by 90 degrees has them exchanged.
    long = np.array([[20, 30, 80, 50]], np.float32)
    (turned,), _ = only(moved(rotate=90), boxes=long)
    np.testing.assert_allclose(turned, [40, 10, 60, 70], atol=0.1)


def test_scaling_is_about_the_middle():
    # x: 50 + 0.5 * (20 - 50) = 35, and 55; y: 40 + 0.5 * (10 - 40) = 25, and 35
    (scaled,), _ = only(moved(scale=0.5, keep_ratio=True))
    np.testing.assert_allclose(scaled, [35, 25, 55, 35], atol=1e-3)


def picture(channels=()):
    """A bright rectangle of 50 x 40 px, below the middle and left of it, on grey; its box."""
    pixels = np.full((160, 200, *channels), 60, np.uint8)
    pixels[90:130, 40:90] = 220
    return pixels, np.array([[40, 90, 90, 130]], np.float32)


def augmented(name, seeds=range(60), channels=(), strength=1.0):
    """Pixels and box for each seed in which the box stays."""
    recipe = augmentation(name, strength)
    pixels, boxes = picture(channels)
    for seed in seeds:
        recipe.set_random_seed(seed)
        out = recipe(image=pixels, bboxes=boxes, labels=np.array([0]))
        assert out["image"].dtype == np.uint8 and out["image"].ndim == pixels.ndim
        if len(out["bboxes"]):
            yield out["image"], out["bboxes"][0]


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("channels", [(), (3,)])
def test_boxes_follow_the_pixels(name, channels):
    for pixels, box in augmented(name, range(20), channels):
        grey = pixels if pixels.ndim == 2 else pixels[..., 1]
        height, width = grey.shape
        assert (box >= 0).all() and box[2] <= width and box[3] <= height
        rows, columns = np.nonzero(grey > 140)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        # an ellipse's box is the smaller one where the rectangle is turned by a few degrees
        np.testing.assert_allclose(box, seen, atol=2 if name in ("none", "flip") else 6)


@pytest.mark.parametrize("name", ["xray", "mri", "natural", "flip", "none"])
def test_what_has_an_up_keeps_it(name):
    for _, (_, top, _, bottom) in augmented(name):
        assert top + bottom > 160  # the rectangle stays in the lower half


def test_a_chest_is_never_mirrored_and_never_coloured():
    for pixels, (left, _, right, _) in augmented("xray", channels=(3,)):
        assert left + right < 200  # the rectangle stays in the left half
        assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all()


def test_a_slide_is_seen_from_all_sides():
    places = set()
    for pixels, (left, top, right, bottom) in augmented("microscopy"):
        height, width = pixels.shape
        places.add((height > width, left + right < width, top + bottom < height))
    assert len(places) == 8


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"none"}))
def test_a_recipe_does_something_and_the_seed_decides_what(name):
    def bytes_of(seeds):
        return [pixels.tobytes() for pixels, _ in augmented(name, seeds)]

    assert bytes_of(range(10)) == bytes_of(range(10))
    assert len(set(bytes_of(range(10)))) > 1


def spread(name, strength):
    """How many different pictures there are, and how much the box's width differs."""
    found = list(augmented(name, range(40), channels=(3,), strength=strength))
    widths = [min(right - left, bottom - top) for _, (left, top, right, bottom) in found]
    return len({pixels.tobytes() for pixels, _ in found}), max(widths) - min(widths)


@pytest.mark.parametrize(
    ("name", "mirrored"), [("xray", 1), ("mri", 2), ("natural", 2), ("microscopy", 8)]
)
def test_without_strength_pictures_are_mirrored_only_and_with_more_they_change_more(name, mirrored):
    assert spread(name, 0.0) == (mirrored, 0)
    plain, strong = spread(name, 1.0), spread(name, 3.0)
    assert plain[0] > 15 and strong[1] > 1.5 * plain[1] > 5


def test_a_mosaic_holds_of_each_picture_what_its_part_shows():
    """Four squares of one grey each, with a dot of 8 px in the middle."""
    parts = []
    for i in range(4):
        square = np.full((64, 64, 3) if i == 3 else (64, 64), 50 * (i + 1), np.uint8)
        square[28:36, 28:36] = 255
        parts.append(Picture(square, np.array([[28, 28, 36, 36]], np.float32), np.array([i])))
    counts = []
    for seed in range(30):
        square, boxes, labels, _ = mosaic(parts, np.random.default_rng(seed))
        assert square.shape == (64, 64, 3)
        corners = [int(square[y, x, 0]) for y, x in ((0, 0), (0, 63), (63, 0), (63, 63))]
        assert all(c in (50 * (i + 1), 255) for i, c in enumerate(corners))
        for x0, y0, x1, y1 in boxes.astype(int):
            assert (square[y0:y1, x0:x1] == 255).all()
        # what is not in a box is a sliver of a dot: less than 30 % of its 64 px
        bright = (square[..., 0] == 255).sum()
        boxed = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum()
        assert boxed <= bright < boxed + 4 * 0.3 * 64 and len(set(labels)) == len(labels)
        counts.append(len(boxes))
    assert min(counts) < 2 and max(counts) > 2

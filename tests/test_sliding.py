"""Windows over large pictures, mirror images, thresholds per class, and how a model computes."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from predict_factory import BrightSpots, Found, rows_of, spot, tiny_model
from torch import nn

from pipeline.errors import DescryError
from pipeline.predict.decode import Reduction
from pipeline.predict.options import Options
from pipeline.predict.run import predict_folder
from pipeline.predict.views import View, Views, merged
from pipeline.predict.windows import Windows


def found(*rows):
    """Rows of x1, y1, x2, y2, score, label."""
    table = np.array(rows, float).reshape(-1, 6)
    return Found(table[:, :4], table[:, 4], table[:, 5].astype(int))


def rows(result):
    """The same back, by descending score."""
    table = [
        (*box, score, label)
        for box, score, label in zip(
            result.boxes.tolist(), result.scores.tolist(), result.labels.tolist(), strict=True
        )
    ]
    return sorted(table, key=lambda row: -row[4])


def test_windows_overlap_by_a_quarter_and_end_at_the_edges():
    views = Views(BrightSpots(), 4, Windows(40, 80)).views(60, 100)
    # Steps of 30: left 0, 30, 60 (and 100 is reached); top 0, then 20 instead of 30.
    assert [(v.left, v.top, v.right, v.bottom) for v in views] == [
        (0, 0, 40, 40), (30, 0, 70, 40), (60, 0, 100, 40),
        (0, 20, 40, 60), (30, 20, 70, 60), (60, 20, 100, 60),
    ]  # fmt: skip


@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 90), st.booleans())
def test_windows_cover_every_pixel(height, width, side, mirror):
    seen = np.zeros((height, width), int)
    for view in Views(BrightSpots(), 4, Windows(side), mirror).views(height, width):
        assert 0 <= view.left < view.right <= width and view.right - view.left <= side
        seen[view.top : view.bottom, view.left : view.right] += 1
    assert seen.min() >= 1 + mirror


def test_which_pictures_are_cut():
    assert Windows.of("auto", 100) == Windows(100, 800)
    assert Windows.of("auto", None) == Windows.of("off", 100) == Windows()
    assert Windows.of("64", 100) == Windows(64, 64)
    far = Windows.of("auto", 10)
    assert (far.side_for(50, 80), far.side_for(81, 50)) == (None, 10)
    assert Windows().side_for(9999, 9999) is None


def test_what_is_cut_is_not_reduced_before():
    """The worker that reads and the model's process follow one rule."""
    windows = Windows(20, 160)
    views, reduced = Views(BrightSpots(), 4, windows), Reduction(64, windows)
    for size in ((90, 160), (90, 161), (10, 10)):
        pixels, fit, _ = reduced(np.zeros(size, np.uint8))
        assert (fit.height, fit.width) == size
        cut = len(views.views(*size)) > 1
        assert cut == (size == (90, 161))
        assert max(pixels.shape) == (161 if cut else min(max(size), 64))


def test_a_part_of_a_box_gives_way_to_the_whole_box():
    left, right = View(0, 0, 100, 100), View(75, 0, 175, 100)
    result = merged(
        [
            (left, found((80, 10, 100, 30, 0.9, 1), (10, 10, 30, 30, 0.8, 1))),
            (right, found((5, 10, 35, 30, 0.7, 1), (0, 50, 20, 60, 0.6, 2))),
        ]
    )
    # 80..100 of 80..110 was all that the left window saw; the last box is cut by the right
    # window and nothing covers it, so it stays.
    assert rows(result) == [
        (10, 10, 30, 30, 0.8, 1), (80, 10, 110, 30, 0.7, 1), (75, 50, 95, 60, 0.6, 2),
    ]  # fmt: skip


def test_edges_of_the_picture_cut_nothing_and_classes_are_apart():
    left, right = View(0, 0, 100, 100), View(75, 0, 175, 100)
    result = merged(
        [
            (left, found((0, 0, 20, 20, 0.9, 1), (80, 40, 100, 60, 0.5, 1))),
            (right, found((80, 80, 100, 100, 0.8, 1), (5, 40, 45, 60, 0.7, 2))),
        ]
    )
    assert [row[4] for row in rows(result)] == [0.9, 0.8, 0.7, 0.5]


def test_the_mirror_image_counts_and_is_mirrored_back():
    class LeftHalf(BrightSpots):
        """Sees only what lies in the left half of what it is shown."""

        def look(self, image):
            return super().look(image[:, : image.shape[1] // 2])

    detector = LeftHalf()
    pixels = spot(size=(40, 50), at=(35, 20, 5, 8))
    assert len(Views(detector, 2, Windows()).detect([pixels])[0].boxes) == 0
    (once,) = Views(detector, 2, Windows(), mirror=True).detect([pixels])
    assert once.boxes.tolist() == [[35, 20, 40, 28]]
    both = spot(size=(40, 50), at=(22, 20, 2, 8))  # x 22..24, seen in neither twice
    (twice,) = Views(BrightSpots(), 2, Windows(), mirror=True).detect([both])
    assert twice.boxes.tolist() == [[22, 20, 24, 28]]  # one box, not one per view


def test_a_large_picture_is_searched_window_by_window(tmp_path):
    pixels = np.full((90, 200), 30, np.uint8)
    for x, y in ((28, 10), (120, 70), (195, 2)):  # the first lies across a cut
        pixels[y : y + 5, x : x + 5] = 255
    Image.fromarray(pixels).save(tmp_path / "large.png")
    Image.fromarray(pixels[:, :150]).save(tmp_path / "small.png")
    detector = BrightSpots(meta={"longest_side": 20})
    options = Options(workers=0, batch_size=3, overlays="none")
    for tta in (False, True):
        options = Options(workers=0, batch_size=3, overlays="none", tta=tta)
        predict_folder(tmp_path / "large.png", tmp_path / "out", detector, options=options)
        boxes = {
            (row["x_px"], row["y_px"], row["width_px"], row["height_px"])
            for row in rows_of(tmp_path / "out" / "detections.csv")
        }
        assert boxes == {
            ("28.0", "10.0", "5.0", "5.0"), ("120.0", "70.0", "5.0", "5.0"),
            ("195.0", "2.0", "5.0", "5.0"),
        }  # fmt: skip
    assert set(detector.calls) == {3}
    about = json.loads((tmp_path / "out" / "run.json").read_text())
    assert about["window"] == {"side": 20, "above": 160, "overlap": 0.25}
    detector.calls.clear()
    predict_folder(tmp_path / "small.png", tmp_path / "out", detector, options=options)
    assert detector.calls == [3]  # 150 px: whole, and its mirror image


def test_thresholds_by_class_come_from_the_checkpoint(tmp_path):
    class Three(BrightSpots):
        def look(self, image):
            return found((1, 1, 5, 5, 0.6, 1), (9, 9, 15, 15, 0.6, 2), (20, 9, 25, 15, 0.8, 2))

    Image.fromarray(spot()).save(tmp_path / "a.png")

    def scores(**options):
        detector = Three(meta={"class_thresholds": {"other": 0.7}})
        options = Options(workers=0, overlays="none", **options)
        predict_folder(tmp_path / "a.png", tmp_path / "out", detector, options=options)
        table = rows_of(tmp_path / "out" / "detections.csv")
        return [(row["class"], row["score"]) for row in table]

    assert scores() == [("other", "0.8"), ("spot", "0.6")]
    assert scores(score_threshold=0.65) == [("other", "0.8")]


@pytest.fixture
def model():
    return tiny_model()


def test_bf16_is_close_and_gives_boxes_and_scores_in_fp32(model):
    images = [spot(), spot(100)]
    exact = model.detect(images)
    model.prepare("bf16")
    rough = model.detect(images)
    for one, other in zip(exact, rough, strict=True):
        assert other.boxes.dtype == other.scores.dtype == np.float32
        np.testing.assert_allclose(other.scores[:5], one.scores[:5], rtol=0.05)
        assert len(np.unique(other.scores)) > 2  # bf16 has three digits; ties would be many
    model.prepare("fp32")
    assert all((a.boxes == b.boxes).all() for a, b in zip(exact, model.detect(images), strict=True))


@pytest.mark.slow
def test_a_compiled_model_finds_the_same(model, monkeypatch):
    whole = nn.Module.compile
    # Traced, but without the code generator, which takes minutes.
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: whole(self, backend="eager"))
    images = [spot(), spot(100)]
    exact = model.detect(images)
    model.prepare("fp32", compiled=True, batch_size=2)
    for one, other in zip(exact, model.detect(images), strict=True):
        np.testing.assert_allclose(other.scores, one.scores, atol=1e-6)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("no compiler found\nand a long story"), "no compiler found"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_a_machine_that_cannot_compile_says_so(model, monkeypatch, error, said):
    def broken(self, images):
        raise error

    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: None)
    monkeypatch.setattr(type(model.detector), "forward", broken)
    with pytest.raises(DescryError, match=f"--compile: {said}; leave it out"):
        model.prepare("fp32", compiled=True)

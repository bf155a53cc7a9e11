"""The engine's parts one by one: box rules, encoding, processes, journal, workspace."""

import hashlib
import math

import numpy as np
import pytest
from PIL import Image

from pipeline.convert.engine.assemble import walk
from pipeline.convert.engine.boxes import NO_SIZE, NOT_FINITE, OUTSIDE, TOO_SMALL, check_boxes
from pipeline.convert.engine.report import reason_unused
from pipeline.convert.engine.worker import copy_file, copyable_as, pixel_digest, write_png
from pipeline.convert.engine.writer import check_places
from pipeline.convert.records import Box
from pipeline.errors import DescryError

# --- box rules, in an image of 100 x 50 ---


@pytest.mark.parametrize(
    ("box", "kept", "clipped"),
    [
        ((10, 20, 30, 15), (10, 20, 30, 15), 0),
        ((0, 0, 100, 50), (0, 0, 100, 50), 0),
        ((-5, 10, 20, 10), (0, 10, 15, 10), 1),  # left
        ((10, -4, 20, 10), (10, 0, 20, 6), 1),  # top
        ((90, 10, 20, 10), (90, 10, 10, 10), 1),  # right
        ((10, 45, 20, 10), (10, 45, 20, 5), 1),  # bottom
        ((-10, -10, 200, 200), (0, 0, 100, 50), 1),
        ((-0.005, 10, 20, 10), (0, 10, 19.995, 10), 0),  # rounding is mended, not counted
        ((-0.02, 10, 20, 10), (0, 10, 19.98, 10), 1),
        ((99, 49, 1, 1), (99, 49, 1, 1), 0),  # the last pixel
        ((98.5, 10, 9, 9), (98.5, 10, 1.5, 9), 1),
    ],
)
def test_boxes_that_stay(box, kept, clipped):
    checked = check_boxes([Box(*box, "cell", "a.csv:1")], 100, 50, "a.png")
    only = checked.boxes[0]
    assert (only.x, only.y, only.width, only.height) == pytest.approx(kept, abs=1e-12)
    assert (only.label, only.where) == ("cell", "a.csv:1")
    assert (checked.clipped, checked.drops) == (clipped, [])


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((math.nan, 1, 5, 5), NOT_FINITE),
        ((1, math.inf, 5, 5), NOT_FINITE),
        ((1, 1, -math.inf, 5), NOT_FINITE),
        ((1, 1, 5, math.nan), NOT_FINITE),
        ((1, 1, 0, 5), NO_SIZE),
        ((1, 1, 5, 0), NO_SIZE),
        ((1, 1, -5, 5), NO_SIZE),
        ((-20, -20, -5, -5), NO_SIZE),
        ((100, 10, 5, 5), OUTSIDE),  # begins where the image ends
        ((10, 50, 5, 5), OUTSIDE),
        ((-5, 10, 5, 5), OUTSIDE),
        ((500, 500, 5, 5), OUTSIDE),
        ((99.5, 10, 5, 5), TOO_SMALL),  # half a pixel is inside
        ((10, -4.5, 5, 5), TOO_SMALL),
        ((10, 10, 0.5, 5), TOO_SMALL),
    ],
)
def test_boxes_that_go(box, reason):
    checked = check_boxes([Box(*box, "cell", "a.csv:1")], 100, 50, "a.png")
    assert (checked.boxes, checked.clipped) == ([], 0)
    drop = checked.drops[0]
    assert (drop.kind, drop.where, drop.reason) == ("box", "a.csv:1", reason)
    assert drop.detail.startswith("cell: x ")
    assert drop.detail.endswith("in 100 x 50")


def test_a_box_without_a_place_is_named_by_its_image():
    checked = check_boxes([Box(1, 1, 0, 5, "cell")], 100, 50, "a.png")
    assert checked.drops[0].where == "a.png"


# --- encoding ---


@pytest.mark.parametrize("level", [0, 1, 2, 6])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3)])
def test_png_gives_the_pixels_back(tmp_path, shape, dtype, level):
    import cv2

    largest = int(np.iinfo(dtype).max) + 1
    pixels = np.random.default_rng(0).integers(0, largest, shape).astype(dtype)
    size = write_png(pixels, tmp_path / "deep" / "a.png", level)
    read = cv2.imread(str(tmp_path / "deep" / "a.png"), cv2.IMREAD_UNCHANGED)
    read = read if read.ndim == 2 else read[..., ::-1]  # BGR to RGB
    assert read.dtype == dtype
    assert np.array_equal(read, pixels)
    assert size == (tmp_path / "deep" / "a.png").stat().st_size
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.png"]


def test_png_is_rgb_for_other_readers_too(tmp_path):
    write_png(np.full((2, 2, 3), (200, 100, 50), np.uint8), tmp_path / "a.png", 1)
    assert Image.open(tmp_path / "a.png").getpixel((0, 0)) == (200, 100, 50)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((2, 2), np.float32),
        np.zeros((2, 2), np.int16),
        np.zeros(4, np.uint8),
        np.zeros((2, 2, 1), np.uint8),
        np.zeros((2, 2, 4), np.uint8),
        np.zeros((2, 2, 3, 1), np.uint8),
    ],
)
def test_what_is_no_image_is_not_written(tmp_path, pixels):
    with pytest.raises(TypeError, match="no grey or RGB image"):
        write_png(pixels, tmp_path / "a.png", 1)


def test_files_are_known_by_their_content(tmp_path):
    image = Image.new("L", (8, 8))
    image.save(tmp_path / "really.jpg", "PNG")
    image.save(tmp_path / "really.png", "JPEG")
    image.save(tmp_path / "a.bmp")
    (tmp_path / "empty.png").touch()
    kinds = {p.name: copyable_as(p) for p in tmp_path.iterdir()}
    assert kinds == {"really.jpg": "png", "really.png": "jpg", "a.bmp": None, "empty.png": None}


def test_a_copy_is_the_file(tmp_path):
    (tmp_path / "a").write_bytes(b"some bytes")
    assert copy_file(tmp_path / "a", tmp_path / "new" / "b") == 10
    assert (tmp_path / "new" / "b").read_bytes() == b"some bytes"


def test_digest_is_of_shape_type_and_values():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    expected = hashlib.sha256(b"(2, 3) |u1" + bytes(range(6))).hexdigest()
    assert pixel_digest(grey) == pixel_digest(np.asfortranarray(grey)) == expected
    others = [grey.T, grey.reshape(3, 2), grey.astype(np.uint16), grey + np.uint8(1)]
    assert len({expected, *map(pixel_digest, others)}) == 5


# --- files ---


def test_walk_is_sorted_follows_links_and_survives_loops(tmp_path):
    for name in ("b/2", "b/1", "a", "c/d/3"):
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "raw" / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "4").touch()
    (tmp_path / "raw" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "raw" / "c" / "loop").symlink_to(tmp_path / "raw")
    assert list(walk(tmp_path / "raw")) == ["a", "b/1", "b/2", "c/d/3", "linked/4"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("a/.DS_Store", "hidden or system file"),
        ("__MACOSX/a.png", "hidden or system file"),
        ("a/b.PNG", "image that no annotation names"),
        ("a/b.dcm", "image that no annotation names"),
        ("README.txt", "not an input of this converter"),
    ],
)
def test_unused_files_have_a_reason(path, reason):
    assert reason_unused(path) == reason


# --- places ---


@pytest.mark.parametrize("out", ["raw", "raw/coco", "."])
def test_output_and_raw_folder_may_not_hold_each_other(tmp_path, out):
    with pytest.raises(DescryError, match="one holds the other"):
        check_places(tmp_path / out, tmp_path / "raw")

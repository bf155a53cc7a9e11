"""Boxes from masks, alone and on the mask routes of COD10K."""

from pathlib import Path

import numpy as np
import pytest
from cod10k_factory import FISH, MOTH, H, W, boxes_of, drops_of, release, scan, two_fish, with_masks
from PIL import Image
from toy_source import opened

from pipeline.convert.formats.masks import (
    component_objects,
    foreground,
    index_objects,
    read_mask,
    segmentation_extent,
)
from pipeline.convert.records import Unreadable
from pipeline.convert.segmentation import counts_on
from pipeline.data.images import ImageError
from pipeline.data.masks import decode


def palette_mask() -> Image.Image:
    """Index image whose palette colours look nothing like its indices."""
    image = Image.fromarray(two_fish()).convert("P")
    image.putpalette([0, 0, 0, 200, 10, 10, 10, 200, 10])
    return image


def colour_mask() -> Image.Image:
    colours = np.array([[0, 0, 0], [200, 10, 10], [10, 200, 10]], np.uint8)
    return Image.fromarray(colours[two_fish()])


@pytest.mark.parametrize(
    "mask",
    [
        Image.fromarray(two_fish()),
        Image.fromarray(two_fish(np.uint16, (300, 40000))),
        palette_mask(),
        colour_mask(),
        palette_mask().convert("RGBA"),
        Image.merge("LA", (Image.fromarray(two_fish()), Image.new("L", (W, H), 255))),
    ],
    ids=["grey", "16 bit", "palette", "colours", "RGBA", "grey + alpha"],
)
def test_index_mask_gives_a_box_per_value(mask: Image.Image, tmp_path: Path) -> None:
    source = opened("cod10k", with_masks(tmp_path), classes="sub")
    mask.save(tmp_path / "Train" / "GT_Instance" / f"{FISH}.png")
    records, ledger = scan(source)
    record = records[f"train/{FISH}"]
    assert record.boxes == ()
    assert f"Train/GT_Instance/{FISH}.png" in ledger.annotation_files
    found = boxes_of(source.read(record))
    assert sorted(found) == [(4.0, 5.0, 6.0, 10.0, "fish"), (20.0, 2.0, 10.0, 3.0, "fish")]


def test_two_parts_of_one_value_are_one_object() -> None:
    values = two_fish(levels=(4, 4))
    ((value, (extent, mask)),) = index_objects(values)
    assert (value, extent) == (4, (4.0, 2.0, 26.0, 13.0))
    np.testing.assert_array_equal(
        decode(counts_on(mask, *values.shape[::-1], None), *values.shape), values == 4
    )


def test_index_mask_without_background() -> None:
    assert index_objects(np.full((3, 5), 7))[0][1][0] == (0.0, 0.0, 5.0, 3.0)
    assert index_objects(np.zeros((3, 5), int)) == []


def test_a_grey_mask_is_no_index_mask(tmp_path: Path) -> None:
    ramp = np.arange(H * W, dtype=np.uint8).reshape(H, W)
    source = opened("cod10k", with_masks(tmp_path, mask=ramp))
    records, _ = scan(source)
    with pytest.raises(Unreadable, match="corrupt mask"):
        source.read(records[f"train/{FISH}"])


@pytest.mark.parametrize(
    ("object_boxes", "expected"),
    [
        ("image", [(4.0, 2.0, 26.0, 13.0)]),
        ("component", [(20.0, 2.0, 10.0, 3.0), (4.0, 5.0, 6.0, 10.0)]),
    ],
)
def test_object_mask(object_boxes: str, expected: list, tmp_path: Path) -> None:
    mask = two_fish(levels=(255, 255))
    mask[28, 38] = 255  # a speck of one pixel
    mask[10, 10:12] = 100  # a soft edge below half
    if object_boxes == "image":
        mask[28, 38] = 0
    root = with_masks(tmp_path, "GT_Object", mask)
    source = opened("cod10k", root, object_boxes=object_boxes)
    records, ledger = scan(source)
    picture = source.read(records[f"train/{FISH}"])
    assert [box[:4] for box in boxes_of(picture)] == expected
    speck = "specks in an object mask gave no box"
    assert picture.notes == ((speck,) if object_boxes == "component" else ())
    assert any("cannot tell animals apart" in note for note in ledger.notes)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 2], [False, True, True]),
        ([0, 127, 128, 255], [False, False, True, True]),
        ([0, 200, 40000, 65535], [False, False, True, True]),
        ([0, 0], [False, False]),
    ],
)
def test_foreground(values: list[int], expected: list[bool]) -> None:
    assert foreground(np.array([values])).tolist() == [expected]


def test_diagonal_pixels_are_one_component() -> None:
    (((extent, mask),), specks) = component_objects(np.eye(4, dtype=bool), 4)
    assert (extent, specks) == ((0.0, 0.0, 4.0, 4.0), 0)
    np.testing.assert_array_equal(decode(counts_on(mask, 4, 4, None), 4, 4), np.eye(4))
    assert component_objects(np.eye(4, dtype=bool), 5) == ([], 1)


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ([[1, 2, 4, 2, 4, 6]], (1.0, 2.0, 3.0, 4.0)),
        ([[1, 2, 4, 2], [0, 0, 1, 1]], (0.0, 0.0, 4.0, 2.0)),
        ({"size": [3, 4], "counts": [4, 2, 6]}, (1.0, 1.0, 1.0, 2.0)),
        ({"size": [3, 4], "counts": "426"}, (1.0, 1.0, 1.0, 2.0)),
        ({"size": [3, 4], "counts": [12]}, None),
        ({"size": [3, 4]}, None),
        ({"size": [3, 4], "counts": [5, 5]}, None),
        ({"size": [3, 4], "counts": [-3, 15]}, None),
        ({"size": [3, 4], "counts": [6.0, 6.0]}, None),
        ({"size": [0, 4], "counts": []}, None),
        ({"size": [-3, 4], "counts": "426"}, None),
        ({"size": [3], "counts": [3]}, None),
        ({"size": [3, 4], "counts": "garbage~~~"}, None),
        ({"size": [3, 4], "counts": None}, None),
        ([[1, 2, 1, 9]], None),
        ([[1, 2, 3]], None),
        ([], None),
        ([["a", "b"]], None),
        (None, None),
    ],
)
def test_segmentation_extent(segmentation: object, expected: tuple | None) -> None:
    assert segmentation_extent(segmentation) == expected


def test_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    source = opened("cod10k", with_masks(tmp_path, mask=np.ones((H, W + 1), np.uint8)))
    records, _ = scan(source)
    with pytest.raises(Unreadable, match="mask size differs") as error:
        source.read(records[f"train/{FISH}"])
    assert "(41, 30), image (40, 30)" in error.value.detail


def test_mask_that_cannot_be_read(tmp_path: Path) -> None:
    source = opened("cod10k", with_masks(tmp_path))
    records, _ = scan(source)
    mask = tmp_path / "Train" / "GT_Instance" / f"{FISH}.png"
    whole = mask.read_bytes()
    mask.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Unreadable, match="corrupt mask"):
        source.read(records[f"train/{FISH}"])
    mask.unlink()
    with pytest.raises(Unreadable, match="mask file missing"):
        source.read(records[f"train/{FISH}"])
    (tmp_path / "x.png").write_text("text")
    with pytest.raises(ImageError, match="not an image"):
        read_mask(tmp_path / "x.png")


def test_empty_mask_of_a_cam_image(tmp_path: Path) -> None:
    source = opened("cod10k", with_masks(tmp_path, mask=np.zeros((H, W), np.uint8)))
    records, _ = scan(source)
    with pytest.raises(Unreadable, match="empty mask"):
        source.read(records[f"test/{MOTH}"])


def test_mask_and_text_list_disagree(tmp_path: Path) -> None:
    source = opened("cod10k", with_masks(tmp_path))
    listing = tmp_path / "Train" / "CAM-NonCAM_Instance_Train.txt"
    listing.write_text(f"[INFO] {FISH}.jpg 5\nAquatic/Fish\n")
    records, _ = scan(source)
    picture = source.read(records[f"train/{FISH}"])
    assert picture.notes == ("the text list gives another number of objects than the mask",)


def test_auto_prefers_json_then_index_then_object_masks(tmp_path: Path) -> None:
    with_masks(tmp_path, "GT_Object")
    assert scan(opened("cod10k", tmp_path))[0][f"train/{FISH}"].attributes["boxes_from"] == "object"
    with_masks(tmp_path, "GT_Instance")
    assert (
        scan(opened("cod10k", tmp_path))[0][f"train/{FISH}"].attributes["boxes_from"] == "instance"
    )
    release(tmp_path)
    records, ledger = scan(opened("cod10k", tmp_path))
    assert records[f"train/{FISH}"].attributes["boxes_from"] == "json"
    assert drops_of(ledger)[0] == ("file", f"Test/GT_Instance/{MOTH}.png", "mask not used")
    assert len(ledger.drops) == 6

"""Masks from the raw files to COCO, and back as pixels."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_source import opened

from pipeline.convert.annotated import AnnotatedFolder
from pipeline.convert.engine.writer import convert
from pipeline.convert.registry import FolderParams
from pipeline.convert.segmentation import as_text, counts_on, segmentation_text, turned
from pipeline.data.masks import SoftMask, compressed, decode, encode, encode_part, is_mask

DATASETS = Path(__file__).parent.parent / "datasets"
BLOB = np.zeros((5, 8), dtype=bool)
BLOB[1:4, 2:5] = BLOB[2, 6] = True


def test_run_lengths_round_trip_and_polygons_become_pixels() -> None:
    np.testing.assert_array_equal(decode(encode(BLOB), 5, 8), BLOB)
    square = compressed([[2, 1, 5, 1, 5, 4, 2, 4]], 5, 8)
    assert square is not None
    expected = np.zeros((5, 8), dtype=bool)
    expected[1:4, 2:5] = True
    np.testing.assert_array_equal(decode(square, 5, 8), expected)
    plain = {"size": [2, 3], "counts": [1, 2, 3]}  # column by column
    assert decode(compressed(plain, 2, 3) or "", 2, 3).tolist() == [[0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(("x", "y"), [(0, 0), (3, 2), (2, 0), (0, 2), (5, 4)])
def test_a_part_of_an_image_gives_the_run_lengths_of_all_of_it(x: int, y: int) -> None:
    random = np.random.default_rng(x + y)
    for part in (random.random((3, 4)) < 0.5, np.ones((3, 4), bool), np.eye(3, 4) > 0):
        whole = np.zeros((7, 9), dtype=bool)
        whole[y : y + 3, x : x + 4] = part
        assert encode_part(part, x, y, 7, 9) == encode(whole)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "RLE",
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, float("nan")]],
        {"size": [5, 8], "counts": [3]},
        {"size": [8, 5], "counts": [40]},
    ],
)
def test_what_is_no_mask_of_the_image(value: object) -> None:
    assert compressed(value, 5, 8) is None


@pytest.mark.parametrize(
    ("polygon", "says_more"),
    [
        ([2, 1, 5, 1, 5, 4, 2, 4], False),
        ([5, 4, 2, 4, 2, 1, 5, 1, 5, 4], False),  # from another corner, closed
        ([2, 1, 5, 1, 5, 4, 3, 4], True),
        ([2, 1, 5, 1, 5, 4], True),
    ],
)
def test_the_outline_of_the_box_is_no_mask(polygon: list[float], says_more: bool) -> None:
    assert is_mask([polygon], [2, 1, 3, 3]) is says_more


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_turn_with_their_image(orientation: int) -> None:
    image = Image.fromarray(BLOB.astype(np.uint8))
    image.getexif()[0x0112] = orientation
    transposed = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # Pillow's, by its own table
    shown = np.asarray(
        image.transpose(Image.Transpose(transposed[orientation])) if orientation > 1 else image
    )
    mask = segmentation_text({"size": [5, 8], "counts": encode(BLOB)}, (2, 1, 5, 3))
    found = counts_on(turned(mask, orientation, (8, 5)), *shown.shape[::-1], None)
    np.testing.assert_array_equal(decode(found, *shown.shape), shown.astype(bool))


@pytest.mark.parametrize("shape", ["polygon", "run lengths", "part"])
def test_tiles_cut_masks(shape: str) -> None:
    run = {"size": [5, 8], "counts": encode(BLOB)}
    shapes = {"polygon": json.dumps([[2, 1, 5, 1, 5, 4, 2, 4]]), "run lengths": json.dumps(run)}
    mask = (shapes | {"part": as_text(BLOB[1:4, 2:7], 2, 1)})[shape]
    found = decode(counts_on(mask, 3, 4, (3, 1, 3, 4)), 4, 3)
    assert found.tolist() == [[1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert counts_on(mask, 2, 1, (0, 0, 2, 1)) == ""  # nothing of it is there


def annotations(folder: Path) -> list[tuple[dict, dict]]:
    """All (image, annotation) of a converted dataset."""
    pairs = []
    for split in ("train", "val", "test"):
        coco = json.loads((folder / f"annotations/{split}.json").read_text())
        images = {image["id"]: image for image in coco["images"]}
        pairs += [(images[a["image_id"]], a) for a in coco["annotations"]]
    return pairs


@pytest.mark.parametrize("route", ["json", pytest.param("instance", marks=pytest.mark.slow)])
def test_cod10k_keeps_the_masks_of_its_release(tmp_path: Path, route: str) -> None:
    raw = DATASETS / "cod10k/sample"
    source = opened("cod10k", raw, annotations=route)
    convert(source, tmp_path / "coco", seed=0, val_fraction=0.2, test_fraction=0.2, progress=False)
    pairs = annotations(tmp_path / "coco")
    assert len(pairs) > 60
    for image, one in pairs:
        size = (image["height"], image["width"])
        assert one["segmentation"]["size"] == list(size)
        mask = decode(one["segmentation"]["counts"], *size)
        split, stem = image["file_name"].removesuffix(".jpg").split("/")
        index = Image.open(
            raw / split.replace("val", "train").title() / "GT_Instance" / f"{stem}.png"
        )
        values = np.unique(np.asarray(index)[mask])
        assert len(values) == 1 and values[0] > 0
        np.testing.assert_array_equal(np.asarray(index) == values[0], mask)


def test_cheng_keeps_the_tumour_mask(tmp_path: Path) -> None:
    source = opened("brain_tumor", DATASETS / "brain_tumor/sample_cheng")
    convert(source, tmp_path / "coco", seed=0, val_fraction=0.2, test_fraction=0.2, progress=False)
    pairs = annotations(tmp_path / "coco")
    assert len(pairs) == 6
    for image, one in pairs:
        mask = decode(one["segmentation"]["counts"], image["height"], image["width"])
        rows, columns = np.nonzero(mask)
        extent = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert one["bbox"] == extent
        assert 0.7 < mask.sum() / one["area"] < 0.85  # an ellipse's share is pi / 4


def test_own_coco_keeps_polygons_as_run_lengths_and_boxes_as_outlines(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    Image.fromarray(np.arange(40, dtype=np.uint8).reshape(5, 8)).save(raw / "a.png")
    rows = [[[2, 1, 5, 1, 5, 4]], [[2, 1, 5, 1, 5, 4, 2, 4]]]
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 5}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "bbox": [2, 1, 3, 3], "segmentation": shape}
            for i, shape in enumerate(rows)
        ],
    }
    (raw / "train.json").write_text(json.dumps(coco))
    source = AnnotatedFolder(raw, FolderParams(layout="coco"))
    convert(source, tmp_path / "coco", seed=0, val_fraction=0.2, test_fraction=0.2, progress=False)
    (_, first), (_, second) = annotations(tmp_path / "coco")
    assert decode(first["segmentation"]["counts"], 5, 8).sum() == 3  # pycocotools' rule
    assert second["segmentation"] == [[2, 1, 5, 1, 5, 4, 2, 4]]


def test_outlines_of_yolo_become_masks(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for folder in ("images", "labels"):
        (raw / "train" / folder).mkdir(parents=True)
    Image.fromarray(np.arange(80, dtype=np.uint8).reshape(8, 10)).save(raw / "train/images/a.png")
    rows = ["0 0.2 0.25 0.6 0.25 0.6 0.75 0.4 0.75", "0 0.5 0.5 0.2 0.25"]
    (raw / "train/labels/a.txt").write_text("\n".join(rows))
    (raw / "data.yaml").write_text("names: [cell]\n")
    source = AnnotatedFolder(raw, FolderParams(layout="yolo"))
    convert(source, tmp_path / "coco", seed=0, val_fraction=0.2, test_fraction=0.2, progress=False)
    (_, first), (_, second) = annotations(tmp_path / "coco")
    mask = decode(first["segmentation"]["counts"], 8, 10)
    assert first["bbox"] == [2, 2, 4, 4] and mask[2:6, 2:6].sum() == mask.sum() == 12  # its area
    assert second["segmentation"] == [[4, 3, 6, 3, 6, 5, 4, 5]]


def test_soft_masks_follow_the_image() -> None:
    values = np.zeros((2, 3), dtype=np.float32)
    values[:, 1] = 1.0
    mask = SoftMask(values, 0, 0, 4, 4)
    box = np.array([0, 0, 12, 8])
    columns = np.flatnonzero(mask.pixels(8, 12, box).all(axis=0))
    assert columns.tolist() == [4, 5, 6, 7]  # centres from 4.5 on: half way to the next cell
    assert np.flatnonzero(mask.scaled(2, 1).pixels(8, 24, box * [2, 1, 2, 1])[0]).tolist() == [
        *range(8, 16)
    ]
    assert np.flatnonzero(mask.shifted(3, 0).pixels(8, 15, box + np.array([3, 0, 3, 0]))[0])[0] == 7
    left = SoftMask(values[:, :2], 0, 0, 4, 4).mirrored(12)
    assert np.flatnonzero(left.pixels(8, 12, box)[0]).tolist()[-1] == 7
    assert mask.pixels(8, 12, np.array([5.2, 0, 7, 8])).sum() == 2 * 8  # cut by its box

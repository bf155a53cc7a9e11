"""From COCO files to training samples."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data.augment import augmentation
from pipeline.data.cache import PictureSource
from pipeline.data.dataset import DetectionDataset
from pipeline.data.geometry import fit_square
from pipeline.data.images import ImageError, read_image
from pipeline.data.index import CocoIndex
from pipeline.data.intensity import Intensity
from pipeline.data.order import Address
from pipeline.data.pixels import load_pixels
from pipeline.data.results import load_results, to_results, write_results
from pipeline.errors import DescryError


@pytest.fixture
def coco(tmp_path):
    """Three images: two boxes (category ids with a gap, one crowd), none, and one box."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate([(40, 60), (30, 30), (100, 50)], 1):
        pixels = rng.integers(0, 256, (height, width), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{i}.png")
    annotations = [
        {"id": 5, "image_id": 1, "category_id": 7, "bbox": [10, 5, 20, 10], "area": 200},
        {"id": 2, "image_id": 1, "category_id": 3, "bbox": [0, 0, 60, 40], "area": 2400},
        {"id": 9, "image_id": 3, "category_id": 3, "bbox": [5, 50, 30, 40], "area": 1200},
        {"id": 11, "image_id": 1, "category_id": 3, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 1},
    ]
    tree = {
        "images": [
            {"id": 3, "file_name": "3.png", "width": 50, "height": 100},
            {"id": 1, "file_name": "1.png", "width": 60, "height": 40},
            {"id": 2, "file_name": "2.png", "width": 30, "height": 30},
        ],
        "categories": [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}],
        "annotations": [{"iscrowd": 0, **a} for a in annotations],
    }
    (tmp_path / "train.json").write_text(json.dumps(tree))
    return CocoIndex(tmp_path / "train.json", tmp_path / "images")


def test_index_keeps_negatives_and_maps_any_category_ids_to_labels_from_0(coco):
    assert coco.categories == [(3, "a"), (7, "b")]
    assert coco.image_ids.tolist() == [1, 2, 3]
    assert [coco.file_name(i) for i in range(3)] == ["1.png", "2.png", "3.png"]
    boxes, labels = coco.objects(0)  # by annotation id; the crowd is left out
    assert boxes.tolist() == [[0, 0, 60, 40], [10, 5, 30, 15]] and labels.tolist() == [0, 1]
    assert coco.objects(1)[0].shape == (0, 4)
    assert coco.objects(2)[0].tolist() == [[5, 50, 35, 90]]


def samples(coco, augment="none", side=64, seed=0):
    return DetectionDataset(PictureSource(coco, Intensity(), side), augmentation(augment), seed)


def test_samples_are_square_uint8_with_boxes_scaled_along(coco):
    sample = samples(coco)[Address(0, 2, 64)]
    assert sample.image.shape == (3, 64, 64) and sample.image.dtype == torch.uint8
    np.testing.assert_allclose(sample.boxes, [[3.2, 32, 22.4, 57.6]], rtol=1e-6)
    assert not sample.image[:, :, 32:].any()  # padding right of the narrow image
    negative = samples(coco)[Address(0, 1, 64)]
    assert negative.boxes.shape == (0, 4) and negative.labels.shape == (0,)


@pytest.mark.parametrize("side", [64, 96, 192])  # above, between and below the images' sides
def test_without_augmentation_training_sees_what_inference_sees(coco, side):
    for i in range(3):
        square, fit = fit_square(load_pixels(coco, i, Intensity()), side)
        sample = samples(coco, side=side)[Address(0, i, side)]
        assert torch.equal(sample.image[0], torch.from_numpy(square))
        np.testing.assert_allclose(sample.boxes, fit.boxes_in(coco.objects(i)[0]), rtol=1e-6)


def test_a_smaller_square_scales_image_and_boxes(coco):
    sample = samples(coco, side=192)[Address(0, 2, 32)]  # of 50x100
    assert sample.image.shape == (3, 32, 32) and not sample.image[:, :, 16:].any()
    np.testing.assert_allclose(sample.boxes, [[1.6, 16, 11.2, 28.8]], rtol=1e-6)


def test_a_box_thinner_than_a_pixel_is_dropped(coco):
    coco.boxes[3] = [5, 50, 6, 90]  # 1 px of 100 wide, 0.64 px of 64
    sample = samples(coco)[Address(0, 2, 64)]
    assert sample.boxes.shape == (0, 4) and sample.labels.shape == (0,)
    assert len(samples(coco, side=128)[Address(0, 2, 128)].boxes) == 1


def test_a_file_that_is_not_what_the_coco_file_says_is_named(coco):
    Image.new("L", (10, 10)).save(coco.images / "2.png")
    with pytest.raises(DescryError, match=r"2\.png is 10x10.*30x30"):
        samples(coco)[Address(0, 1, 64)]
    (coco.images / "2.png").unlink()
    with pytest.raises(DescryError, match=r"2\.png.*train\.json"):
        samples(coco)[Address(0, 1, 64)]


@pytest.mark.parametrize(("width", "height"), [(60, 40), (7, 300), (64, 64), (1, 1), (500, 333)])
def test_boxes_come_back_from_the_square(width, height):
    square, fit = fit_square(np.zeros((height, width), np.uint8), 64)
    assert square.shape == (64, 64)
    box = np.array([[0, 0, width, height]], dtype=np.float32)
    inside = fit.boxes_in(box)
    assert inside.max() <= 64
    np.testing.assert_allclose(fit.boxes_out(inside), box, rtol=1e-5)
    far = np.array([[-5, -5, 1000, 1000]], dtype=np.float32)
    assert fit.boxes_out(far).tolist() == [[0, 0, width, height]]  # clipped to the image


def test_results_are_sorted_and_rounded_and_read_back(tmp_path):
    rows = to_results(
        2, np.array([[1.004, 2, 3.006, 4]]), np.array([0.123456]), np.array([1])
    ) + to_results(
        1, np.array([[0, 0, 1, 1], [0, 0, 2, 2.0]]), np.array([0.5, 0.9]), np.array([1, 2])
    )
    write_results(tmp_path / "p.json", rows)
    read = load_results(tmp_path / "p.json")
    assert [(r["image_id"], r["score"]) for r in read] == [(1, 0.9), (1, 0.5), (2, 0.12346)]
    assert read[2]["bbox"] == [1.0, 2.0, 2.0, 2.0]
    write_results(tmp_path / "q.json", rows[::-1])
    assert (tmp_path / "p.json").read_bytes() == (tmp_path / "q.json").read_bytes()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "list"),
        ("[", "JSON"),
        ('[{"image_id": 1, "category_id": 1, "score": 1}]', "detection 0: has no 'bbox'"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2], "score": 1}]', "4 finite numbers"),
        ('[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, NaN], "score": 1}]', "finite"),
    ],
)
def test_results_of_others_are_checked(tmp_path, text, words):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DescryError, match=words):
        load_results(tmp_path / "r.json")


def test_images_of_all_kinds_are_read(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    deep = np.array([[0, 1000], [40000, 65535]], dtype=np.uint16)
    rgba = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    colour = np.dstack([grey, grey + 1, grey])
    for name, pixels in (("l", grey), ("i16", deep), ("rgba", rgba), ("rgb", colour)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    assert np.array_equal(read_image(tmp_path / "l.png").pixels, grey)
    assert read_image(tmp_path / "l.png").verbatim
    sixteen = read_image(tmp_path / "i16.png")
    assert sixteen.pixels.dtype == np.uint16 and np.array_equal(sixteen.pixels, deep)
    reduced = read_image(tmp_path / "rgba.png")
    assert np.array_equal(reduced.pixels, grey) and not reduced.verbatim and reduced.notes
    assert np.array_equal(read_image(tmp_path / "rgb.png").pixels, colour)


def test_exif_orientation_is_applied(tmp_path):
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise by a quarter
    Image.fromarray(pixels).save(tmp_path / "t.png", exif=exif)
    read = read_image(tmp_path / "t.png")
    assert np.array_equal(read.pixels, np.rot90(pixels, -1))
    assert read.orientation == 6 and read.stored_size == (3, 2) and not read.verbatim


def test_a_truncated_image_is_an_error(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 64), dtype=np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-200])
    (tmp_path / "c.png").write_text("no image")
    for name in ("b.jpg", "c.png"):
        with pytest.raises(ImageError):
            read_image(tmp_path / name)

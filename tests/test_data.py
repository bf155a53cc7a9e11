"""From COCO files to training samples."""

import json

import albumentations as A
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data.dataset import DetectionDataset, EpochSampler
from pipeline.data.geometry import fit_square
from pipeline.data.images import ImageError, read_image
from pipeline.data.index import CocoIndex
from pipeline.data.intensity import Intensity
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


def test_samples_are_square_uint8_with_boxes_scaled_along(coco):
    dataset = DetectionDataset(coco, image_size=64, intensity=Intensity())
    sample = dataset[(0, 2)]
    assert sample.image.shape == (3, 64, 64) and sample.image.dtype == torch.uint8
    np.testing.assert_allclose(sample.boxes, [[3.2, 32, 22.4, 57.6]], rtol=1e-6)
    assert not sample.image[:, :, 32:].any()  # padding right of the narrow image
    negative = dataset[(0, 1)]
    assert negative.boxes.shape == (0, 4) and negative.labels.shape == (0,)


def test_a_flip_moves_boxes_with_the_pixels(coco):
    flipped = DetectionDataset(
        coco, image_size=60, intensity=Intensity(), transforms=[A.HorizontalFlip(p=1.0)]
    )[(0, 0)]
    plain = DetectionDataset(coco, image_size=60, intensity=Intensity())[(0, 0)]
    assert torch.equal(flipped.image[:, :40, :60], plain.image[:, :40, :60].flip(-1))
    assert flipped.boxes.tolist() == [[0, 0, 60, 40], [30, 5, 50, 15]]


def test_augmentation_is_decided_by_seed_epoch_and_index_alone(coco):
    def make(seed=0):
        flips = [A.HorizontalFlip(p=0.5)]
        return DetectionDataset(
            coco, image_size=64, intensity=Intensity(), transforms=flips, seed=seed
        )

    one, other = make(), make()
    asked = [(epoch, i) for epoch in range(6) for i in range(3)]
    forward = {address: one[address].image for address in asked}
    for address in reversed(asked):
        assert torch.equal(other[address].image, forward[address])
    assert len({forward[(epoch, 0)].sum(1).numpy().tobytes() for epoch in range(6)}) == 2
    changed = [not torch.equal(make(1)[address].image, forward[address]) for address in asked]
    assert any(changed)


def test_the_order_depends_on_seed_and_epoch_alone():
    sampler = EpochSampler(10, seed=3)
    first = list(sampler)
    assert [e for e, _ in first] == [0] * 10 and sorted(i for _, i in first) == list(range(10))
    sampler.set_epoch(1)
    second = list(sampler)
    assert [i for _, i in second] != [i for _, i in first]
    fresh = EpochSampler(10, seed=3)
    fresh.set_epoch(1)
    assert list(fresh) == second


def test_a_file_that_is_not_what_the_coco_file_says_is_named(coco):
    Image.new("L", (10, 10)).save(coco.images / "2.png")
    dataset = DetectionDataset(coco, image_size=64, intensity=Intensity())
    with pytest.raises(DescryError, match=r"2\.png is 10x10.*30x30"):
        dataset[(0, 1)]
    (coco.images / "2.png").unlink()
    with pytest.raises(DescryError, match=r"2\.png.*train\.json"):
        dataset[(0, 1)]


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

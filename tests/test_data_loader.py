"""Training batches: the same for any number of workers and processes, with and without cache."""

import gc
import json
import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config import load_params
from pipeline.data.cache import CachePlan, PictureSource
from pipeline.data.dataset import sample_seed
from pipeline.data.index import CocoIndex
from pipeline.data.intensity import Intensity
from pipeline.data.loader import LoaderPlan, _start_worker, training_loader
from pipeline.data.order import EpochBatches, EpochSampler, rarity
from pipeline.errors import DescryError
from pipeline.stages.machine import picture_cache

PLAN = LoaderPlan(64, Intensity(), "mri", seed=3, batch_size=2, sizes=(32, 64, 96))
VARIED = replace(
    PLAN, augment="microscopy", strength=2.0, weak_from=2, mosaic=0.5, oversample=0.5, seed=4
)


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> CocoIndex:
    """Ten images of 120x80 px, grey, RGB and 16 bits, each with one box."""
    folder = tmp_path_factory.mktemp("coco")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(10):
        deep = rng.integers(0, 4000, (80, 120), dtype=np.uint16)
        colour = rng.integers(0, 256, (80, 120, 3), dtype=np.uint8)
        Image.fromarray((deep, colour, colour[..., 0])[i % 3]).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 120, "height": 80})
        annotations.append({"id": i + 1, "image_id": i, "category_id": 1, "bbox": [10, 20, 50, 40]})
    tree = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]}
    (folder / "train.json").write_text(json.dumps(tree))
    return CocoIndex(folder / "train.json", folder)


def batches(coco, plan, epochs=(0, 1)):
    """Everything in some epochs, as comparable bytes."""
    loader = training_loader(coco, plan)
    out = []
    for epoch in epochs:
        loader.batch_sampler.sampler.set_epoch(epoch)
        out += [as_bytes(batch) for batch in loader]
    return out


def as_bytes(batch):
    parts = [t.numpy().tobytes() for t in (batch.images, *batch.boxes, *batch.labels)]
    return b"|".join([*parts, str(batch.image_ids).encode()])


def addresses(length=10, epoch=0, batch_size=2, sizes=(32, 64, 96), **settings):
    return list(EpochBatches(EpochSampler(length, 3, epoch), batch_size, sizes, **settings))


def test_a_batch_is_one_stack_of_8_bit_squares(coco):
    batch = next(iter(training_loader(coco, replace(PLAN, sizes=()))))
    assert batch.images.shape == (2, 3, 64, 64) and batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous() and len(batch) == 2
    assert batch.targets[1]["boxes"] is batch.boxes[1] and batch.boxes[1].shape == (1, 4)
    assert batch.labels[0].tolist() == [0] and all(0 <= i < 10 for i in batch.image_ids)
    moved = batch.to("cpu")
    assert torch.equal(moved.images, batch.images) and moved.image_ids == batch.image_ids


@pytest.mark.parametrize("plan", [PLAN, VARIED], ids=["plain", "varied"])
def test_workers_change_nothing(coco, plan):
    alone = batches(coco, plan)
    assert len(alone) == 10 and len(set(alone)) == 10
    assert batches(coco, replace(plan, workers=1)) == alone
    assert batches(coco, replace(plan, workers=2)) == alone


def test_the_order_depends_on_seed_and_epoch_alone():
    first = [address.image for batch in addresses() for address in batch]
    assert sorted(first) == list(range(10))
    second = [address.image for batch in addresses(epoch=1) for address in batch]
    assert sorted(second) == list(range(10)) and second != first
    sampler = EpochSampler(10, 3)
    sampler.set_epoch(1)
    assert list(sampler) == second != list(EpochSampler(10, 4, 1))


def test_the_last_images_of_an_order_are_left_out_where_they_fill_no_batch():
    assert [len(batch) for batch in addresses(batch_size=4)] == [4, 4]
    assert len(EpochBatches(EpochSampler(10, 3), 4, (64,), world_size=2)) == 1


def test_two_processes_share_what_one_would_have():
    one = addresses(epoch=2, batch_size=4)
    ranks = [addresses(epoch=2, rank=r, world_size=2) for r in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == one


def test_a_step_has_one_size_and_sizes_change_from_step_to_step():
    steps = addresses(length=400, epoch=1)
    sizes = [{address.size for address in step} for step in steps]
    assert all(len(step) == 1 for step in sizes)
    drawn = [size.pop() for size in sizes]
    # 200 draws of three: each about 67 times, standard deviation sqrt(200 * 2 / 9) = 6.7
    assert all(40 < drawn.count(size) < 94 for size in (32, 64, 96))
    assert drawn != [step[0].size for step in addresses(length=400, epoch=2)]


@pytest.mark.parametrize("plan", [PLAN, VARIED], ids=["plain", "varied"])
def test_going_on_in_the_middle_of_an_epoch_gives_the_rest_of_it(coco, plan):
    whole = batches(coco, plan, (1, 2))
    going_on = replace(plan, first_epoch=1, skip_batches=3)
    assert batches(coco, going_on, (1, 2)) == whole[3:]
    assert len(training_loader(coco, going_on)) == 5  # as Lightning counts, of the whole epoch
    assert addresses(epoch=1, skip=(1, 5)) == []


def test_images_of_rare_classes_are_shown_more_often_and_each_time_otherwise():
    # Class 0 is in 3 of 4 images, class 1 in one: sqrt(.75 / .75) = 1 and sqrt(.75 / .25) = 1.73.
    classes = [np.array(labels, np.int64) for labels in ([0, 0], [0], [0, 1], [])]
    weights = rarity(classes, 0.75)
    np.testing.assert_allclose(weights, [1, 1, 3**0.5, 1])
    orders = [EpochSampler(4, 0, epoch, weights).order() for epoch in range(400)]
    shown = np.bincount(np.concatenate(orders), minlength=4) / 400
    np.testing.assert_allclose(shown, weights * 4 / weights.sum(), atol=0.03)
    twice = next(order for order in orders if (order == 2).sum() == 2)
    sampler = EpochSampler(4, 0, 0, weights)
    sampler.order = lambda: twice
    (batch,) = EpochBatches(sampler, 4, (64,))
    assert sorted(a.turn for a in batch if a.image == 2) == [0, 1]
    assert len({sample_seed(0, *address.drawn) for address in batch}) == 4


def test_the_last_epochs_are_weak_and_only_pictures_without_a_place_become_mosaics(coco):
    plain = replace(VARIED, mosaic=0.0, oversample=0.0)
    all_mosaics = replace(plain, mosaic=1.0)
    assert batches(coco, plain, [2]) == batches(coco, all_mosaics, [2])
    assert batches(coco, plain, [2]) == batches(coco, replace(plain, strength=0.0), [2])
    assert not set(batches(coco, plain, [1])) & set(batches(coco, all_mosaics, [1]))
    films = replace(plain, augment="xray")
    assert batches(coco, films) == batches(coco, replace(films, mosaic=1.0))


def test_more_processes_than_images_is_an_error(coco):
    with pytest.raises(DescryError, match=r"10 training images for 11 processes"):
        training_loader(coco, replace(PLAN, world_size=11))


def test_a_batch_is_not_larger_than_the_data(coco):
    assert len(next(iter(training_loader(coco, replace(PLAN, batch_size=64))))) == 10


def test_a_worker_has_start_worker():
    threads = cv2.getNumThreads(), torch.get_num_threads()
    try:
        _start_worker(0)
        assert cv2.getNumThreads() in (0, 1) and torch.get_num_threads() == 1
    finally:
        gc.unfreeze()
        cv2.setNumThreads(threads[0])
        torch.set_num_threads(threads[1])


def test_the_cache_changes_no_bit_and_spares_the_decoding(coco, tmp_path, monkeypatch):
    plain = batches(coco, PLAN)
    cached = replace(PLAN, cache=CachePlan(tmp_path, 1.0))
    assert batches(coco, replace(cached, workers=2)) == plain  # filled by two processes at once
    assert len(list(tmp_path.rglob("*.npy"))) == 10
    monkeypatch.setattr("pipeline.data.cache.load_pixels", None)  # decoding would now fail
    assert batches(coco, cached) == plain


def test_a_picture_is_kept_no_larger_than_the_square(coco, tmp_path):
    source = PictureSource(coco, Intensity(), 60, CachePlan(tmp_path, 1.0))
    assert source.load(2).shape == (40, 60)
    (kept,) = tmp_path.rglob("*.npy")
    assert np.load(kept).shape == (40, 60) and kept.stat().st_size == 40 * 60 + 128


def test_another_recipe_size_or_content_is_another_entry(coco, tmp_path):
    def load(side=60, **intensity):
        return PictureSource(coco, Intensity(**intensity), side, CachePlan(tmp_path, 1.0)).load(0)

    first = load()
    assert load(side=90).shape != first.shape
    assert not np.array_equal(load(high_percentile=80.0), first)
    original = coco.file(0).read_bytes()
    try:
        Image.fromarray(np.arange(9600, dtype=np.uint16).reshape(80, 120)).save(coco.file(0))
        assert not np.array_equal(load(), first)
    finally:
        coco.file(0).write_bytes(original)
    assert np.array_equal(load(), first) and len(list(tmp_path.rglob("*.npy"))) == 4


def test_a_full_cache_serves_the_rest_uncached_and_says_so_once(coco, tmp_path, caplog):
    room = 3 * (80 * 120 * 2 + 1000)  # grey pictures have 9,600 bytes, RGB ones 28,800
    plan = replace(PLAN, sizes=(128,), cache=CachePlan(tmp_path, room / 2**30))
    with caplog.at_level(logging.WARNING):
        assert batches(coco, plan) == batches(coco, replace(plan, cache=None))
    kept = sum(f.stat().st_size for f in tmp_path.rglob("*.npy"))
    assert 0 < kept <= room and int((tmp_path / "bytes").read_text()) == kept
    assert [r.message for r in caplog.records].count(caplog.records[0].message) == 1
    assert "takes no more pictures" in caplog.records[0].message


def test_a_spoilt_entry_is_decoded_again_and_mended(coco, tmp_path, caplog):
    source = PictureSource(coco, Intensity(), 64, CachePlan(tmp_path, 1.0))
    first = source.load(0)
    (kept,) = tmp_path.rglob("*.npy")
    kept.write_bytes(kept.read_bytes()[:100])
    assert np.array_equal(source.load(0), first) and "decoded again" in caplog.text
    caplog.clear()
    assert np.array_equal(source.load(0), first) and not caplog.text


def test_a_folder_that_cannot_be_written_costs_no_run(coco, tmp_path, monkeypatch, caplog):
    source = PictureSource(coco, Intensity(), 64, CachePlan(tmp_path, 1.0))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.data.cache.np.save", full)
    assert source.load(0).shape == (43, 64) and source.load(1).shape == (43, 64, 3)
    assert caplog.text.count("No space left on device") == 1
    assert not list(tmp_path.rglob("*.npy")) and not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("asked", "device", "folder"),
    [
        ("auto", "cpu", None),
        ("auto", "cuda", "here/pictures"),
        ("none", "cuda", None),
        ("there", "cpu", "there"),
    ],
)
def test_where_the_cache_is(asked, device, folder):
    params = load_params(
        overrides=["machine.scratch=here", f"machine.cache={asked}", "machine.cache_gib=2"]
    )
    assert picture_cache(params, device) == (folder and CachePlan(Path(folder), 2.0))

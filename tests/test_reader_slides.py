"""Whole slides are read tile by tile, with the boxes of QuPath, COCO files or masks."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_reader_exports import qupath
from test_readers import OPTIONS, coco_file, put
from toy_source import opened

from pipeline.convert import convert
from pipeline.convert.formats import pictures, whole_slides
from pipeline.convert.formats.mask_folders import CUT
from pipeline.convert.records import Ledger, Unreadable
from pipeline.data.images import read_image

pytest.importorskip("openslide", reason="pip install 'descry[slides]'")
tifffile = pytest.importorskip("tifffile", reason="pip install tifffile")

HEIGHT, WIDTH, SIDE = 160, 240, 80


def tissue(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def slide(path: Path, pixels: np.ndarray) -> Path:
    """A tiled and compressed TIFF, as scanners write them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", compression="zlib")
    return path


def tiles_of(raw: Path, out: Path, **params: object) -> tuple[dict, dict]:
    """The report; boxes and pixels by the tile's corner."""
    report = convert(opened("spots", raw, tile=SIDE, **params), out, **OPTIONS)
    found = {}
    for split in ("train", "val", "test"):
        coco = json.loads((out / f"annotations/{split}.json").read_text())
        for image in coco["images"]:
            rows = [a["bbox"] for a in coco["annotations"] if a["image_id"] == image["id"]]
            pixels = read_image(out / "images" / image["file_name"]).pixels
            found[image["source"], *image["crop"][:2]] = rows, pixels, split
    return report, found


def test_a_slide_with_the_outlines_of_qupath(tmp_path):
    raw = tmp_path / "raw"
    for number in range(4):
        slide(raw / f"s{number}.svs", tissue(number))
        outline = [[90, 20], [110, 10], [130, 20], [110, 30]]
        put(raw, f"s{number}.svs.geojson", qupath("Polygon", [outline]))
    report, found = tiles_of(raw, tmp_path / "out")
    assert report["images"] == {"in": 24, "out": 24, "dropped": {}}
    assert report["files"]["used as images"] == 4
    for number in range(4):
        mine = {place[1:]: value for place, value in found.items() if place[0] == f"s{number}.svs"}
        assert len({split for _, _, split in mine.values()}) == 1
        assert mine[80, 0][0] == [[10, 10, 40, 20]] and mine[0, 0][0] == []
        for (x, y), (_, pixels, _) in mine.items():
            assert np.array_equal(pixels, tissue(number)[y : y + SIDE, x : x + SIDE])


def test_a_slide_in_a_coco_file_has_the_size_that_is_told(tmp_path):
    raw = tmp_path / "raw"
    slide(raw / "images/a.ndpi", tissue())
    put(raw, "annotations/all.json", coco_file(["a.ndpi"], width=WIDTH, height=HEIGHT))
    _, found = tiles_of(raw, tmp_path / "out")
    assert found["images/a.ndpi", 0, 0][0] == [[16, 6, 8, 8]] and len(found) == 6


@pytest.mark.parametrize("suffix", ["svs", "png"])
def test_masks_are_cut_by_the_rule_of_boxes(tmp_path, suffix):
    raw, labels = tmp_path / "raw", np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[10:20, 60:100] = 1  # half in either of two tiles
    labels[90:100, 70:110] = 2  # a quarter in one, the rest in its neighbour
    if suffix == "svs":
        slide(raw / "images/a.svs", tissue())
    else:
        (raw / "images").mkdir(parents=True)
        Image.fromarray(tissue()).save(raw / "images/a.png")
    (raw / "masks").mkdir()
    Image.fromarray(labels).save(raw / "masks/a.png")
    report, found = tiles_of(raw, tmp_path / "out", tile_keep=0.5)
    boxes = {place[1:]: rows for place, (rows, *_) in found.items() if rows}
    assert boxes == {
        (0, 0): [[60, 10, 20, 10]],
        (80, 0): [[0, 10, 20, 10]],
        (80, 80): [[0, 10, 30, 10]],
    }
    assert report["remarks on images"][CUT] == 1


def test_a_tiff_beyond_the_limit_of_pixels_is_a_slide(tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    slide(raw / "images/a.tif", tissue())
    put(raw, "annotations/all.json", coco_file(["a.tif"], width=WIDTH, height=HEIGHT))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    monkeypatch.setattr(whole_slides, "MAX_PIXELS", 10_000)
    pictures.is_slide.cache_clear()
    source = opened("spots", raw, tile=SIDE)
    records = list(source.scan(Ledger()))
    assert len(records) == 6 and [len(r.boxes) for r in records] == [1, 0, 0, 0, 0, 0]
    assert np.array_equal(source.read(records[4]).pixels, tissue()[80:160, 80:160])
    whole = opened("spots", raw)
    (record,) = whole.scan(Ledger())
    with pytest.raises(Unreadable) as caught:
        whole.read(record)
    assert "set tile" in caught.value.detail
    pictures.is_slide.cache_clear()


def test_a_slide_that_is_none_is_listed(tmp_path):
    raw = tmp_path / "raw"
    slide(raw / "images/a.svs", tissue())
    (raw / "images/b.svs").write_bytes(b"no slide")
    content = coco_file(["a.svs", "b.svs"], width=WIDTH, height=HEIGHT)
    report, found = tiles_of(put(raw, "annotations/all.json", content), tmp_path / "out")
    assert report["images"]["dropped"] == {"corrupt image": 1} and len(found) == 6

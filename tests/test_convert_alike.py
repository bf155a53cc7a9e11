"""Near duplicates across splits: the hash, the pairs, and where a conversion lists them."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_readers import OPTIONS, ROW, YAML, put
from toy_source import opened

from pipeline.convert import convert
from pipeline.convert.engine.alike import BITS, NEAR, Pair, near_pairs, perceptual_hash
from pipeline.convert.engine.report import summary_line


def scene(seed: int, side: int = 96) -> np.ndarray:
    """A hundred blobs of all sizes, (side, side, 3)."""
    drawn = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / side
    grey = np.zeros((side, side))
    for y, x, size, height in drawn.uniform((0, 0, 0.01, -1), (1, 1, 0.15, 1), (100, 4)):
        grey += height * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * size**2))
    grey = 40 + 170 * (grey - grey.min()) / np.ptp(grey)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def recompressed(pixels: np.ndarray, quality: int = 40) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def differing(first: str, second: str) -> int:
    return (int(first, 16) ^ int(second, 16)).bit_count()


@pytest.mark.parametrize(
    "change",
    [
        recompressed,
        lambda pixels: np.asarray(Image.fromarray(pixels).resize((50, 50))),
        lambda pixels: (pixels * 1.15).astype(np.uint8),
        lambda pixels: pixels[..., 0],
        lambda pixels: pixels[..., 0].astype(np.uint16) * 200,
    ],
)
def test_a_copy_in_another_form_has_nearly_the_hash_and_no_other_image_has(change):
    looks = [perceptual_hash(scene(seed)) for seed in range(5)]
    for seed, look in enumerate(looks):
        copy = perceptual_hash(np.ascontiguousarray(change(scene(seed))))
        assert differing(copy, look) <= NEAR
        others = [differing(copy, other) for other in looks if other != look]
        assert min(others) > 2 * NEAR


def test_an_image_of_one_tone_is_like_none():
    assert perceptual_hash(np.full((30, 40), 200, np.uint8)) == ""
    assert perceptual_hash(np.zeros((30, 40, 3), np.uint8)) == ""


def test_pairs_are_those_of_comparing_each_with_each():
    drawn = np.random.default_rng(3)
    hashes = drawn.integers(0, 256, (60, 32), dtype=np.uint8)
    for image in range(0, 40, 2):  # each a copy of another with a few bits turned
        hashes[image] = hashes[40 + image // 2]
        flipped = drawn.choice(BITS, image // 2 * 3, replace=False)
        hashes[image] ^= np.packbits(np.isin(np.arange(BITS), flipped))
    hashes[7] = hashes[9] = 0
    codes = drawn.integers(-1, 3, 60).astype(np.int8)
    bits = np.unpackbits(hashes, axis=1)
    expected = []
    for i in range(60):
        nearer = [j for j in range(60) if 0 <= codes[j] < codes[i] and hashes[j].any()]
        if hashes[i].any() and nearer:
            least, like = min((int((bits[i] != bits[j]).sum()), j) for j in nearer)
            expected += [Pair(i, like, least)] if least <= NEAR else []
    assert near_pairs(hashes, codes) == expected and len(expected) >= 3


def test_a_conversion_lists_them_and_keeps_them(tmp_path: Path):
    raw = put(tmp_path / "raw", "data.yaml", YAML)
    for name, pixels in {
        "train/images/a.png": scene(0),
        "train/images/b.png": scene(1),
        "valid/images/c.png": recompressed(scene(0)),
        "valid/images/d.png": scene(2),
        "test/images/e.png": recompressed(scene(2), 60),
    }.items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(raw / name)
        put(raw, name.replace("images", "labels").replace("png", "txt"), ROW)
    report = convert(opened("spots", raw), tmp_path / "out", **OPTIONS)
    lines = (tmp_path / "out/near_duplicates.csv").read_text().splitlines()
    assert lines[0] == "split,image,like split,like image,differing bits of 256"
    pairs = {tuple(line.split(",")[:4]) for line in lines[1:]}
    assert pairs == {
        ("val", "valid/c.png", "train", "train/a.png"),
        ("test", "test/e.png", "val", "valid/d.png"),
    }
    assert report["near duplicates"]["across splits"] == 2
    assert report["images"]["dropped"] == {}
    assert "; 2 held-out images look like one nearer to training" in summary_line(report)

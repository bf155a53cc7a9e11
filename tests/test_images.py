"""What image files hold, by kind: the right value of each."""

import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.convert.formats.pictures import displayed_size
from pipeline.data.images import ImageError, read_image

GREY = np.array([[1000, 2000, 3001], [40_000, 50_005, 65_535]], np.uint16)  # (2, 3)
COLOUR = np.stack([GREY, GREY // 3, 65_535 - GREY], axis=-1)


def encoded(suffix: str, pixels: np.ndarray) -> bytes:
    """A file of RGB(A) or grey pixels, by OpenCV."""
    order = [2, 1, 0, 3][: pixels.shape[2]] if pixels.ndim == 3 else None
    done, data = cv2.imencode(suffix, pixels if order is None else pixels[..., order])
    assert done
    return data.tobytes()


def png_la16(grey: np.ndarray) -> bytes:
    """A PNG of 16-bit grey with alpha, which no library at hand writes."""
    height, width = grey.shape
    samples = np.stack([grey, np.full_like(grey, 65_535)], axis=-1).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 4, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(pixels: np.ndarray, **tags: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "TIFF", tiffinfo={int(k[1:]): v for k, v in tags.items()})
    return stream.getvalue()


def pages(kind: str) -> bytes:
    stream = io.BytesIO()
    first, second = (Image.new("L", (3, 2), tone) for tone in (7, 9))
    first.save(stream, kind, save_all=True, append_images=[second], **LOSSLESS[kind])
    return stream.getvalue()


LOSSLESS: dict[str, dict] = {"TIFF": {}, "PNG": {}, "WEBP": {"lossless": True}}
ALPHA = np.dstack([COLOUR, GREY])


@pytest.mark.parametrize(
    ("name", "data", "expected", "notes"),
    [
        ("rgb16.png", encoded(".png", COLOUR), COLOUR, ()),
        ("rgb16.tif", encoded(".tiff", COLOUR), COLOUR, ()),
        ("rgba16.png", encoded(".png", ALPHA), COLOUR, ("mode RGBA reduced",)),
        ("la16.png", png_la16(GREY), GREY, ("mode RGBA reduced",)),
        ("grey16.png", encoded(".png", GREY), GREY, ()),
        ("white0.tif", tiff(GREY, t262=0), 65_535 - GREY, ("white is 0: inverted",)),
        ("pages.tif", pages("TIFF"), np.full((2, 3), 7, np.uint8), None),
        ("pages.png", pages("PNG"), np.full((2, 3), 7, np.uint8), None),
        ("pages.webp", pages("WEBP"), np.full((2, 3), 7, np.uint8), None),
    ],
)
def test_every_bit_of_a_file_is_read(tmp_path, name, data, expected, notes):
    (tmp_path / name).write_bytes(data)
    image = read_image(tmp_path / name)
    got = image.pixels if image.pixels.ndim == expected.ndim else image.pixels[..., 0]
    assert got.dtype == expected.dtype
    assert np.array_equal(got, expected)
    if notes is None:
        assert image.notes[-1] == "first of several pages taken" and not image.verbatim
    else:
        assert image.notes == notes


def turned(kind: str, orientation: int) -> bytes:
    """A picture 6 wide and 4 high as stored, whose corner (0, 0) is white."""
    pixels = np.zeros((4, 6), np.uint8)
    pixels[0, 0] = 255
    stream, image = io.BytesIO(), Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    more = {"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": exif}
    image.save(stream, kind, **more)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
@pytest.mark.parametrize(
    ("orientation", "corner", "size"),
    [  # where the stored top-left corner is displayed: Exif 2.32, 4.6.4 A
        (1, (0, 0), (6, 4)),
        (2, (0, 5), (6, 4)),
        (3, (3, 5), (6, 4)),
        (4, (3, 0), (6, 4)),
        (5, (0, 0), (4, 6)),
        (6, (0, 3), (4, 6)),
        (7, (5, 3), (4, 6)),
        (8, (5, 0), (4, 6)),
    ],
)
def test_each_orientation_of_each_kind(tmp_path, kind, orientation, corner, size):
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(turned(kind, orientation))
    image = read_image(path)
    assert image.orientation == orientation and image.stored_size == (6, 4)
    assert image.pixels.shape == (size[1], size[0]) and image.pixels[corner] == 255
    assert displayed_size(path) == size


def test_16_bit_colour_follows_its_orientation(tmp_path):
    stored = np.zeros((4, 6, 3), np.uint16)
    stored[0, 0] = (1000, 2000, 3000)
    data = bytearray(encoded(".tiff", stored))
    (first,) = struct.unpack("<I", data[4:8])  # the directory moves to the end, a tag longer
    (count,) = struct.unpack("<H", data[first : first + 2])
    entries = bytes(data[first + 2 : first + 2 + 12 * count])
    tags = [entries[at : at + 12] for at in range(0, len(entries), 12)]
    tags.append(struct.pack("<HHIHH", 274, 3, 1, 6, 0))
    data[4:8] = struct.pack("<I", len(data))
    body = b"".join(sorted(tags, key=lambda tag: struct.unpack("<H", tag[:2])))
    (tmp_path / "a.tif").write_bytes(data + struct.pack("<H", count + 1) + body + bytes(4))
    image = read_image(tmp_path / "a.tif")
    assert image.pixels.shape == (6, 4, 3) and image.pixels[0, 3].tolist() == [1000, 2000, 3000]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0",
        b"Exif\0\0XX*\0\x08\0\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0",  # text
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x63\0\0\0\0\0\0\0",  # 99
        b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01",  # cut
    ],
)
def test_a_sound_jpeg_is_read_whatever_its_exif_block(tmp_path, block):
    stream = io.BytesIO()
    Image.new("RGB", (6, 4), (200, 10, 10)).save(stream, "JPEG", exif=block)
    (tmp_path / "a.jpg").write_bytes(stream.getvalue())
    image = read_image(tmp_path / "a.jpg")
    assert image.orientation == 1 and image.verbatim
    assert displayed_size(tmp_path / "a.jpg") == (6, 4)


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, make):
    make(tmp_path / "a.png")
    with pytest.raises(OSError, match="not a regular file"):
        read_image(tmp_path / "a.png")


def test_a_broken_tiff_is_refused_whatever_pillow_raises():
    # Pillow 12: TypeError "Missing dimensions", of a TIFF that has none
    content = b"II*\0\x08\0\0\0\x01\0\x15\x01\x03\0\x01\0\0\0\x01\0\0\0\0\0\0\0"
    with pytest.raises(ImageError):
        read_image(io.BytesIO(content))

"""One way from an ordinary image file to an array, for conversion, training and inference.

Grey stays grey, colour becomes RGB, 16 bits stay 16 bits, an EXIF orientation is applied, an
alpha channel is dropped, of several pages the first is read. DICOM is read by `pipeline.dicom`.
"""

import errno
import stat
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Literal, Protocol, overload

import numpy as np
from PIL import Image, UnidentifiedImageError

from pipeline.errors import first_line

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
_ORIENTATION, _WIDTH, _LENGTH, _BITS, _PHOTOMETRIC = 0x0112, 256, 257, 258, 262  # tags
# By EXIF orientation (Exif 2.32, 4.6.4 A): the displayed pixels of stored ones.
DISPLAYED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}
MAX_PIXELS = 300_000_000  # of an image that is read; a slide tile may have as many
# Pillow warns above its limit and stops at twice as many: here the warning is an error.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.simplefilter("error", Image.DecompressionBombWarning)


class Openable(Protocol):
    """What a file is read from: a `Path`, or anything else that opens like one."""

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Open for reading bytes; the stream can seek."""
        ...


TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# What Pillow raises of damaged files; it documents no set.
DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError,
    EOFError, RuntimeError, AssertionError, struct.error, zlib.error, *TOO_LARGE,
)  # fmt: skip


class ImageError(Exception):
    """The file is not an image that can be decoded completely."""


@dataclass(slots=True)
class DecodedImage:
    """Pixels of an image file in displayed orientation.

    Attributes
    ----------
    pixels : array (H, W) or (H, W, 3), uint8 or uint16
    orientation : int
        The EXIF orientation that was applied (1 to 8; 1 means none).
    stored_size : (int, int)
        Width and height before the orientation was applied.
    notes : tuple of str
        What was changed on the way ("alpha channel dropped", ...), constant phrases.
    verbatim : bool
        True when the file itself is an 8- or 16-bit JPEG or PNG with exactly these pixels.
    """

    pixels: np.ndarray
    orientation: int
    stored_size: tuple[int, int]
    notes: tuple[str, ...]
    verbatim: bool


@overload
def opened(source: Path) -> BufferedReader: ...
@overload
def opened(source: Openable) -> BinaryIO: ...
def opened(source: Openable) -> BinaryIO:
    """Open a regular file for reading; a pipe has the reader wait for ever, a device has no end.

    Raises
    ------
    OSError
        When it is none, or cannot be opened.
    """
    if isinstance(source, Path) and not stat.S_ISREG(source.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(source))
    return source.open("rb")


def read_image(source: Path | BinaryIO) -> DecodedImage:
    """Decode an ordinary image file, or an open one, completely.

    Raises
    ------
    ImageError
        When the file is not an image, is truncated, has more than `MAX_PIXELS`, or has an
        unsupported pixel type.
    FileNotFoundError
        When it does not exist.
    """
    if isinstance(source, Path):
        # Open, since Pillow maps a named TIFF into memory, and wrongly if it is to be turned.
        with opened(source) as stream:
            return read_image(stream)
    try:
        with Image.open(source) as image:
            if image.width * image.height > MAX_PIXELS:  # where warnings are no errors
                raise Image.DecompressionBombError
            kind, deep = image.format, is_deep_colour(image)
            orientation, stored_size = frame_of(image)
            pixels, notes = _deep_colour(image, source) if deep else _shallow(image)
            if not (kind == "TIFF" if deep else orientation_of(image) == 1):
                # Pillow, too, has turned a TIFF by now, and then says nothing of an orientation.
                pixels = np.ascontiguousarray(DISPLAYED[orientation](pixels))
            notes += _pages(image)
    except FileNotFoundError:
        raise
    except TOO_LARGE as error:
        raise ImageError(f"more than {MAX_PIXELS // 10**6} million pixels") from error
    except UnidentifiedImageError as error:
        raise ImageError("not an image that Pillow can identify") from error
    except DAMAGE as error:
        raise ImageError(first_line(error)) from error
    notes = (("EXIF orientation applied",) if orientation != 1 else ()) + notes
    verbatim = not notes and kind in ("JPEG", "PNG")
    return DecodedImage(pixels, orientation, stored_size, notes, verbatim)


def frame_of(image: Image.Image) -> tuple[int, tuple[int, int]]:
    """EXIF orientation (1 to 8) of an opened image, and width and height as they are stored."""
    if image.format != "TIFF":
        return orientation_of(image), image.size
    tags = image.tag_v2  # type: ignore[attr-defined]  # `size` may be that of the turned pixels
    return orientation_of(image), (int(tags[_WIDTH]), int(tags[_LENGTH]))


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation; 1, as it is, where the block has none or cannot be read."""
    try:
        value = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Pillow has no common base for what odd blocks raise; the pixels are sound
        return 1
    return value if value in DISPLAYED else 1


def is_deep_colour(image: Image.Image) -> bool:
    """Whether the file has 16 bits a sample of which Pillow would keep 8: colour, or with alpha."""
    part = next(iter(getattr(image, "tile", ())), None)
    layout = part[3] if part and isinstance(part[3], str) else part[3][0] if part else ""
    return not image.mode.startswith("I") and ";16" in str(layout)


def _deep_colour(image: Image.Image, source: BinaryIO) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pixels and notes of an image of 16 bits a sample with more than one sample.

    OpenCV turns a TIFF as its orientation says, and no other file.
    """
    import cv2  # Pillow has no such mode

    source.seek(0)
    pixels = cv2.imdecode(np.frombuffer(source.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise ImageError(f"16-bit pixels of mode {image.mode} cannot be decoded")
    rgb = pixels[..., 2::-1]
    notes = () if image.mode == "RGB" else (f"mode {image.mode} reduced",)
    grey = bool(notes) and bool((rgb == rgb[..., :1]).all())
    return np.ascontiguousarray(rgb[..., 0] if grey else rgb), notes


def _pages(image: Image.Image) -> tuple[str, ...]:
    """A note where the file has more than the one image that was read."""
    try:
        several = getattr(image, "n_frames", 1) > 1
    except DAMAGE:
        return ()
    # In a JPEG the further images are previews of the first (CIPA DC-007).
    return ("first of several pages taken",) if several and image.format != "MPO" else ()


def _shallow(image: Image.Image) -> tuple[np.ndarray, tuple[str, ...]]:
    """Array and notes of an opened image whose bits Pillow keeps."""
    inverted = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
    bits = image.tag_v2.get(_BITS, (0,))[0] if inverted else 0  # type: ignore[attr-defined]
    pixels, notes = _to_array(image)
    if inverted and image.mode.startswith(("I", "F")):
        if pixels.dtype != np.uint16 or not 8 < bits <= 16:
            raise ImageError(f"white is 0 in pixels of {bits} bits: not supported")
        return (2**bits - 1 - pixels).astype(np.uint16), (*notes, "white is 0: inverted")
    return pixels, notes


def _to_array(image: Image.Image) -> tuple[np.ndarray, tuple[str, ...]]:
    """Array and notes of an opened Pillow image."""
    if image.mode in ("L", "RGB"):
        return np.asarray(image), ()
    if image.mode in ("I;16", "I;16L", "I;16B"):
        return np.asarray(image).astype(np.uint16), ()
    if image.mode == "I":
        return _from_int32(np.asarray(image)), ("32-bit integers stored as 16-bit",)
    if image.mode in ("1", "P", "PA", "LA", "RGBA", "CMYK", "YCbCr"):
        rgb = np.asarray(image.convert("RGB"))
        grey = bool((rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 1] == rgb[..., 2]).all())
        return (rgb[..., 0].copy() if grey else rgb), (f"mode {image.mode} reduced",)
    raise ImageError(f"pixel type {image.mode!r} is not supported: use 8- or 16-bit grey or RGB")


def _from_int32(pixels: np.ndarray) -> np.ndarray:
    """16-bit PNGs reach us as 32-bit integers in some Pillow versions; nothing may be lost."""
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ImageError(f"values {pixels.min()} to {pixels.max()} do not fit 16 bits")
    return pixels.astype(np.uint16)

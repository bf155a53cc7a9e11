"""One way from an ordinary image file to an array, for conversion, training and inference.

Grey stays grey, colour becomes RGB, 16 bits stay 16 bits, an EXIF orientation is applied, an
alpha channel is dropped. DICOM is read by `pipeline.dicom`.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
_ORIENTATION = 0x0112
MAX_PIXELS = 300_000_000  # of an image that is read; a slide tile may have as many
# Pillow warns above its limit and stops at twice as many: here the warning is an error.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.simplefilter("error", Image.DecompressionBombWarning)


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
    try:
        with Image.open(source) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            orientation = int(image.getexif().get(_ORIENTATION, 1) or 1)
            stored_size, kind = image.size, image.format
            turned = ImageOps.exif_transpose(image) if 2 <= orientation <= 8 else image
            pixels, notes = _to_array(turned)
    except FileNotFoundError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"more than {MAX_PIXELS // 10**6} million pixels") from error
    except UnidentifiedImageError as error:
        raise ImageError("not an image that Pillow can identify") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(str(error)) from error
    turned_notes = ("EXIF orientation applied",) if 2 <= orientation <= 8 else ()
    notes = turned_notes + notes
    verbatim = not notes and kind in ("JPEG", "PNG")
    return DecodedImage(pixels, orientation, stored_size, notes, verbatim)


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

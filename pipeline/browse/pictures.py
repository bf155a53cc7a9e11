"""Pixels of a browsed image, as it is and as training would see it."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.browse.collection import ImageEntry
from pipeline.data.geometry import shrink
from pipeline.data.images import ImageError, read_image
from pipeline.data.intensity import Intensity, to_uint8
from pipeline.errors import DescryError
from pipeline.predict.sources import Member, SourceError, located

THUMBNAIL, LARGE = 400, 2048  # px, longest side
TRAINING = 1024  # px: what is larger is scaled down before it is augmented, as in training
QUALITY = 90


def read_pixels(entry: ImageEntry, intensity: Intensity) -> np.ndarray:
    """8-bit pixels (H, W) or (H, W, 3) of an ordinary image, a DICOM frame or a zip's member.

    Raises
    ------
    DescryError
        When there is no such file, or it cannot be decoded.
    """
    from pipeline.dicom.errors import DicomError  # ordinary images do without pydicom
    from pipeline.dicom.read.parse import looks_like_dicom

    place = f"{entry.root / entry.file_name}"
    try:
        file = located(entry.root, entry.file_name)
        with file.open("rb") as stream:
            head = stream.read(132)
        return _dicom(file, entry, intensity) if looks_like_dicom(head) else _plain(file, intensity)
    except OSError as error:
        raise DescryError(f"{place}: cannot be opened: {error.strerror}") from None
    except (ImageError, SourceError, DicomError) as error:
        raise DescryError(f"{place}: cannot be decoded: {error}") from None


def _plain(file: Path | Member, intensity: Intensity) -> np.ndarray:
    with file.open("rb") as stream:
        return to_uint8(read_image(stream).pixels, intensity)


def _dicom(file: Path | Member, entry: ImageEntry, intensity: Intensity) -> np.ndarray:
    from pipeline.dicom.read.pixels import read_frame

    return read_frame(file, intensity, entry.frame).pixels


def as_jpeg(pixels: np.ndarray, side: int) -> bytes:
    """A JPEG whose longest side is at most `side` px; 0: its own size."""
    stream = io.BytesIO()
    small = shrink(pixels, side)[0] if side else pixels
    Image.fromarray(small).save(stream, "JPEG", quality=QUALITY, subsampling=0)
    return stream.getvalue()


def augmented(
    pixels: np.ndarray, boxes: np.ndarray, recipe: str, seed: int
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """One draw of a training picture.

    Parameters
    ----------
    pixels : array (H, W) or (H, W, 3), uint8
    boxes : array (n, 4)
        x, y, width, height in pixels.
    recipe : str
        See `pipeline.data.augment`.
    seed : int
        Another one draws another picture.

    Returns
    -------
    pixels, boxes (m, 4) as above, and which of the n boxes each of the m was
    """
    from pipeline.data.augment import augmentation  # albumentations takes seconds

    small, fit = shrink(pixels, TRAINING)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    transform = augmentation(recipe)
    transform.set_random_seed(seed)
    drawn: dict[str, Any] = transform(
        image=small, bboxes=fit.boxes_in(corners), labels=np.arange(len(boxes))
    )
    after = np.asarray(drawn["bboxes"], dtype=np.float64).reshape(-1, 4)
    after[:, 2:] -= after[:, :2]
    return drawn["image"], after, [int(label) for label in drawn["labels"]]

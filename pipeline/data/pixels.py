"""Pixels of a converted image as the model sees them: 8 bits, checked against the COCO file."""

import numpy as np

from pipeline.data.images import ImageError, read_image
from pipeline.data.index import CocoIndex
from pipeline.data.intensity import Intensity, to_uint8
from pipeline.errors import DescryError


def load_pixels(index: CocoIndex, i: int, intensity: Intensity) -> np.ndarray:
    """8-bit pixels of image `i`, checked against the size that the COCO file declares."""
    path = index.file(i)
    try:
        pixels = to_uint8(read_image(path).pixels, intensity)
    except (ImageError, FileNotFoundError) as error:
        raise DescryError(f"{path}: listed in {index.path} but not readable: {error}") from error
    if (pixels.shape[1], pixels.shape[0]) != tuple(index.sizes[i]):
        width, height = index.sizes[i]
        raise DescryError(
            f"{path} is {pixels.shape[1]}x{pixels.shape[0]}, but {index.path} says "
            f"{width}x{height}: convert the dataset again"
        )
    return pixels

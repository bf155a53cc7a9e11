"""The mask of a `Box` as text, on its way to run lengths of the image.

It is the COCO segmentation of the source, or the pixels of a part of the image, whose place is
beside them ("at": [x, y]). Text is small and can be compared, so that a million objects of a scan
stay light. A polygon becomes pixels once, where the size of its image is known.
"""

import json
from collections.abc import Sequence

import numpy as np

from pipeline.data.images import DISPLAYED
from pipeline.data.masks import compressed, decode, encode, encode_part, is_mask, rle


def as_text(part: np.ndarray, x: int, y: int) -> str:
    """An object's pixels in a part (h, w), bool, of its image that begins at column x and row y."""
    return json.dumps({**rle(encode(part), *part.shape), "at": [x, y]})


def segmentation_text(segmentation: object, box: Sequence[float]) -> str:
    """A COCO segmentation; empty where it says no more than its box."""
    return json.dumps(segmentation) if is_mask(segmentation, list(box)) else ""


def turned(mask: str, orientation: int, stored: tuple[int, int]) -> str:
    """The mask of an object of a stored image (width, height) on the image as displayed."""
    counts = compressed(json.loads(mask), stored[1], stored[0]) if mask else None
    if counts is None:
        return ""
    return as_text(DISPLAYED[orientation](decode(counts, stored[1], stored[0])), 0, 0)


def counts_on(mask: str, width: int, height: int, crop: Sequence[int] | None) -> str:
    """Run lengths of a `Box`'s mask on its image, or on the tile `crop` (x, y, width, height).

    Empty where nothing of it is there, or it does not fit the image.
    """
    if not mask:
        return ""
    segmentation, (x, y) = json.loads(mask), (crop[:2] if crop is not None else (0, 0))
    if isinstance(segmentation, list):
        moved = [[v - (x, y)[i % 2] for i, v in enumerate(part)] for part in segmentation]
        counts = compressed(moved, height, width)
        return counts if counts is not None and decode(counts, height, width).any() else ""
    if crop is None and "at" not in segmentation and segmentation["size"] != [height, width]:
        return ""
    counts = compressed(segmentation, *segmentation["size"])
    if counts is None:
        return ""
    left, top = segmentation.get("at", (0, 0))
    return _placed(decode(counts, *segmentation["size"]), left - x, top - y, width, height)


def _placed(part: np.ndarray, x: int, y: int, width: int, height: int) -> str:
    """Run lengths of a part that begins at (x, y); empty where nothing of it is on the image."""
    part = part[max(-y, 0) : max(height - y, 0), max(-x, 0) : max(width - x, 0)]
    return encode_part(part, max(x, 0), max(y, 0), height, width) if part.any() else ""

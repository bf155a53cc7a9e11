"""Mosaics: training pictures that are put together of parts of four (YOLOv4, arXiv 2004.10934).

There four whole pictures are shrunk, cut and scaled again; here each gives a rectangle at the scale
that it has anyway, so that what an object's size says is kept. For pictures of many things without
a fixed place, such as cells; an X-ray put together of four is no X-ray.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.data.augment import MIN_VISIBILITY

NARROWEST = 0.25  # share of a side that a part has at least
_DRAWS = 2  # tells the stream of these draws from that of sizes and of the order


class Picture(NamedTuple):
    """A square (S, S) or (S, S, 3), uint8; its boxes (n, 4) xyxy in pixels; their labels (n,).

    With masks also those, (n, S, S), uint8, 0 to 255.
    """

    square: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None = None


def partners(
    seed: int, place: Sequence[int], images: int, share: float
) -> tuple[list[int], np.random.Generator]:
    """Three more images for a mosaic at a place (epoch, image), or none, and what else draws."""
    rng = np.random.default_rng((seed, *place, _DRAWS))
    chosen = rng.random() < share
    return rng.integers(images, size=3).tolist() if chosen else [], rng


def mosaic(parts: Sequence[Picture], rng: np.random.Generator) -> Picture:
    """One picture of parts of four of one size, which meet in a random point.

    A box is kept if enough of it is still to be seen, as in augmentation, and cut to its part.
    """
    side = len(parts[0].square)
    colour = any(part.square.ndim == 3 for part in parts)
    canvas = np.zeros((side, side, 3) if colour else (side, side), np.uint8)
    low = round(NARROWEST * side)
    x, y = (int(at) for at in rng.integers(low, side - low, size=2, endpoint=True))
    corners = ((0, 0, x, y), (x, 0, side, y), (0, y, x, side), (x, y, side, side))
    boxes, labels, masks = [], [], []
    for part, (x0, y0, x1, y1) in zip(parts, corners, strict=True):
        right, down = (int(rng.integers(side - n, endpoint=True)) for n in (x1 - x0, y1 - y0))
        cut = part.square[down : down + y1 - y0, right : right + x1 - x0]
        canvas[y0:y1, x0:x1] = cut[..., None] if colour and cut.ndim == 2 else cut
        moved = part.boxes + np.array([x0 - right, y0 - down] * 2, np.float32)
        seen = np.clip(moved, (x0, y0, x0, y0), (x1, y1, x1, y1)).astype(np.float32)
        keep = _area(seen) >= MIN_VISIBILITY * _area(moved)
        boxes.append(seen[keep])
        labels.append(part.labels[keep])
        if part.masks is not None:
            shown = np.zeros((int(keep.sum()), side, side), np.uint8)
            shown[:, y0:y1, x0:x1] = part.masks[
                keep, down : down + y1 - y0, right : right + x1 - x0
            ]
            masks.append(shown)
    joined = np.concatenate(masks) if masks else None
    return Picture(canvas, np.concatenate(boxes), np.concatenate(labels), joined)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])

"""Which boxes overlap: pairs of a detection and an object with a sufficient IoU, sparse.

The arithmetic is that of pycocotools (`bbIou` in its maskApi.c) in the same order and precision,
so that a pair at exactly a threshold falls on the same side: the intersection over the union,
and over the detection's own area where the object is a crowd.
"""

from collections.abc import Iterator

import numpy as np

CHUNK = 2_000_000  # pairs computed at once, about 200 MB at their peak


def overlaps(
    boxes: np.ndarray,
    keys: np.ndarray,
    objects: np.ndarray,
    object_keys: np.ndarray,
    crowd: np.ndarray,
    minimum: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of equal key with an IoU of at least `minimum`.

    Parameters
    ----------
    boxes, objects : array (d, 4) and (m, 4)
        x, y, width, height in pixels.
    keys, object_keys : array (d,) and (m,), int
        What must be equal to be compared (the image, or image and class); `object_keys` ascend.
    crowd : array (m,), bool

    Returns
    -------
    (array (p,), array (p,), array (p,))
        Row of the detection (ascending), row of the object (ascending for equal detections), IoU.
    """
    first = np.searchsorted(object_keys, keys, "left")
    counts = np.searchsorted(object_keys, keys, "right") - first
    parts = [
        _pairs(rows, first, counts, boxes, objects, crowd, minimum) for rows in _chunks(counts)
    ]
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    d, g, iou = (np.concatenate(column) for column in zip(*parts, strict=True))
    return d, g, iou


def _chunks(counts: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of detections that have something to compare, about `CHUNK` pairs at a time."""
    rows = np.flatnonzero(counts)
    part = np.cumsum(counts[rows]) // CHUNK
    yield from np.split(rows, np.flatnonzero(np.diff(part)) + 1) if len(rows) else []


def _pairs(
    rows: np.ndarray,
    first: np.ndarray,
    counts: np.ndarray,
    boxes: np.ndarray,
    objects: np.ndarray,
    crowd: np.ndarray,
    minimum: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = counts[rows]
    d = np.repeat(rows, n)
    within = np.arange(len(d)) - np.repeat(np.cumsum(n) - n, n)
    g = np.repeat(first[rows], n) + within
    iou = paired_iou(boxes[d], objects[g], crowd[g])
    enough = iou >= minimum
    return d[enough], g[enough], iou[enough]


def paired_iou(boxes: np.ndarray, objects: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of row i of `boxes` with row i of `objects`, both (n, 4) x, y, width, height."""
    dx, dy, dw, dh = boxes.T
    gx, gy, gw, gh = objects.T
    width = np.minimum(dw + dx, gw + gx) - np.maximum(dx, gx)
    height = np.minimum(dh + dy, gh + gy) - np.maximum(dy, gy)
    touching = (width > 0) & (height > 0)
    shared = np.where(touching, width * height, 0.0)
    own = dw * dh
    union = np.where(crowd, own, own + gw * gh - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=touching)

"""Masks of objects: run lengths as COCO writes them, and soft masks on a grid over an image.

A pixel's centre is at (column + 0.5, row + 0.5): the top left corner of an image is 0, 0. The C
code of pycocotools does the run lengths, and is imported by whoever has masks only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import cv2
import numpy as np

CELL = 4  # px of the square that a model sees, the side of a cell in which it learns masks
INSIDE = 0.5  # from this value on a pixel of a soft mask belongs to the object


def encode(mask: np.ndarray) -> str:
    """COCO's compressed run lengths of a mask (H, W), bool."""
    from pycocotools import mask as coco

    return coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode("ascii")


def encode_part(part: np.ndarray, x: int, y: int, height: int, width: int) -> str:
    """Run lengths of a mask that lies in a part (h, w) of its image, from column x and row y on.

    They run down the columns, so that no more than the part's columns need to be looked at.
    """
    from pycocotools import mask as coco

    columns = np.zeros((height, part.shape[1]), dtype=bool)
    columns[y : y + part.shape[0]] = part
    flat = columns.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    before, after = x * height, (width - x - part.shape[1]) * height
    runs = [before, *runs] if flat[0] else [before + runs[0], *runs[1:]]
    if flat[-1] or not after:
        runs += [after] if after else []
    else:
        runs[-1] += after
    plain = {"size": [height, width], "counts": runs}
    return coco.frPyObjects(plain, height, width)["counts"].decode("ascii")


def decode(counts: str, height: int, width: int) -> np.ndarray:
    """The mask (H, W), bool, of compressed run lengths."""
    from pycocotools import mask as coco

    return coco.decode(rle(counts, height, width)).astype(bool)


def area(counts: str, height: int, width: int) -> int:
    """Pixels of a mask."""
    from pycocotools import mask as coco

    return int(coco.area(rle(counts, height, width)))


def rle(counts: str, height: int, width: int) -> dict[str, Any]:
    """A COCO segmentation of run lengths."""
    return {"size": [int(height), int(width)], "counts": counts}


def compressed(segmentation: object, height: int, width: int) -> str | None:
    """Compressed run lengths of a COCO segmentation of an image of that size.

    Parameters
    ----------
    segmentation : object
        Polygons, or run lengths, plain or compressed.

    Returns
    -------
    str or None
        None for what is no segmentation of such an image.
    """
    from pycocotools import mask as coco

    if isinstance(segmentation, dict) and is_run_lengths(segmentation):
        if segmentation["size"] != [height, width]:
            return None
        if isinstance(segmentation["counts"], str):
            return segmentation["counts"]
        return coco.frPyObjects(segmentation, height, width)["counts"].decode("ascii")
    if not _are_polygons(segmentation):
        return None
    parts = coco.frPyObjects([[float(v) for v in p] for p in segmentation], height, width)
    return coco.merge(parts)["counts"].decode("ascii")


def is_run_lengths(value: Mapping[str, Any]) -> bool:
    """Whether this is a run-length mask; the C code behind pycocotools does not check."""
    size, counts = value.get("size"), value.get("counts")
    if not isinstance(size, list) or len(size) != 2:
        return False
    if not all(isinstance(v, int) and 0 < v < 2**15 for v in size):
        return False
    if isinstance(counts, list):
        whole = all(isinstance(v, int) and v >= 0 for v in counts)
        return whole and sum(counts) == size[0] * size[1]
    return isinstance(counts, str)


def _are_polygons(value: object) -> TypeGuard[list[list[float]]]:
    return isinstance(value, list) and bool(value) and all(map(_is_polygon, value))


def _is_polygon(points: object) -> bool:
    if not isinstance(points, list) or len(points) < 6 or len(points) % 2:
        return False
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in points)
    return numbers and bool(np.isfinite(points).all())


def outline(x: float, y: float, width: float, height: float) -> list[list[float]]:
    """The segmentation of an object of which only the box is known.

    Readers of COCO files want one (pycocotools' annToMask).
    """
    right, bottom = x + width, y + height
    return [[x, y, right, y, right, bottom, x, bottom]]


def is_mask(segmentation: object, bbox: list[float]) -> bool:
    """Whether a COCO segmentation says more than its box [x, y, width, height]."""
    if isinstance(segmentation, dict):
        return is_run_lengths(segmentation)
    if not _are_polygons(segmentation):
        return False
    if len(segmentation) > 1 or len(segmentation[0]) not in (8, 10):
        return True
    corners = np.reshape(segmentation[0], (-1, 2))
    box = np.reshape(outline(*bbox)[0], (-1, 2))
    away = np.abs(corners[:, None] - box[None]).max(axis=2)  # (corners, 4)
    return bool((away.min(axis=1) > 0.5).any() or (away.min(axis=0) > 0.5).any())


@dataclass(frozen=True, slots=True)
class SoftMask:
    """How likely an object is, on a grid of cells over an image, and 0 outside of the grid.

    Attributes
    ----------
    values : array (h, w), float32
        Of the cells' centres, 0 to 1.
    left, top : float
        Corner of the first cell in pixels of the image.
    step_x, step_y : float
        Width and height of a cell in pixels.
    """

    values: np.ndarray
    left: float
    top: float
    step_x: float
    step_y: float

    def scaled(self, x: float, y: float) -> "SoftMask":
        """On the image scaled by `x` and `y`."""
        steps = (self.step_x * x, self.step_y * y)
        return SoftMask(self.values, self.left * x, self.top * y, *steps)

    def shifted(self, x: float, y: float) -> "SoftMask":
        """On an image that begins `x` and `y` pixels farther to the left and top."""
        return replace(self, left=self.left + x, top=self.top + y)

    def mirrored(self, width: float) -> "SoftMask":
        """On the image of this width, mirrored left to right."""
        left = width - self.left - self.step_x * self.values.shape[1]
        return replace(self, values=np.ascontiguousarray(self.values[:, ::-1]), left=left)

    def pixels(self, height: int, width: int, box: np.ndarray) -> np.ndarray:
        """The object's pixels (H, W), bool: values by bilinear interpolation, inside the box.

        Parameters
        ----------
        height, width : int
            Of the image.
        box : array (4,)
            xyxy in pixels; pixels that it touches count as inside.
        """
        mask = np.zeros((height, width), dtype=bool)
        x1, y1 = np.maximum(np.floor(box[:2]), 0).astype(int).tolist()
        x2, y2 = np.minimum(np.ceil(box[2:]), (width, height)).astype(int).tolist()
        if x2 <= x1 or y2 <= y1:
            return mask
        across = (np.arange(x1, x2) + 0.5 - self.left) / self.step_x - 0.5
        down = (np.arange(y1, y2) + 0.5 - self.top) / self.step_y - 0.5
        columns, rows = np.meshgrid(across.astype(np.float32), down.astype(np.float32))
        found = cv2.remap(
            self.values, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        mask[y1:y2, x1:x2] = found >= INSIDE
        return mask


def soft_masks(cells: np.ndarray, boxes: np.ndarray) -> list[SoftMask]:
    """What lies in and around each box of maps in cells of `CELL` px.

    Parameters
    ----------
    cells : array (n, h, w), 0 to 1
    boxes : array (n, 4)
        xyxy in pixels.
    """
    found = []
    for values, box in zip(cells, boxes, strict=True):
        x1, y1 = np.maximum(np.floor(box[:2] / CELL).astype(int) - 1, 0).tolist()
        x2, y2 = (np.ceil(box[2:] / CELL).astype(int) + 1).tolist()
        cut = np.ascontiguousarray(values[y1:y2, x1:x2], dtype=np.float32)
        found.append(SoftMask(cut, x1 * CELL, y1 * CELL, CELL, CELL))
    return found

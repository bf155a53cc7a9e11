"""Objects from masks: index images (one value per object), object masks, COCO segmentations.

A box is the smallest whole-pixel rectangle that covers an object: a single pixel at column 3,
row 5 gives x=3, y=5, width=1, height=1.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from scipy import ndimage

from pipeline.convert.records import Unreadable
from pipeline.convert.segmentation import as_text
from pipeline.data.images import DAMAGE, ImageError, is_deep_colour, opened
from pipeline.data.masks import is_run_lengths
from pipeline.errors import first_line

Extent = tuple[float, float, float, float]  # x, y, width, height in pixels
Found = tuple[Extent, str]  # of an object, with its mask as a `Box` holds it


@dataclass(frozen=True, slots=True)
class Mask:
    """One mask file.

    Attributes
    ----------
    values : array (H, W), integer
    exact : bool
        False for JPEG, which changes the values around every edge.
    palette : bool
        The values are indices of a palette, as in Pascal VOC, where 255 means "not labelled".
    """

    values: np.ndarray
    exact: bool = True
    palette: bool = False


def read_mask(path: Path) -> Mask:
    """Decode a mask to its stored values: palette indices, grey levels, or 24-bit colours.

    A palette image gives its indices (not its colours), grey its levels at 8 or 16 bits, an RGB
    image ``red * 65536 + green * 256 + blue``; an alpha channel is dropped.

    Raises
    ------
    ImageError
        When the file cannot be decoded completely.
    FileNotFoundError
        When it does not exist.
    """
    try:
        with opened(path) as stream, Image.open(stream) as image:
            exact, palette = image.format not in ("JPEG", "MPO"), image.mode in ("P", "PA")
            return Mask(_values(image), exact, palette)
    except FileNotFoundError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"not an image that Pillow can identify ({error})") from error
    except DAMAGE as error:
        raise ImageError(first_line(error)) from error


def mask_of(raw: Path, mask: str, size: tuple[int, int]) -> Mask:
    """The mask of an image of `size` (width, height), as displayed.

    Raises
    ------
    Unreadable
        When the mask is missing, corrupt or of another size.
    """
    try:
        found = read_mask(raw / mask)
    except FileNotFoundError as error:
        raise Unreadable("mask file missing", mask) from error
    except ImageError as error:
        raise Unreadable("corrupt mask", f"{mask}: {error}") from error
    height, width = found.values.shape
    if (width, height) != size:
        detail = f"{mask}: {(width, height)}, image {size}"
        raise Unreadable("mask size differs from image size", detail)
    return found


def _values(image: Image.Image) -> np.ndarray:
    """Stored values of an opened mask, (H, W)."""
    if is_deep_colour(image):
        raise ImageError(f"a mask of 16-bit colours (mode {image.mode}) is not supported")
    if image.mode in ("1", "P", "L", "I", "I;16", "I;16L", "I;16B"):
        return np.asarray(image).astype(np.int64)
    if image.mode in ("LA", "PA"):
        return np.asarray(image.getchannel(0)).astype(np.int64)
    if image.mode not in ("RGB", "RGBA"):
        raise ImageError(f"pixel type {image.mode!r} is not one of a mask")
    rgb = np.asarray(image.convert("RGB")).astype(np.int64)
    if (rgb == rgb[..., :1]).all():
        return rgb[..., 0]
    return rgb @ np.array([65536, 256, 1])


def index_objects(values: np.ndarray) -> list[tuple[int, Found]]:
    """What has every value but 0 in an index mask (H, W), by ascending value."""
    found, packed = np.unique(values, return_inverse=True)
    slices = ndimage.find_objects(packed.reshape(values.shape) + 1)  # value found[i] is label i + 1
    pairs = zip(found, slices, strict=True)
    return [(int(v), _found(values[s] == v, s)) for v, s in pairs if v != 0]


def has_soft_edges(values: np.ndarray) -> bool:
    """Whether most values of a mask (H, W) are shades of an edge and not objects.

    Scaled with interpolation, a mask of 0 and 255 has values between along its edges, each in
    single pixels. So it has when it reaches white and no 2 x 2 pixels are of one value for more
    than half of the values other than 0.
    """
    present = np.unique(values[values != 0])
    if len(present) < 3 or present[-1] not in (255, 65535):
        return False
    corner = values[:-1, :-1]
    same = (corner == values[1:, :-1]) & (corner == values[:-1, 1:]) & (corner == values[1:, 1:])
    return len(np.unique(corner[same & (corner != 0)])) < len(present) / 2


def without_void(mask: Mask) -> tuple[np.ndarray, bool]:
    """Values with 255 as background where it marks what is not labelled; and whether it does.

    It does in 8 bits beside other values, if those are indices of a palette or 1, 2, 3, ... n.
    """
    present = np.unique(mask.values[mask.values != 0])
    if len(present) < 2 or present[-1] != 255:
        return mask.values, False
    others = present[:-1]
    counted = len(others) < 254 and np.array_equal(others, np.arange(1, len(others) + 1))
    if not (mask.palette or counted):
        return mask.values, False
    return np.where(mask.values == 255, 0, mask.values), True


def foreground(values: np.ndarray) -> np.ndarray:
    """Object pixels (H, W, bool) of an object mask that is 0 outside.

    Masks of 0 and 255 (or 65535) may have soft edges: a pixel belongs to the object above half
    of the range. A mask that stays in the lower half holds indices: all but 0 is object.
    """
    half = 127 if values.max() <= 255 else 32767
    return values > (half if values.max() > half else 0)


def whole_object(objects: np.ndarray) -> Found | None:
    """All object pixels of (H, W, bool) as one object; None when there are none."""
    slices = ndimage.find_objects(objects.astype(np.uint8))
    return _found(objects[slices[0]], slices[0]) if slices else None


def component_objects(objects: np.ndarray, smallest: int) -> tuple[list[Found], int]:
    """The 8-connected components of (H, W, bool), and the number of specks left out.

    Parameters
    ----------
    objects : array (H, W), bool
    smallest : int
        Components of fewer pixels are specks.
    """
    labels, count = ndimage.label(objects, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    slices = ndimage.find_objects(labels)
    kept = [
        _found(labels[where] == number, where)
        for number, (where, size) in enumerate(zip(slices, sizes, strict=True), start=1)
        if size >= smallest
    ]
    return kept, count - len(kept)


def _found(part: np.ndarray, slices: tuple[slice, slice]) -> Found:
    rows, columns = slices
    return _extent(slices), as_text(part, columns.start, rows.start)


def _extent(slices: tuple[slice, slice]) -> Extent:
    rows, columns = slices
    width, height = columns.stop - columns.start, rows.stop - rows.start
    return float(columns.start), float(rows.start), float(width), float(height)


def segmentation_extent(segmentation: object) -> Extent | None:
    """Box of a COCO segmentation: polygons, or a run-length mask, plain or compressed.

    Returns None when there is nothing to measure or the value is not a COCO segmentation.
    """
    if isinstance(segmentation, list):
        return _polygon_extent(segmentation)
    if not isinstance(segmentation, dict) or not is_run_lengths(segmentation):
        return None
    from pycocotools import mask as coco_mask  # only these masks need it

    height, width = segmentation["size"]
    if isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, height, width)
    x, y, w, h = (float(v) for v in coco_mask.toBbox(segmentation))
    inside = x >= 0 and y >= 0 and x + w <= width and y + h <= height
    return (x, y, w, h) if inside and w > 0 and h > 0 else None


def _polygon_extent(polygons: list[object]) -> Extent | None:
    """Box of the corners of a list of ``[x1, y1, x2, y2, ...]``."""
    try:
        points = [np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in polygons]
    except (TypeError, ValueError):
        return None
    corners = np.concatenate([np.zeros((0, 2)), *points])
    if len(corners) < 2 or not np.isfinite(corners).all():
        return None
    (x0, y0), (x1, y1) = corners.min(0), corners.max(0)
    if x1 <= x0 or y1 <= y0:
        return None
    return float(x0), float(y0), float(x1 - x0), float(y1 - y0)

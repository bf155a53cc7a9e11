"""Boxes of a turned image: from the frame of the stored pixels to the displayed one.

EXIF tag 0x0112 (Exif 2.32, 4.6.4 A) says how the stored pixels are to be turned for display.
"""

from collections.abc import Callable
from dataclasses import replace

from pipeline.convert.records import Box, Unreadable
from pipeline.data.images import DecodedImage

AMBIGUOUS = "EXIF orientation: the annotation's size does not tell its frame, taken as displayed"
TURNED = "EXIF orientation: boxes turned with the image"

Rectangle = tuple[float, float, float, float]  # x, y, width, height

# By orientation: the displayed rectangle of a stored one in stored pixels of width W, height H.
_DISPLAYED: dict[int, Callable[[float, float, float, float, int, int], Rectangle]] = {
    2: lambda x, y, w, h, W, H: (W - x - w, y, w, h),
    3: lambda x, y, w, h, W, H: (W - x - w, H - y - h, w, h),
    4: lambda x, y, w, h, W, H: (x, H - y - h, w, h),
    5: lambda x, y, w, h, W, H: (y, x, h, w),
    6: lambda x, y, w, h, W, H: (H - y - h, x, h, w),
    7: lambda x, y, w, h, W, H: (H - y - h, W - x - w, h, w),
    8: lambda x, y, w, h, W, H: (y, W - x - w, h, w),
}


def turn(box: Box, orientation: int, stored: tuple[int, int]) -> Box:
    """Box in displayed pixels of a `box` in stored pixels (`stored`: width and height)."""
    if orientation not in _DISPLAYED:
        return box
    x, y, w, h = _DISPLAYED[orientation](box.x, box.y, box.width, box.height, *stored)
    return replace(box, x=x, y=y, width=w, height=h)


def in_displayed_frame(
    boxes: tuple[Box, ...], declared: tuple[int, int] | None, image: DecodedImage
) -> tuple[tuple[Box, ...], tuple[str, ...]]:
    """Boxes in the frame of the decoded pixels, and notes.

    The size that the annotation declares tells which frame its boxes are of. Without one, or
    where both frames have the same size (squares, half turns, mirrors), they count as displayed,
    which is what annotation tools show, and a note says so.

    Raises
    ------
    Unreadable
        When the declared size is that of neither frame: the boxes are of another image.
    """
    height, width = image.pixels.shape[:2]
    check_size(declared, (width, height), image.stored_size)
    if image.orientation not in _DISPLAYED or not boxes:
        return boxes, ()
    if declared is None or (width, height) == image.stored_size:
        return boxes, (AMBIGUOUS,)
    if declared == (width, height):
        return boxes, ()
    return tuple(turn(b, image.orientation, image.stored_size) for b in boxes), (TURNED,)


def check_size(declared: tuple[int, int] | None, *actual: tuple[int, int]) -> None:
    """Refuse an annotation that declares none of the sizes (width, height) that the file has.

    Raises
    ------
    Unreadable
        Its boxes are of another image.
    """
    if declared is not None and declared not in actual:
        (width, height), (w, h) = actual[0], declared
        detail = f"declared {w} x {h}, the file has {width} x {height}"
        raise Unreadable("image size differs from the annotation", detail)

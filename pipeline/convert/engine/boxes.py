"""The rules by which a box of the raw data enters the output."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from pipeline.convert.records import Box, Drop

SMALLEST_SIDE = 1.0  # pixels
ROUNDING = 0.01  # pixels; normalised coordinates of six digits are off by less

NOT_FINITE = "coordinates not finite"
NO_SIZE = "zero or negative size"
OUTSIDE = "outside the image"
TOO_SMALL = "under 1 pixel on a side inside the image"
REPEATED = "the same box again"

RULES = (
    f"A box with a coordinate that is NaN or infinite is dropped ({NOT_FINITE!r}).",
    f"A box of zero or negative width or height is dropped ({NO_SIZE!r}).",
    f"A box without any pixel inside the image is dropped ({OUTSIDE!r}).",
    f"A box partly outside is clipped; it counts as clipped if more than {ROUNDING} pixels go.",
    f"A box whose part inside is narrower or lower than 1 pixel is dropped ({TOO_SMALL!r}).",
    f"A box that equals an earlier one of its image and class is dropped ({REPEATED!r}).",
)


@dataclass(slots=True)
class CheckedBoxes:
    """Boxes of one image after the rules.

    Attributes
    ----------
    boxes : list of Box
        Inside the image, at least 1 pixel wide and high.
    clipped : int
        How many of them were cut at the image's edge.
    drops : list of Drop
    """

    boxes: list[Box] = field(default_factory=list)
    clipped: int = 0
    drops: list[Drop] = field(default_factory=list)


def check_boxes(boxes: Iterable[Box], width: int, height: int, image: str) -> CheckedBoxes:
    """Apply the rules to the boxes of one image; their order is kept.

    In turn: a box with a coordinate that is not finite is dropped; of zero or negative size,
    dropped; wholly outside of the image, dropped; partly outside, clipped (and counted when more
    than `ROUNDING` pixels are cut off); what then is under `SMALLEST_SIDE` on a side, dropped; and
    what then equals an earlier box in place, size, class and crowd, dropped.

    Parameters
    ----------
    width, height : int
        Size of the image in pixels.
    image : str
        Stands for the place of a box that names none.
    """
    checked, seen = CheckedBoxes(), set()
    for box in boxes:
        inside = clip(box, width, height)
        reason = _refusal(box, inside) or (REPEATED if _identity(inside) in seen else "")
        if reason:
            detail = f"{box.label}: x {box.x} y {box.y} width {box.width} height {box.height}"
            detail += f" in {width} x {height}"
            checked.drops.append(Drop("box", box.where or image, reason, detail))
            continue
        seen.add(_identity(inside))
        checked.boxes.append(inside)
        checked.clipped += _cut(box, inside) > ROUNDING
    return checked


def clip(box: Box, width: int, height: int) -> Box:
    """Part of `box` inside an image of `width` x `height` pixels; unchanged if it is all."""
    left, top = max(box.x, 0.0), max(box.y, 0.0)
    right, bottom = min(box.x + box.width, width), min(box.y + box.height, height)
    if (left, top) == (box.x, box.y) and (right, bottom) == (box.x + box.width, box.y + box.height):
        return box
    return replace(box, x=left, y=top, width=right - left, height=bottom - top)


def _identity(box: Box) -> tuple[object, ...]:
    """What two annotations of one object have in common; not the row that they come from."""
    return box.x, box.y, box.width, box.height, box.label, box.iscrowd, box.mask


def _refusal(box: Box, inside: Box) -> str:
    """Why the box is dropped; empty if it is not."""
    if not all(math.isfinite(v) for v in (box.x, box.y, box.width, box.height)):
        return NOT_FINITE
    if box.width <= 0 or box.height <= 0:
        return NO_SIZE
    if inside.width <= 0 or inside.height <= 0:
        return OUTSIDE
    if min(inside.width, inside.height) < SMALLEST_SIDE:
        return TOO_SMALL
    return ""


def _cut(box: Box, inside: Box) -> float:
    """Pixels cut off at the edge that lost most."""
    return max(
        inside.x - box.x,
        inside.y - box.y,
        box.x + box.width - inside.x - inside.width,
        box.y + box.height - inside.y - inside.height,
    )

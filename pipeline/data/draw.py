"""Boxes drawn on images, for people."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Distinguishable for most colour-blind readers, after Okabe and Ito (2008).
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0))
_INK = (0, 0, 0)


def draw_boxes(
    pixels: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
    line: int = 0,
) -> Image.Image:
    """A copy of an image with labelled boxes.

    Parameters
    ----------
    pixels : array (H, W) or (H, W, 3), uint8
    boxes : array (n, 4)
        xyxy in pixels.
    labels : sequence of n texts
        Drawn at the box; an empty text draws nothing.
    colours : sequence of n RGB triples
    line : int
        Width in pixels; 0 goes by the size of the image.
    """
    image = Image.fromarray(pixels).convert("RGB")
    canvas = ImageDraw.Draw(image)
    longer = max(image.size)
    font = ImageFont.load_default(max(10, longer // 45))
    line = line or max(1, longer // 300)
    for box, label, colour in zip(boxes.tolist(), labels, colours, strict=True):
        canvas.rectangle(box, outline=colour, width=line)
        if label:
            _tag(canvas, box, label, colour, font)
    return image


def _tag(
    canvas: ImageDraw.ImageDraw,
    box: Sequence[float],
    label: str,
    colour: tuple[int, int, int],
    font: "ImageFont.ImageFont | ImageFont.FreeTypeFont",
) -> None:
    """A label on a filled ground above the box, or inside where there is no room above."""
    _, _, width, height = canvas.textbbox((0, 0), label, font=font)
    x = max(0.0, min(box[0], canvas.im.size[0] - width - 4))
    y = box[1] - height - 2 if box[1] >= height + 2 else box[1]
    canvas.rectangle((x, y, x + width + 4, y + height + 2), fill=colour)
    canvas.text((x + 2, y), label, fill=_INK, font=font)


def side_by_side(left: Image.Image, right: Image.Image, titles: tuple[str, str]) -> Image.Image:
    """Two images of equal size beside each other under their titles."""
    font = ImageFont.load_default(14)
    gap, head = 8, 22
    page = Image.new("RGB", (left.width * 2 + gap, left.height + head), (255, 255, 255))
    canvas = ImageDraw.Draw(page)
    for x, image, title in ((0, left, titles[0]), (left.width + gap, right, titles[1])):
        canvas.text((x + 2, 2), title, fill=_INK, font=font)
        page.paste(image, (x, head))
    return page

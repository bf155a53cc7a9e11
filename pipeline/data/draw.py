"""Boxes drawn on images, for people."""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Distinguishable for most colour-blind readers, after Okabe and Ito (2008).
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0))
_INK = (0, 0, 0)


Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
Rectangle = tuple[float, float, float, float]
Line = list[tuple[float, float]]  # x and y of its points


def draw_boxes(
    pixels: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    colours: Sequence[tuple[int, int, int]],
    line: int = 0,
    outlines: Sequence[Sequence[Line]] = (),
) -> Image.Image:
    """A copy of an image with labelled boxes and the contours of masks; the last lies on top.

    Parameters
    ----------
    pixels : array (H, W) or (H, W, 3), uint8
    boxes : array (n, 4)
        xyxy in pixels.
    labels : sequence of n texts
        Drawn at the box, unless that would cover a later box's; an empty text draws nothing.
    colours : sequence of n RGB triples
    line : int
        Width in pixels; 0 goes by the size of the image.
    outlines : sequence of n sequences of lines
        Of masks, from `contours`; none of a box without a mask. May be left out.
    """
    image = Image.fromarray(pixels).convert("RGB")
    canvas = ImageDraw.Draw(image)
    font = label_font(image.size)
    line = line or max(1, round(max(image.size) / 500))
    for i, (box, colour) in enumerate(zip(boxes.tolist(), colours, strict=True)):
        lines = outlines[i] if outlines else ()
        # beside a contour the box is an aid only
        canvas.rectangle(box, outline=colour, width=max(1, line // 2) if lines else line)
        for contour in lines:
            canvas.line([*contour, contour[0]], fill=colour, width=line, joint="curve")
    places = place_labels(image.size, boxes, labels)
    for place, label, colour in zip(places, labels, colours, strict=True):
        if place is not None:
            canvas.rectangle(place, fill=colour)
            canvas.text((place[0] + 2, place[1]), label, fill=_INK, font=font)
    return image


def contours(mask: np.ndarray, size: tuple[int, int]) -> list[Line]:
    """Closed lines around the parts and holes of a mask (h, w), bool, of the same image.

    `size` is (width, height) of the image that is drawn on, which may be another than the mask's.
    """
    import cv2  # only where masks are drawn

    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    scale = np.array(size) / mask.shape[::-1]
    return [[(x, y) for x, y in ((line[:, 0] + 0.5) * scale).tolist()] for line in found]


def label_font(size: tuple[int, int]) -> Font:
    """The font of labels on an image of (width, height)."""
    return ImageFont.load_default(max(10, max(size) // 60))


def place_labels(
    size: tuple[int, int], boxes: np.ndarray, labels: Sequence[str]
) -> list[Rectangle | None]:
    """Where each label stands so that none covers another; None where there is no room.

    Above its box, else inside it, else below, on its left, else on its right side; the last box
    chooses first.
    """
    font, taken = label_font(size), list[Rectangle]()
    places: list[Rectangle | None] = [None] * len(labels)
    for i in reversed(range(len(labels))):
        if not labels[i]:
            continue
        _, _, width, height = font.getbbox(labels[i])
        for place in _candidates(boxes[i].tolist(), width + 4, height + 2, size):
            if not any(_touch(place, other) for other in taken):
                taken.append(place)
                places[i] = place
                break
    return places


def _candidates(
    box: Sequence[float], width: float, height: float, size: tuple[int, int]
) -> Iterator[Rectangle]:
    """Places for a label of this width and height, inside the image where that can be."""
    for y in (box[1] - height, box[1], box[3] - height, box[3]):
        if 0 <= y <= size[1] - height:
            for left in (box[0], box[2] - width):
                x = max(0.0, min(left, size[0] - width))
                yield x, y, x + width, y + height


def _touch(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


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

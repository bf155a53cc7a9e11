"""Maps over an image as pictures with a legend: colours, panels, points."""

import io
from collections.abc import Sequence
from math import ceil, sqrt
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.atomic import replacing
from pipeline.data.intensity import Intensity
from pipeline.errors import DescryError
from pipeline.predict.decode import Reader
from pipeline.predict.formats.format import MARK
from pipeline.predict.records import Ended, Picture

SIDE = 448  # px, longer side of a single picture
PANEL = 128  # px, longer side of a panel among several
_MIX = 0.6  # share of the map's colour over the image
_GAP, _LINE = 6, 16
_INK, _PAPER = (0, 0, 0), (255, 255, 255)


def table(name: str, entries: int = 256) -> np.ndarray:
    """Colours of a matplotlib map, (entries, 3) uint8."""
    colours = matplotlib.colormaps[name](np.linspace(0.0, 1.0, entries))
    return np.rint(colours[:, :3] * 255).astype(np.uint8)


def fitted(pixels: np.ndarray, longer: int) -> Image.Image:
    """An 8-bit image (H, W) or (H, W, 3) as RGB, scaled to a longer side in pixels."""
    image = Image.fromarray(pixels).convert("RGB")
    scale = longer / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BILINEAR)


def heat(image: Image.Image, values: np.ndarray, low: float, high: float) -> Image.Image:
    """A map (h, w) over an image, from `low` (dark) to `high` (bright), interpolated."""
    unit = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros(values.shape)
    smooth = Image.fromarray(unit.astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR)
    index = np.rint(np.clip(np.asarray(smooth), 0, 1) * 255).astype(np.uint8)
    return Image.blend(image, Image.fromarray(table("viridis")[index]), _MIX)


def regions(image: Image.Image, members: np.ndarray, count: int) -> Image.Image:
    """Which of `count` regions each position (h, w) belongs to, as colours over an image."""
    colours = table("hsv", count + 1)[:count]
    coloured = Image.fromarray(colours[members]).resize(image.size, Image.Resampling.NEAREST)
    return Image.blend(image, coloured, _MIX)


def dots(image: Image.Image, points: np.ndarray) -> Image.Image:
    """Points (G, n, 3) as (y, x) from 0 to 1 and weight, a colour per group, area by weight."""
    picture = image.copy()
    canvas = ImageDraw.Draw(picture)
    usual = max(image.size) / 100  # px, radius at the mean weight
    for group, colour in zip(points, table("hsv", len(points) + 1), strict=False):
        for y, x, weight in (group * (image.height, image.width, len(group))).tolist():
            radius = max(1.5, usual * sqrt(weight))
            box = (x - radius, y - radius, x + radius, y + radius)
            canvas.ellipse(box, fill=tuple(colour.tolist()), outline=_INK)
    return picture


def cross(image: Image.Image, point: tuple[float, float]) -> Image.Image:
    """A mark at a point (x, y) from 0 to 1."""
    picture, arm = image.copy(), max(image.size) // 50
    canvas = ImageDraw.Draw(picture)
    x, y = point[0] * image.width, point[1] * image.height
    for ink, width in ((_INK, 4), (_PAPER, 2)):
        canvas.line((x - arm, y, x + arm, y), fill=ink, width=width)
        canvas.line((x, y - arm, x, y + arm), fill=ink, width=width)
    return picture


def panels(pictures: Sequence[Image.Image], columns: int = 0) -> Image.Image:
    """Pictures of one size in rows, about as many rows as columns unless said otherwise."""
    columns = columns or ceil(sqrt(len(pictures)))
    rows = ceil(len(pictures) / columns)
    width, height = pictures[0].size
    size = (columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * (width + _GAP), i // columns * (height + _GAP)))
    return sheet


def page(picture: Image.Image, title: str, legend: tuple[str, str] | None = None) -> Image.Image:
    """A picture under its title, with the colour scale and its ends' values below, if given."""
    font = ImageFont.load_default(11)
    probe = ImageDraw.Draw(picture)
    needed = max(probe.textlength(text, font=font) for text in (title, MARK))
    size = (max(picture.width, ceil(needed) + 4), picture.height + 3 * _LINE)
    sheet = Image.new("RGB", size, _PAPER)
    canvas = ImageDraw.Draw(sheet)
    canvas.text((2, 1), title, fill=_INK, font=font)
    sheet.paste(picture, (0, _LINE))
    below = picture.height + _LINE
    if legend is not None:
        _scale(sheet, canvas, below, legend, font)
    canvas.text((2, below + _LINE), MARK, fill=_INK, font=font)
    return sheet


def _scale(
    sheet: Image.Image,
    canvas: ImageDraw.ImageDraw,
    top: int,
    ends: tuple[str, str],
    font: "ImageFont.ImageFont | ImageFont.FreeTypeFont",
) -> None:
    low, high = ends
    start = ceil(canvas.textlength(low, font=font)) + 8
    bar = Image.fromarray(table("viridis")[None]).resize((96, _LINE - 6))
    canvas.text((2, top + 1), low, fill=_INK, font=font)
    sheet.paste(bar, (start, top + 3))
    canvas.text((start + 102, top + 1), high, fill=_INK, font=font)


def write_png(path: Path, picture: Image.Image) -> None:
    """Write atomically; equal pictures are equal bytes."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    with replacing(path, "wb") as file:
        file.write(stream.getvalue())


def read_picture(path: Path, intensity: Intensity) -> np.ndarray:
    """The first frame of a DICOM file, or an ordinary image, in 8 bits.

    Raises
    ------
    DescryError
        When there is no such file, or nothing to be read in it.
    """
    if not path.is_file():
        raise DescryError(f"{path}: no such file; give a DICOM file or an image")
    for message in Reader(path.parent, intensity)((path.name, False)):
        if isinstance(message, Picture):
            return message.pixels
        if isinstance(message, Ended) and message.status != "processed":
            reason = f"{message.kind}: {message.message}" if message.message else message.kind
            raise DescryError(f"{path}: {reason}; give a DICOM file or an image")
    raise DescryError(f"{path}: holds no frame; give a DICOM file or an image")

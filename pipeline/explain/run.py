"""`explain`: what a saved model computes for one image, as pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pipeline.atomic import write_json
from pipeline.data.geometry import Fit, fit_square
from pipeline.data.sample import to_tensor
from pipeline.errors import DescryError
from pipeline.explain import paint
from pipeline.explain.paint import read_picture
from pipeline.explain.record import Seen, blocks_of, recording
from pipeline.models.saved import SavedModel

FORMAT = 1
Drawn = dict[str, tuple[Image.Image, str]]


def explain(
    model: SavedModel,
    source: Path,
    out: Path,
    *,
    point: tuple[float, float] | None = None,
    blocks: Sequence[int] = (),
) -> list[Path]:
    """Draw what the backbone's blocks compute for an image.

    Written are, for each block that has it, ``attention-BB.png``, ``attention-from-BB.png``
    (with a point), ``concepts-gather-BB.png`` and ``concepts-return-BB.png`` (CAT), ``slots-BB``
    and ``slot-regions-BB.png`` (GLMix), ``points-BB.png`` (deformable attention), and
    ``explain.json``, which says what each shows; `Seen` defines them. The pictures show the image:
    what is written in its pixels stays readable.

    Parameters
    ----------
    model : SavedModel
    source : Path
        A DICOM file (its first frame) or an ordinary image.
    out : Path
        Folder; files of the same names are replaced.
    point : (x, y), optional
        In pixels of the image: also draw where this point attends to.
    blocks : sequence of int
        Which blocks, from 0; empty: all.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    DescryError
        For an image that cannot be read, a point outside of it, or a block that does not exist.
    """
    pixels = read_picture(source, model.intensity)
    square, fit = fit_square(pixels, model.image_size)
    seen = look(model, square, _on_square(point, fit, model.image_size))
    wanted = _wanted(blocks, len(blocks_of(model.detector.backbone.backbone)))
    written: list[dict[str, object]] = []
    for one in seen:
        if one.block in wanted:
            for name, (picture, title) in draw(one, square, fit).items():
                file = f"{name}-{one.block:02d}.png"
                paint.write_png(out / file, picture)
                written.append({"file": file, "block": one.block, "shows": title})
    about = {
        "format": FORMAT,
        "model_sha256": model.sha256,
        "intended_use": paint.MARK,
        "point": None if point is None else list(point),
        "pictures": sorted(written, key=lambda row: str(row["file"])),
    }
    write_json(out / "explain.json", about)
    return [out / str(row["file"]) for row in written] + [out / "explain.json"]


def look(
    model: SavedModel, square: np.ndarray, point: tuple[float, float] | None = None
) -> list[Seen]:
    """Run the detector on a square image, 8 bits, and return what its blocks computed."""
    device = next(model.detector.parameters()).device
    image = to_tensor(square).to(device).float() / 255
    with torch.no_grad(), recording(model.detector.backbone.backbone, point) as found:
        model.detector([image])
    return found


def draw(seen: Seen, square: np.ndarray, fit: Fit) -> Drawn:
    """Pictures by name, each with its title; padding is cut off."""
    drawer = {"points": _points, "slots": _slots}
    drawer |= dict.fromkeys(("attention", "attention-from"), _single)
    drawer |= dict.fromkeys(("concepts-gather", "concepts-return"), _several)
    return drawer[seen.kind](seen, square, fit)


TITLES = {
    "attention": "attention received, mean over queries and heads",
    "attention-from": "attention from the chosen point, mean over heads",
    "concepts-gather": "what each concept gathers (sums to 1 over positions)",
    "concepts-return": "what each concept gives back (sums to 1 over concepts)",
    "slots": "membership of each slot (sums to 1 over slots)",
    "points": "where keys are taken; area: the attention they receive",
}


def _points(seen: Seen, square: np.ndarray, fit: Fit) -> Drawn:
    groups = seen.values.numpy()
    picture = trim(paint.dots(paint.fitted(square, paint.SIDE), groups), fit)
    title = f"block {seen.block}: {TITLES['points']}, {len(groups)} group(s)"
    return {"points": (paint.page(picture, title), title)}


def _single(seen: Seen, square: np.ndarray, fit: Fit) -> Drawn:
    values = seen.values.numpy()
    low, high = ends(values, fit)
    picture = paint.heat(paint.fitted(square, paint.SIDE), values, low, high)
    if seen.point is not None:
        picture = paint.cross(picture, seen.point)
    title = f"block {seen.block}: {TITLES[seen.kind]}"
    legend = (f"{low:.2g}", f"{high:.2g}")
    return {seen.kind: (paint.page(trim(picture, fit), title, legend), title)}


def _several(seen: Seen, square: np.ndarray, fit: Fit) -> Drawn:
    """A panel per map, all on one scale."""
    values = seen.values.numpy()
    low, high = ends(values, fit)
    image = paint.fitted(square, paint.PANEL)
    sheet = paint.panels([trim(paint.heat(image, one, low, high), fit) for one in values])
    title = f"block {seen.block}: {TITLES[seen.kind]}"
    return {seen.kind: (paint.page(sheet, title, (f"{low:.2g}", f"{high:.2g}")), title)}


def _slots(seen: Seen, square: np.ndarray, fit: Fit) -> Drawn:
    """Panels, and the slot that has most of each position."""
    values = seen.values.numpy()
    image = paint.fitted(square, paint.SIDE)
    picture = trim(paint.regions(image, values.argmax(axis=0), len(values)), fit)
    title = f"block {seen.block}: each position's strongest slot"
    return _several(seen, square, fit) | {"slot-regions": (paint.page(picture, title), title)}


def trim(picture: Image.Image, fit: Fit) -> Image.Image:
    """The part of a picture of the square that holds image."""
    height, width = content(fit)
    scale = picture.width / max(height, width)  # the longer side fills the square
    return picture.crop((0, 0, max(1, round(width * scale)), max(1, round(height * scale))))


def ends(values: np.ndarray, fit: Fit) -> tuple[float, float]:
    """Lowest and highest value of maps (..., h, w) in the cells that hold image."""
    height, width = content(fit)
    side = max(height, width)
    rows, columns = values.shape[-2:]
    inside = values[..., : -(-height * rows // side), : -(-width * columns // side)]
    return float(inside.min()), float(inside.max())


def content(fit: Fit) -> tuple[int, int]:
    """Height and width in pixels of the part of the square that holds image."""
    return max(1, round(fit.height * fit.scale_y)), max(1, round(fit.width * fit.scale_x))


def _on_square(
    point: tuple[float, float] | None, fit: Fit, side: int
) -> tuple[float, float] | None:
    if point is None:
        return None
    x, y = point
    if not (0 <= x < fit.width and 0 <= y < fit.height):
        raise DescryError(
            f"point ({x:g}, {y:g}) is outside of the image, which is {fit.width}x{fit.height} "
            "pixels (give x, y)"
        )
    return x * fit.scale_x / side, y * fit.scale_y / side


def _wanted(blocks: Sequence[int], count: int) -> set[int]:
    strange = [number for number in blocks if not 0 <= number < count]
    if strange:
        raise DescryError(f"blocks {strange}: this model has blocks 0 to {count - 1}")
    return set(blocks) or set(range(count))

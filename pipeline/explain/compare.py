"""`compare`: the features of two saved models side by side, for some images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from pipeline.atomic import write_json
from pipeline.data.geometry import Fit, fit_square
from pipeline.data.sample import to_tensor
from pipeline.errors import DescryError
from pipeline.explain import paint
from pipeline.explain.picture import read_picture
from pipeline.explain.run import content, trim
from pipeline.explain.similarity import cka_matrix, features, pooled, principal_colours
from pipeline.models.saved import SavedModel

FORMAT = 1
SHOWN = 4  # blocks whose principal components are drawn, evenly spread
_CELL = 24  # px of a matrix entry

Grids = list[list[np.ndarray]]  # by image, then block: (H, W, C)


def compare(
    first: SavedModel, second: SavedModel, sources: Sequence[Path], out: Path
) -> list[Path]:
    """Draw how alike two models' blocks see, and where they differ.

    Written are ``cka.png`` (CKA of every block of the first model with every one of the second,
    and of each model with itself), ``pca-II.png`` for each image (principal components of four
    blocks of either model as colours) and ``similarity.json`` with all values of CKA.

    Parameters
    ----------
    first, second : SavedModel
        For example a baseline and its enhanced form, trained on the same data.
    sources : sequence of Path
        DICOM files or images; the more, the steadier the values.
    out : Path
        Folder; files of the same names are replaced.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    DescryError
        Without images, or for one that cannot be read.
    """
    if not sources:
        raise DescryError("compare: no images given; name at least one")
    fits, squares, seen_first = _features(first, sources)
    _, _, seen_second = _features(second, sources)
    matrices = _matrices(seen_first, seen_second, fits)
    written = [out / "cka.png", out / "similarity.json"]
    paint.write_png(written[0], _cka_page(matrices))
    about = {
        "format": FORMAT,
        "models_sha256": [first.sha256, second.sha256],
        "intended_use": paint.MARK,
        "images": len(sources),
        "linear_cka": {name: np.round(values, 6).tolist() for name, values in matrices.items()},
    }
    write_json(written[1], about)
    rows = [_colours(seen_first), _colours(seen_second)]
    for i, (square, fit) in enumerate(zip(squares, fits, strict=True)):
        written.append(out / f"pca-{i:02d}.png")
        paint.write_png(written[-1], _pca_page(square, fit, [row[i] for row in rows]))
    return written


def _features(
    model: SavedModel, sources: Sequence[Path]
) -> tuple[list[Fit], list[np.ndarray], Grids]:
    """How images were fitted, the squares, and the blocks' features."""
    device = next(model.detector.parameters()).device
    pixels = [read_picture(source, model.intensity) for source in sources]
    fitted = [fit_square(image, model.image_size) for image in pixels]
    images = [to_tensor(square).to(device).float() / 255 for square, _ in fitted]
    seen = features(model.detector, model.detector.backbone.backbone, images)
    grids = [[grid.numpy() for grid in blocks] for blocks in seen]
    return [fit for _, fit in fitted], [square for square, _ in fitted], grids


def _matrices(first: Grids, second: Grids, fits: Sequence[Fit]) -> dict[str, np.ndarray]:
    """CKA between and within the models, over the positions that hold image."""
    side = min(len(grid) for grids in (first[0], second[0]) for grid in grids)
    a, b = _positions(first, fits, side), _positions(second, fits, side)
    return {
        "first x second": cka_matrix(a, b),
        "first x first": cka_matrix(a, a),
        "second x second": cka_matrix(b, b),
    }


def _positions(grids: Grids, fits: Sequence[Fit], side: int) -> list[np.ndarray]:
    """Features (n, C) of each block on a common grid, padding left out."""
    blocks: list[list[np.ndarray]] = [[] for _ in grids[0]]
    for image, fit in zip(grids, fits, strict=True):
        height, width = content(fit)
        rows, columns = (max(1, round(n * side / max(height, width))) for n in (height, width))
        for found, grid in zip(blocks, image, strict=True):
            cells = pooled(torch.from_numpy(grid), side, side).reshape(side, side, -1)
            found.append(cells[:rows, :columns].reshape(rows * columns, -1))
    return [np.concatenate(found) for found in blocks]


def _colours(grids: Grids) -> list[list[tuple[int, np.ndarray]]]:
    """For each image the shown blocks' numbers and colours."""
    count = len(grids[0])
    shown = sorted({round(i * (count - 1) / (SHOWN - 1)) for i in range(SHOWN)})
    coloured = [principal_colours([image[block] for image in grids]) for block in shown]
    return [
        [(block, images[i]) for block, images in zip(shown, coloured, strict=True)]
        for i in range(len(grids))
    ]


def _pca_page(
    square: np.ndarray, fit: Fit, rows: Sequence[Sequence[tuple[int, np.ndarray]]]
) -> Image.Image:
    """The image, then the first model's blocks; below, the second model's."""
    side = 2 * paint.PANEL
    image = paint.page(trim(paint.fitted(square, side), fit), "image")
    pictures, columns = [], 1 + max(map(len, rows))
    for name, row in zip(("first", "second"), rows, strict=True):
        blocks = [
            paint.page(trim(_enlarged(colours, side), fit), f"{name} model, block {block}")
            for block, colours in row
        ]
        missing = columns - 1 - len(blocks)
        pictures += [image, *blocks, *[Image.new("RGB", image.size, (255, 255, 255))] * missing]
    return paint.panels(pictures, columns)


def _enlarged(colours: np.ndarray, side: int) -> Image.Image:
    if colours.shape[-1] < 3:  # fewer channels than colours
        colours = np.pad(colours, ((0, 0), (0, 0), (0, 3 - colours.shape[-1])))
    return Image.fromarray(colours).resize((side, side), Image.Resampling.NEAREST)


def _cka_page(matrices: dict[str, np.ndarray]) -> Image.Image:
    """The matrices side by side, 0 dark and 1 bright."""
    pictures = [
        paint.page(_matrix(values), f"linear CKA, {name} (rows x columns: blocks)", ("0", "1"))
        for name, values in matrices.items()
    ]
    size = (max(p.width for p in pictures), max(p.height for p in pictures))
    sheets = []
    for picture in pictures:
        sheet = Image.new("RGB", size, (255, 255, 255))
        sheet.paste(picture)
        sheets.append(sheet)
    return paint.panels(sheets, len(sheets))


def _matrix(values: np.ndarray) -> Image.Image:
    """Entries as coloured squares with the blocks' numbers at the left and on top."""
    index = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    rows, columns = values.shape
    entries = Image.fromarray(paint.table("viridis")[index])
    entries = entries.resize((columns * _CELL, rows * _CELL), Image.Resampling.NEAREST)
    sheet = Image.new("RGB", (entries.width + _CELL, entries.height + _CELL), (255, 255, 255))
    sheet.paste(entries, (_CELL, _CELL))
    canvas, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i in range(rows):
        canvas.text((4, (i + 1) * _CELL + 5), str(i), fill=(0, 0, 0), font=font)
    for i in range(columns):
        canvas.text(((i + 1) * _CELL + 5, 5), str(i), fill=(0, 0, 0), font=font)
    return sheet

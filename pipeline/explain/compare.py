"""`compare`: the features of two saved models side by side, for some images.

As linear CKA between their blocks, after "Similarity of Neural Network Representations Revisited"
(arXiv 1905.00414), eq. in section 3 for the linear kernel, over all positions of all images::

    CKA(X, Y) = |Yc^T Xc|^2 / (|Xc^T Xc| |Yc^T Yc|)

with Xc, Yc the centred features and Frobenius norms. It is 1 for features that are equal up to
rotation, shift and one scale. Blocks work on grids of different sizes: features are averaged over
the cells of the coarsest one. And as principal components, shown as colours.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.atomic import write_json
from pipeline.data.geometry import Fit, fit_square
from pipeline.data.sample import to_tensor
from pipeline.errors import DescryError
from pipeline.explain import paint
from pipeline.explain.record import blocks_of
from pipeline.explain.run import content, trim
from pipeline.models.backbones.base import Backbone
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
    pixels = [paint.read_picture(source, model.intensity) for source in sources]
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


@contextmanager
def outputs(backbone: Backbone) -> Iterator[list[Tensor]]:
    """Collect the blocks' outputs (H, W, C) of one image, in order, on the CPU."""
    found: list[Tensor] = []

    def keep(block: nn.Module, _: object, output: Tensor) -> None:
        found.append(as_grid(output.detach().float().cpu(), block))

    handles = [block.register_forward_hook(keep) for block in blocks_of(backbone)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def as_grid(output: Tensor, block: nn.Module) -> Tensor:
    """A block's output as (H, W, C); of tokens (1, P + N, C) the N, as many rows as columns."""
    if output.ndim == 3:
        side = isqrt(output.shape[1])
        return output[0, -side * side :].unflatten(0, (side, side))
    # blocks between batch norms have channels first, all others last
    return output[0].permute(1, 2, 0) if hasattr(block, "norm3") else output[0]


def pooled(grid: Tensor, rows: int, columns: int) -> np.ndarray:
    """Features (H, W, C) averaged over rows x columns cells, (rows * columns, C) float64."""
    cells = F.adaptive_avg_pool2d(grid.permute(2, 0, 1).double(), (rows, columns))
    return cells.flatten(1).T.numpy()


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Similarity of features (n, C) and (n, D) of the same n positions, 0 to 1.

    0 where one of them does not vary.
    """
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    norm = float(np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    return float(np.linalg.norm(y.T @ x) ** 2) / norm if norm > 0 else 0.0


def cka_matrix(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> np.ndarray:
    """CKA of each block of `first` (rows) with each of `second` (columns)."""
    return np.array([[linear_cka(x, y) for y in second] for x in first])


def principal_colours(grids: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The first three principal components of features as red, green and blue.

    The components are found over all grids together and scaled to their range there. A
    component's sign, which is arbitrary, is such that its largest weight is positive.

    Parameters
    ----------
    grids : sequence of arrays (H, W, C)
        One block's features, of one or more images.

    Returns
    -------
    list of arrays (H, W, 3), uint8
    """
    channels = grids[0].shape[-1]
    tokens = np.concatenate([grid.reshape(-1, channels) for grid in grids]).astype(np.float64)
    mean = tokens.mean(axis=0)
    _, vectors = np.linalg.eigh((tokens - mean).T @ (tokens - mean))
    axes = vectors[:, ::-1][:, :3]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    low, high = ((tokens - mean) @ axes).min(axis=0), ((tokens - mean) @ axes).max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    return [np.rint(((g - mean) @ axes - low) / span * 255).astype(np.uint8) for g in grids]


@torch.no_grad()
def features(model: nn.Module, backbone: Backbone, images: Sequence[Tensor]) -> list[list[Tensor]]:
    """Blocks' outputs (H, W, C) of each image (3, S, S), by image, then block."""
    found = []
    for image in images:
        with outputs(backbone) as grids:
            model([image])
        found.append(grids)
    return found

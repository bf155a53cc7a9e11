"""A saved model as an ONNX file, a PyTorch program or a MONAI bundle."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline.errors import DescryError
from pipeline.models import bundle
from pipeline.models.export import FORMS, Form, Parity, export
from pipeline.models.saved import SavedModel
from pipeline.predict.decode import Reader
from pipeline.predict.records import Picture

MONAI = "monai"
MOST = 32  # pictures of a folder that are compared, the first by name
_SIZES = ((1.0, 1.0), (0.7, 1.3), (1.6, 0.9), (0.5, 0.5))  # of the model's side, height and width


def run(
    checkpoint: Path, out: Path, to: str, images: Path | None, nms: str = "outside", int8: str = ""
) -> Parity | None:
    """Export a model; see `pipeline.models.export.export` and `pipeline.models.bundle`.

    A bundle holds the model's own weights and names its code: there is nothing to compare, and no
    `Parity`.

    Raises
    ------
    DescryError
        For an unknown form, no readable picture, and what does not export or differs.
    """
    if to == MONAI:
        bundle.write(SavedModel.load(checkpoint), out)
        return None
    if to not in FORMS:
        raise DescryError(f"--to {to!r}: must be one of {', '.join(FORMS)}, {MONAI}")
    form = Form(to, nms, int8)
    if int8 == "static" and images is None:
        raise DescryError("--int8 static: needs --images, pictures like those it will see")
    model = SavedModel.load(checkpoint)
    seen = synthetic(model.image_size) if images is None else list(_read(images, model))
    if not seen:
        raise DescryError(f"--images {images}: no picture in it that can be read")
    return export(model, out, form, seen)


def synthetic(side: int) -> list[np.ndarray]:
    """Bright rectangles on noise, grey and in colour, of several sizes; the same every time."""
    random = np.random.default_rng(0)
    pictures = []
    for i, (high, wide) in enumerate(_SIZES):
        height, width = round(high * side), round(wide * side)
        shape = (height, width) if i % 2 else (height, width, 3)
        pixels = random.integers(0, 120, shape, dtype=np.uint8)
        for _ in range(4):
            y, x = random.integers(0, height * 3 // 4), random.integers(0, width * 3 // 4)
            pixels[y : y + height // 5, x : x + width // 6] = random.integers(150, 256)
        pictures.append(pixels)
    return pictures


def _read(folder: Path, model: SavedModel) -> Iterator[np.ndarray]:
    if not folder.is_dir():
        raise DescryError(f"--images {folder}: no such folder")
    read = Reader(folder, model.intensity)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = (path.relative_to(folder).as_posix() for path in files)
    found = (one for name in names for one in read((name, False)) if isinstance(one, Picture))
    yield from (picture.pixels for picture in islice(found, MOST))

"""Predictions drawn beside the ground truth, for the first images of a split."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.atomic import replacing
from pipeline.data.draw import COLOURS, draw_boxes, side_by_side
from pipeline.data.index import CocoIndex
from pipeline.data.pixels import load_pixels
from pipeline.models.saved import SavedModel
from pipeline.models.thresholds import OperatingPoint

SIDE = 640  # px, the longer side of one drawn image


def draw_pictures(
    index: CocoIndex,
    results: Sequence[dict],
    model: SavedModel,
    point: OperatingPoint,
    out: Path,
    count: int,
) -> None:
    """Write ``<out>/<image id>.png`` for up to `count` images, those with objects first.

    Detections from the operating point of their class on are drawn with their scores.
    """
    lowest = point.lowest(index.categories)
    low, high = min(lowest.values()), max(lowest.values())
    span = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}, by class"
    by_objects = sorted(range(len(index)), key=lambda i: (len(index.objects(i)[0]) == 0, i))
    out.mkdir(parents=True, exist_ok=True)
    for i in sorted(by_objects[:count]):
        image_id = int(index.image_ids[i])
        mine = [
            row
            for row in results
            if row["image_id"] == image_id and row["score"] >= lowest[row["category_id"]]
        ]
        page = _picture(index, i, mine, model, f"prediction, score >= {span}")
        stream = io.BytesIO()
        page.save(stream, "PNG")
        with replacing(out / f"{image_id:06d}.png", "wb") as file:
            file.write(stream.getvalue())


def _picture(
    index: CocoIndex, i: int, found: Sequence[dict], model: SavedModel, title: str
) -> Image.Image:
    pixels = load_pixels(index, i, model.intensity)
    scale = SIDE / max(pixels.shape[:2])
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    canvas = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    boxes, labels = index.objects(i)
    names = [name if len(index.categories) > 1 else "" for _, name in index.categories]
    truth = draw_boxes(canvas, boxes * scale, [names[k] for k in labels], _colours(labels))
    place = {category_id: k for k, (category_id, _) in enumerate(index.categories)}
    classes = [place[row["category_id"]] for row in found]
    xywh = np.array([row["bbox"] for row in found], dtype=np.float64).reshape(-1, 4) * scale
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    scores = (f"{row['score']:.2f}" for row in found)
    texts = [f"{names[k]} {score}".strip() for k, score in zip(classes, scores, strict=True)]
    predicted = draw_boxes(canvas, xyxy, texts, _colours(classes))
    objects = "1 object" if len(boxes) == 1 else f"{len(boxes)} objects"
    return side_by_side(truth, predicted, (f"ground truth, {objects}", title))


def _colours(classes: Iterable[int]) -> list[tuple[int, int, int]]:
    return [COLOURS[k % len(COLOURS)] for k in classes]

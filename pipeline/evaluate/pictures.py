"""Pictures: whole images beside their ground truth, and crops of where it fails and succeeds."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.atomic import replacing, write_csv, write_json
from pipeline.data.draw import COLOURS, Line, contours, draw_boxes, side_by_side
from pipeline.data.geometry import shrink
from pipeline.data.index import CocoIndex
from pipeline.data.intensity import Intensity
from pipeline.data.masks import decode
from pipeline.data.pixels import load_pixels
from pipeline.evaluate.coco_matching import Matches, paired_iou
from pipeline.evaluate.coco_metrics import rounded
from pipeline.evaluate.error_kinds import KINDS, Errors
from pipeline.evaluate.evaluation import Evaluation
from pipeline.models.thresholds import OperatingPoint

SIDE = 640  # px, the longer side of one drawn image
PLAIN_SIDE = 1024  # px, the longer side of one without boxes, at most
COLUMNS = ("rank", "kind", "error", "image_id", "file_name", "class", "score", "iou", "picture")
CROP_SIDE = 288  # px, the longer side of a crop
LINE = 2  # px
CONTEXT = 1.0  # of the box's longer side, on each side of it
LEAST = 48  # px of the image, the smallest window
PER_IMAGE = 3  # of one kind, so that one bad image does not fill the gallery
TRUE, FOUND = COLOURS[2], COLOURS[4]


def draw_pictures(
    index: CocoIndex,
    results: Sequence[dict],
    intensity: Intensity,
    point: OperatingPoint,
    out: Path,
    count: int,
) -> None:
    """Write ``<out>/<image id>.png`` for up to `count` images, those with objects first.

    Detections from the operating point of their class on are drawn with their scores. The same
    images without boxes are in ``plain/``, and the boxes in ``boxes.json``: the report's viewer
    puts them together.
    """
    boxes = {}
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
        pixels = load_pixels(index, i, intensity)
        page = _picture(index, i, pixels, mine, f"prediction, score >= {span}")
        _save(page, out / f"{image_id:06d}.png")
        plain = Image.fromarray(shrink(pixels, PLAIN_SIDE)[0])
        with replacing(out / f"plain/{image_id:06d}.jpg", "wb") as stream:
            plain.save(stream, "JPEG", quality=90, subsampling=0)
        boxes[f"{image_id:06d}"] = _boxes(index, i, pixels.shape[1::-1], mine)
    write_json(out / "boxes.json", boxes)


def _boxes(
    index: CocoIndex, i: int, size: tuple[int, ...], found: Sequence[dict]
) -> dict[str, Any]:
    """Size of an image and its boxes, x, y, width, height in its pixels: truth, then detections."""
    place = {category_id: k for k, (category_id, _) in enumerate(index.categories)}
    truth, labels = index.objects(i)
    xywh = np.concatenate([truth[:, :2], truth[:, 2:] - truth[:, :2]], axis=1).round(2).tolist()
    rows: list[tuple[list[float], int, float | None]] = [
        (box, int(k), None) for box, k in zip(xywh, labels, strict=True)
    ]
    rows += [(row["bbox"], place[row["category_id"]], row["score"]) for row in found]
    return {
        "file_name": index.file_name(i),
        "width": size[0],
        "height": size[1],
        "boxes": [
            {"box": box, "label": index.categories[k][1], "class": k, "score": score}
            for box, k, score in rows
        ],
    }


def _picture(
    index: CocoIndex, i: int, pixels: np.ndarray, found: Sequence[dict], title: str
) -> Image.Image:
    scale = SIDE / max(pixels.shape[:2])
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    canvas = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    boxes, labels = index.objects(i)
    names = [name if len(index.categories) > 1 else "" for _, name in index.categories]
    masks = index.masks(i) if index.masked else ()
    lines = [[] if mask is None else contours(mask, size) for mask in masks]
    titles = [names[k] for k in labels]
    truth = draw_boxes(canvas, boxes * scale, titles, _colours(labels), outlines=lines)
    place = {category_id: k for k, (category_id, _) in enumerate(index.categories)}
    classes = [place[row["category_id"]] for row in found]
    xywh = np.array([row["bbox"] for row in found], dtype=np.float64).reshape(-1, 4) * scale
    xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    scores = (f"{row['score']:.2f}" for row in found)
    texts = [f"{names[k]} {score}".strip() for k, score in zip(classes, scores, strict=True)]
    lines = [_outlines(row, size) for row in found]
    predicted = draw_boxes(canvas, xyxy, texts, _colours(classes), outlines=lines)
    objects = "1 object" if len(boxes) == 1 else f"{len(boxes)} objects"
    return side_by_side(truth, predicted, (f"ground truth, {objects}", title))


def _outlines(row: Mapping[str, Any], size: tuple[int, int]) -> list[Line]:
    shape = row.get("segmentation")
    return contours(decode(shape["counts"], *shape["size"]), size) if shape else []


def _colours(classes: Iterable[int]) -> list[tuple[int, int, int]]:
    return [COLOURS[k % len(COLOURS)] for k in classes]


@dataclass(frozen=True, slots=True)
class _Crop:
    """One crop to be made; `box` is x, y, width, height in pixels."""

    kind: str
    error: str
    image: int
    label: int
    box: np.ndarray
    score: float | None
    iou: float | None


def draw_gallery(
    index: CocoIndex, evaluation: Evaluation, out: Path, *, count: int, intensity: Intensity
) -> None:
    """Write ``index.csv`` and its PNGs: up to `count` of each kind, at the operating point.

    Images with the most mistakes (false positives and missed objects) come first. Inside an
    image come the surest false positives, the largest missed objects and the true positives that
    fit worst first.
    """
    matches, errors = evaluation.at_point, evaluation.errors
    assert matches is not None and errors is not None, "without operating point no gallery"
    rows = []
    for items in (_false(matches, errors), _missed(matches, errors), _true(matches)):
        for rank, item in enumerate(_chosen(items, matches, errors, count), start=1):
            name = f"{item.kind}_{rank:03d}.png"
            _save(_crop(index, matches, item, intensity), out / name)
            row = [rank, item.kind, item.error, int(index.image_ids[item.image])]
            row += [index.file_name(item.image), index.categories[item.label][1]]
            rows.append([*row, *("" if v is None else v for v in (item.score, item.iou)), name])
    write_csv(out / "index.csv", COLUMNS, rows)


def _chosen(items: list[_Crop], matches: Matches, errors: Errors, count: int) -> Iterator[_Crop]:
    """The first `count`, worst images first, at most `PER_IMAGE` of one image."""
    bad = np.bincount(matches.found.image[errors.kind >= 0], minlength=matches.truth.images)
    bad += np.bincount(matches.truth.image[errors.missed], minlength=matches.truth.images)
    seen: dict[int, int] = {}
    for item in sorted(items, key=lambda item: (-bad[item.image], item.image)):  # stable
        if count <= 0:
            return
        seen[item.image] = seen.get(item.image, 0) + 1
        if seen[item.image] <= PER_IMAGE:
            count -= 1
            yield item


def _false(matches: Matches, errors: Errors) -> list[_Crop]:
    rows = np.flatnonzero(errors.kind >= 0)
    rows = rows[np.argsort(-matches.found.score[rows], kind="stable")]
    kinds = [KINDS[kind] for kind in errors.kind[rows]]
    return [
        _detected("false_positive", kind, matches, i, errors.overlap[i])
        for i, kind in zip(rows.tolist(), kinds, strict=True)
    ]


def _true(matches: Matches) -> list[_Crop]:
    rows = np.flatnonzero(matches.partner >= 0)
    partner = matches.partner[rows]
    truth = matches.truth
    iou = paired_iou(matches.found.boxes[rows], truth.boxes[partner], truth.crowd[partner])
    order = np.argsort(iou, kind="stable")
    return [
        _detected("true_positive", "", matches, i, overlap)
        for i, overlap in zip(rows[order].tolist(), iou[order], strict=True)
    ]


def _detected(kind: str, error: str, matches: Matches, i: int, iou: float) -> _Crop:
    found = matches.found
    score, label = float(found.score[i]), int(found.label[i])
    overlap = rounded(iou) if iou else None
    return _Crop(kind, error, int(found.image[i]), label, found.boxes[i], score, overlap)


def _missed(matches: Matches, errors: Errors) -> list[_Crop]:
    truth = matches.truth
    rows = np.flatnonzero(errors.missed)
    rows = rows[np.argsort(-truth.area[rows], kind="stable")]
    return [
        _Crop(
            "missed",
            "missed",
            int(truth.image[i]),
            int(truth.label[i]),
            truth.boxes[i],
            None,
            rounded(errors.reach[i]) if errors.reach[i] else None,
        )
        for i in rows
    ]


def _crop(index: CocoIndex, matches: Matches, item: _Crop, intensity: Intensity) -> Image.Image:
    """The surroundings of a box with the ground truth and the detection drawn."""
    pixels = load_pixels(index, item.image, intensity)
    left, top, right, bottom = window(item.box, pixels.shape[1], pixels.shape[0])
    part = Image.fromarray(pixels[top:bottom, left:right])
    scale = CROP_SIDE / max(part.size)
    size = (max(1, round(part.width * scale)), max(1, round(part.height * scale)))
    canvas = np.asarray(part.resize(size, Image.Resampling.LANCZOS))
    boxes = matches.truth.boxes[matches.truth.image == item.image]
    colours: list[Any] = [TRUE] * len(boxes)
    if item.score is not None:
        boxes, colours = np.vstack([boxes, item.box]), [*colours, FOUND]
    xyxy = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    xyxy = (xyxy - (left, top, left, top)) * scale
    return draw_boxes(canvas, xyxy, [""] * len(boxes), colours, line=LINE)


def window(box: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the surroundings of a box, inside the image."""
    x, y, w, h = box.tolist()
    side = max(max(w, h) * (1 + 2 * CONTEXT), LEAST)
    left, top = (max(0, round(c - side / 2)) for c in (x + w / 2, y + h / 2))
    left, top = min(left, width - 1), min(top, height - 1)
    right = max(left + 1, min(width, round(x + w / 2 + side / 2)))
    return left, top, right, max(top + 1, min(height, round(y + h / 2 + side / 2)))


def _save(picture: Image.Image, path: Path) -> None:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    with replacing(path, "wb") as file:
        file.write(stream.getvalue())

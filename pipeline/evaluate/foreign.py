"""Anybody's detections: a COCO file and a results file, with the mistakes that people make."""

import logging
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.coco import load_coco
from pipeline.data.index import CocoIndex
from pipeline.data.intensity import Intensity
from pipeline.data.results import iterate_results
from pipeline.errors import DescryError
from pipeline.evaluate.figures import Evaluation
from pipeline.evaluate.gallery import draw_gallery
from pipeline.evaluate.intervals import Resampling
from pipeline.evaluate.outputs import write_details, write_metrics, write_tables
from pipeline.evaluate.tables import Found, Truth
from pipeline.models.thresholds import OperatingPoint

log = logging.getLogger(__name__)
FEW = 5  # detections, too few to tell xyxy from xywh by


def evaluate_files(
    ground_truth: Path,
    predictions: Path,
    out: Path,
    *,
    threshold: float | None,
    images: Path | None,
    gallery: int,
    how: Resampling,
) -> dict[str, Any]:
    """Evaluate COCO results against a COCO file; return the figures.

    Writes the tables and ``details.json`` of `pipeline.evaluate.outputs`, ``metrics.json`` and,
    with `images` and `threshold`, a gallery.

    Raises
    ------
    DescryError
        When a file is missing or wrong.
    """
    coco = load_coco(ground_truth)
    index = None if images is None else _index(ground_truth, images)
    if threshold is not None and not 0 <= threshold <= 1:
        raise DescryError(f"--threshold {threshold}: must be a score from 0 to 1")
    found = read_found(predictions, coco)
    given = "given with --threshold"
    point = None if threshold is None else OperatingPoint(threshold, given)
    evaluation = Evaluation(ground_truth.stem, ground_truth, coco, found, point, how)
    missing = {} if images else {"gallery": "no images: give --images, their folder"}
    write_tables(evaluation, out)
    write_details(evaluation, out, missing)
    write_metrics(evaluation, out / "metrics.json")
    at_point, errors = evaluation.at_point, evaluation.errors
    if index is not None and at_point is not None and errors is not None:
        folder = out / "gallery"
        draw_gallery(index, at_point, errors, folder, count=gallery, intensity=Intensity())
    return evaluation.flat


def _index(ground_truth: Path, images: Path) -> CocoIndex:
    index = CocoIndex(ground_truth, images)
    missing = [i for i in range(len(index)) if not index.file(i).is_file()]
    if missing:
        raise DescryError(
            f"{index.file(missing[0])}: listed in {ground_truth} but not there ({len(missing)} of "
            f"{len(index)} images missing): give --images the folder that file_name is relative to"
        )
    return index


def read_found(path: Path, coco: dict[str, Any]) -> Found:
    """Read COCO results for a ground truth.

    Raises
    ------
    DescryError
        When the file breaks the format, names unknown images or classes, has scores outside of
        0 to 1, or its boxes are evidently not [x, y, width, height] in pixels.
    """
    ids, numbers = array("q"), array("d")
    for row in iterate_results(path):
        ids.extend((row["image_id"], row["category_id"]))
        numbers.extend((*row["bbox"], row["score"]))
    image, category = np.array(ids, dtype=np.int64).reshape(-1, 2).T
    values = np.array(numbers, dtype=np.float64).reshape(-1, 5)
    boxes, score = values[:, :4], values[:, 4]
    if len(score) and (score.min() < 0 or score.max() > 1):
        worst = score.min() if score.min() < 0 else score.max()
        raise DescryError(
            f"{path}: score {worst:g} is not in 0 to 1; if these are logits, apply the sigmoid "
            "(or softmax) first, if they are percent, divide by 100"
        )
    try:
        found = Found.packed(Truth.of(coco), image, category, boxes, score)
    except DescryError as error:
        raise DescryError(f"{path}: {error}") from None
    _check_boxes(path, coco, image, boxes)
    if len(found) < len(score):
        log.warning(
            "%s: %d detections beyond the best 100 of a class in an image are left out, as COCO "
            "does",
            path,
            len(score) - len(found),
        )
    return found


def _check_boxes(path: Path, coco: dict[str, Any], image: np.ndarray, boxes: np.ndarray) -> None:
    """Refuse corners or fractions in the place of [x, y, width, height] in pixels."""
    if len(boxes) < FEW:
        return
    size = {entry["id"]: (entry["width"], entry["height"]) for entry in coco["images"]}
    limit = np.array([size[i] for i in image.tolist()], dtype=np.float64)
    if boxes.max() <= 1:
        raise DescryError(
            f"{path}: all {len(boxes)} boxes lie within 0 to 1, so they seem to be fractions of "
            "the image: multiply x and width by its width, y and height by its height"
        )
    beyond = (boxes[:, :2] + boxes[:, 2:] > limit + 1).any(axis=1)
    corners = (boxes[:, 2:] > boxes[:, :2]).all() and (boxes[:, 2:] <= limit + 1).all()
    if corners and beyond.mean() > 0.1:
        raise DescryError(
            f"{path}: {beyond.sum()} of {len(boxes)} boxes reach out of their image, and all "
            "would fit as [x1, y1, x2, y2]: write [x, y, width, height], that is "
            "[x1, y1, x2 - x1, y2 - y1]"
        )
    if beyond.any():
        log.warning("%s: %d boxes reach out of their image", path, beyond.sum())

"""A model on its test split, or anybody's detections: figures, tables, plot data and pictures."""

import logging
import shutil
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.coco import load_coco
from pipeline.data.index import CocoIndex
from pipeline.data.intensity import Intensity
from pipeline.data.masks import compressed, is_mask, rle
from pipeline.data.results import iterate_results, write_results
from pipeline.errors import DescryError
from pipeline.evaluate.coco_arrays import GroundTruth, Predictions, objects_of
from pipeline.evaluate.coco_metrics import self_test
from pipeline.evaluate.evaluation import FORMAT, Evaluation, write_evaluation
from pipeline.evaluate.intervals import DEFAULT, Resampling
from pipeline.evaluate.operating_point import validate
from pipeline.evaluate.pictures import draw_gallery, draw_pictures
from pipeline.models.thresholds import OperatingPoint
from pipeline.work.workspace import Kind, open_workspace

if TYPE_CHECKING:
    from pipeline.models.ensemble import Ensemble  # brings torch, which files do not need

log = logging.getLogger(__name__)
EVALUATION = Kind("an evaluation", "details.json", FORMAT)
FEW = 5  # detections, too few to tell xyxy from xywh by


def evaluate(
    model: "Ensemble",
    coco: Path,
    out: Path,
    metrics: Path,
    *,
    pictures: int,
    batch_size: int,
    workers: int,
    gallery: int = 12,
    how: Resampling = DEFAULT,
) -> dict[str, Any]:
    """Evaluate on ``annotations/test.json`` of a converted dataset.

    Writes ``predictions.json`` (COCO results), the tables and ``details.json`` of
    `write_evaluation`, ``pictures/`` and ``gallery/`` into `out`, and ``<dataset>.json`` into
    `metrics`: the figures under the dataset's name, which keeps several datasets apart in one
    table.

    Raises
    ------
    DescryError
        When the split is empty, its classes are not the model's, or the ground truth does not
        score 1 against itself.
    """
    from pipeline.models.inference import detect_split

    path = coco / "annotations/test.json"
    index = CocoIndex(path, coco / "images", masks=model.task != "detect")
    if len(index) == 0:
        raise DescryError(f"{path}: no test images; see {coco / 'report.json'}")
    _check_classes(model, index)
    truth = load_coco(path)
    perfect = self_test(truth)
    if perfect not in (None, 1.0):
        raise DescryError(
            f"{path}: its own boxes score AP {perfect} instead of 1: convert it again"
        )

    def detect(of: CocoIndex) -> list[dict]:
        return detect_split(model, of, batch_size=batch_size, workers=workers)

    point = model.operating_point or _chosen_point(coco, detect, model.task)
    results = detect(index)
    masks = model.task != "detect" and _has_masks(truth)
    found = Predictions.of(GroundTruth.of(truth, masks=masks), results)
    evaluation = Evaluation(model.trained_on, path, truth, found, point, how)
    with _growing(out) as folder:
        write_results(folder / "predictions.json", results)
        inside = metrics.resolve() == out.resolve()
        figures = (folder if inside else metrics) / f"{model.trained_on}.json"
        write_evaluation(evaluation, folder, figures)
        draw_pictures(index, results, model.intensity, point, folder / "pictures", pictures)
        gallery_of = (index, evaluation, folder / "gallery")
        draw_gallery(*gallery_of, count=gallery, intensity=model.intensity)
    return evaluation.flat


@contextmanager
def _growing(out: Path) -> Iterator[Path]:
    """The folder to write into, which becomes `out` when the block is done.

    Raises
    ------
    DescryError
        When `out` holds something else, is being written by another run, or cannot be written.
    """
    with open_workspace(out, EVALUATION) as space:
        shutil.rmtree(space.partial)  # what a killed run has left
        space.state.mkdir(parents=True)
        yield space.partial
        space.publish()


def _has_masks(coco: Mapping[str, Any]) -> bool:
    """Whether objects of a COCO file are more than their boxes."""
    return any(is_mask(a.get("segmentation"), a["bbox"]) for a in coco["annotations"])


def _chosen_point(
    coco: Path, detect: Callable[[CocoIndex], list[dict]], task: str
) -> OperatingPoint:
    """The operating point of what detects otherwise than in its training, never from test images.

    Raises
    ------
    DescryError
        When there are no validation images.
    """
    path = coco / "annotations/val.json"
    index = CocoIndex(path, coco / "images")
    if len(index) == 0:
        raise DescryError(
            f"{path}: no validation images to choose an operating point by, which several models, "
            "evaluate.tta, evaluate.suppression or other thresholds than the training's need"
        )
    return validate(path, detect(index), task)[1]


def _check_classes(model: "Ensemble", index: CocoIndex) -> None:
    ours, theirs = dict(model.categories), dict(index.categories)
    if ours != theirs:
        raise DescryError(
            f"{index.path}: its classes {theirs} are not the model's {ours}: "
            "train again, or evaluate on the dataset that the model was trained on"
        )


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

    Writes the tables and ``details.json`` of `write_evaluation`, ``metrics.json`` and, with
    `images` and `threshold`, a gallery.

    Raises
    ------
    DescryError
        When a file is missing or wrong.
    """
    coco = load_coco(ground_truth)
    index = None if images is None else _index_of(ground_truth, images)
    if threshold is not None and not 0 <= threshold <= 1:
        raise DescryError(f"--threshold {threshold}: must be a score from 0 to 1")
    found = read_found(predictions, coco)
    given = "given with --threshold"
    point = None if threshold is None else OperatingPoint(threshold, given)
    evaluation = Evaluation(ground_truth.stem, ground_truth, coco, found, point, how)
    missing = {} if images else {"gallery": "no images: give --images, their folder"}
    with _growing(out) as folder:
        write_evaluation(evaluation, folder, folder / "metrics.json", missing)
        if index is not None and point is not None:
            where = folder / "gallery"
            draw_gallery(index, evaluation, where, count=gallery, intensity=Intensity())
    return evaluation.flat


def _index_of(ground_truth: Path, images: Path) -> CocoIndex:
    index = CocoIndex(ground_truth, images)
    missing = [i for i in range(len(index)) if not index.file(i).is_file()]
    if missing:
        raise DescryError(
            f"{index.file(missing[0])}: listed in {ground_truth} but not there ({len(missing)} of "
            f"{len(index)} images missing): give --images the folder that file_name is relative to"
        )
    return index


def read_found(path: Path, coco: dict[str, Any]) -> Predictions:
    """Read COCO results for a ground truth.

    Raises
    ------
    DescryError
        When the file breaks the format, names unknown images or classes, has scores outside of
        0 to 1, or its boxes are evidently not [x, y, width, height] in pixels.
    """
    ids, numbers, shapes = array("q"), array("d"), list[Any]()
    masks = _has_masks(coco)
    for row in iterate_results(path):
        ids.extend((row["image_id"], row["category_id"]))
        numbers.extend((*row["bbox"], row["score"]))
        masks = masks and bool(row.get("segmentation"))
        shapes.append(row["segmentation"] if masks else None)
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
        seen = masks and bool(shapes)  # without detections nothing says what they would be
        shown = objects_of(_checked_masks(path, coco, ids[::2], shapes)) if seen else None
        truth = GroundTruth.of(coco)
        found = Predictions.packed(truth, image, category, boxes, score, masks=shown)
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


def _checked_masks(
    path: Path, coco: Mapping[str, Any], image_ids: Sequence[int], shapes: list[Any]
) -> list[dict[str, Any]]:
    """Segmentations of detections as run lengths."""
    size = {image["id"]: (image["height"], image["width"]) for image in coco["images"]}
    masks = []
    for i, (image_id, shape) in enumerate(zip(image_ids, shapes, strict=True)):
        where = size.get(image_id, (0, 0))
        counts = compressed(shape, *where)
        if counts is None:
            raise DescryError(
                f"{path}: detection {i}: its segmentation is neither polygons nor run lengths of "
                f"an image of {where[1]} x {where[0]} px: write it as COCO results have it"
            )
        masks.append(rle(counts, *where))
    return masks


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

"""One model on one test split: metrics, predictions, plot data and pictures."""

from pathlib import Path
from typing import Any

from pipeline.data.coco import load_coco
from pipeline.data.index import CocoIndex
from pipeline.data.results import write_results
from pipeline.errors import DescryError
from pipeline.evaluate.figures import Evaluation
from pipeline.evaluate.gallery import draw_gallery
from pipeline.evaluate.intervals import DEFAULT, Resampling
from pipeline.evaluate.metrics import self_test
from pipeline.evaluate.outputs import write_details, write_metrics, write_tables
from pipeline.evaluate.pictures import draw_pictures
from pipeline.evaluate.tables import Found, Truth
from pipeline.models.inference import detect_split
from pipeline.models.saved import SavedModel
from pipeline.models.thresholds import OperatingPoint


def evaluate(
    model: SavedModel,
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
    `pipeline.evaluate.outputs`, ``pictures/`` and ``gallery/`` into `out`, and ``<dataset>.json``
    into `metrics`: the figures under the dataset's name, which keeps several datasets apart in
    one table.

    Raises
    ------
    DescryError
        When the split is empty, its classes are not the model's, or the ground truth does not
        score 1 against itself.
    """
    path = coco / "annotations/test.json"
    index = CocoIndex(path, coco / "images")
    if len(index) == 0:
        raise DescryError(f"{path}: no test images; see {coco / 'report.json'}")
    _check_classes(model, index)
    truth = load_coco(path)
    perfect = self_test(truth)
    if perfect not in (None, 1.0):
        raise DescryError(
            f"{path}: its own boxes score AP {perfect} instead of 1: convert it again"
        )
    results = detect_split(model, index, batch_size=batch_size, workers=workers)
    write_results(out / "predictions.json", results)
    point = OperatingPoint.read(model.meta, model.score_threshold)
    found = Found.of(Truth.of(truth), results)
    evaluation = Evaluation(model.trained_on, path, truth, found, point, how)
    write_tables(evaluation, out)
    write_details(evaluation, out, {})
    write_metrics(evaluation, metrics / f"{model.trained_on}.json")
    draw_pictures(index, results, model, point, out / "pictures", pictures)
    assert evaluation.at_point is not None and evaluation.errors is not None
    draw_gallery(
        index,
        evaluation.at_point,
        evaluation.errors,
        out / "gallery",
        count=gallery,
        intensity=model.intensity,
    )
    return evaluation.flat


def _check_classes(model: SavedModel, index: CocoIndex) -> None:
    ours, theirs = dict(model.categories), dict(index.categories)
    if ours != theirs:
        raise DescryError(
            f"{index.path}: its classes {theirs} are not the model's {ours}: "
            "train again, or evaluate on the dataset that the model was trained on"
        )

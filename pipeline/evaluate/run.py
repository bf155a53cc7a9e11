"""One model on one test split: metrics, predictions, plot data and pictures."""

from pathlib import Path
from typing import Any

from pipeline.atomic import write_csv, write_json
from pipeline.data.coco import load_coco
from pipeline.data.index import CocoIndex
from pipeline.data.results import write_results
from pipeline.errors import DescryError
from pipeline.evaluate.metrics import CocoScore, self_test
from pipeline.evaluate.pictures import draw_pictures
from pipeline.models.inference import detect_split
from pipeline.models.saved import SavedModel


def evaluate(
    model: SavedModel,
    coco: Path,
    out: Path,
    metrics: Path,
    *,
    pictures: int,
    batch_size: int,
    workers: int,
) -> dict[str, Any]:
    """Evaluate on ``annotations/test.json`` of a converted dataset.

    Writes ``predictions.json`` (COCO results), ``per_class.csv``, ``precision_recall.csv`` and
    ``pictures/`` into `out`, and ``<dataset>.json`` into `metrics`: the figures under the
    dataset's name, which keeps several datasets apart in one table.

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
    score = CocoScore(truth, results)
    figures = score.summary()
    write_results(out / "predictions.json", results)
    write_json(metrics / f"{model.trained_on}.json", {model.trained_on: figures})
    _write_rows(out / "per_class.csv", score.per_class())
    _write_rows(out / "precision_recall.csv", score.precision_recall())
    draw_pictures(index, results, model, out / "pictures", pictures)
    return figures


def _check_classes(model: SavedModel, index: CocoIndex) -> None:
    ours, theirs = dict(model.categories), dict(index.categories)
    if ours != theirs:
        raise DescryError(
            f"{index.path}: its classes {theirs} are not the model's {ours}: "
            "train again, or evaluate on the dataset that the model was trained on"
        )


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows of equal keys as a CSV; None becomes an empty cell."""
    header = list(rows[0]) if rows else ["class"]
    cells = [["" if v is None else v for v in row.values()] for row in rows]
    write_csv(path, header, cells)

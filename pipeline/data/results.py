"""Detections as COCO results: sorted and rounded, so that equal runs give equal bytes."""

import json
import math
from pathlib import Path

import numpy as np

from pipeline.atomic import replacing
from pipeline.errors import DescryError

BOX_DECIMALS = 2  # hundredths of a pixel
SCORE_DECIMALS = 5


def to_results(
    image_id: int, boxes: np.ndarray, scores: np.ndarray, category_ids: np.ndarray
) -> list[dict]:
    """COCO result entries of one image.

    Parameters
    ----------
    boxes : array (n, 4)
        xyxy in pixels.
    scores : array (n,)
    category_ids : array (n,)
    """
    rows = []
    for (x1, y1, x2, y2), score, category in zip(
        boxes.tolist(), scores.tolist(), category_ids.tolist(), strict=True
    ):
        bbox = [round(v, BOX_DECIMALS) for v in (x1, y1, x2 - x1, y2 - y1)]
        rows.append(
            {
                "image_id": int(image_id),
                "category_id": int(category),
                "bbox": bbox,
                "score": round(score, SCORE_DECIMALS),
            }
        )
    return rows


def write_results(path: Path, rows: list[dict]) -> None:
    """Write COCO results, one detection a line, by image, descending score, class and box."""
    ordered = sorted(
        rows, key=lambda r: (r["image_id"], -r["score"], r["category_id"], tuple(r["bbox"]))
    )
    with replacing(path) as stream:
        stream.write("[")
        for i, row in enumerate(ordered):
            stream.write((",\n" if i else "\n") + json.dumps(row, allow_nan=False))
        stream.write("\n]\n")


def load_results(path: Path) -> list[dict]:
    """Read COCO results of any origin.

    Raises
    ------
    DescryError
        When the file is not a list of {image_id, category_id, bbox of 4 finite numbers, score}.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DescryError(f"{path}: no such results file") from None
    except ValueError as error:
        raise DescryError(f"{path}: not JSON: {error}") from None
    if not isinstance(rows, list):
        raise DescryError(f"{path}: must be a list of detections, not {type(rows).__name__}")
    for i, row in enumerate(rows):
        problem = _problem(row)
        if problem:
            raise DescryError(f"{path}: detection {i}: {problem}")
    return rows


def _problem(row: object) -> str:
    if not isinstance(row, dict):
        return f"must be an object, not {row!r}"
    for key in ("image_id", "category_id", "bbox", "score"):
        if key not in row:
            return f"has no {key!r}"
    bbox = row["bbox"]
    numbers = [*bbox, row["score"]] if isinstance(bbox, list) and len(bbox) == 4 else None
    if numbers is None or not all(isinstance(v, int | float) and math.isfinite(v) for v in numbers):
        return f"bbox must be 4 finite numbers and score one, not {bbox!r}, {row['score']!r}"
    return ""

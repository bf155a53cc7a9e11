"""Detections as COCO results: sorted and rounded, so that equal runs give equal bytes."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.atomic import replacing
from pipeline.data.coco import is_finite, is_whole, shown
from pipeline.errors import DescryError

BOX_DECIMALS = 2  # hundredths of a pixel
SCORE_DECIMALS = 5
_SPACE = re.compile(r"[ \t\n\r]*")


def to_results(
    image_id: int,
    boxes: np.ndarray,
    scores: np.ndarray,
    category_ids: np.ndarray,
    masks: Sequence[dict] | None = None,
) -> list[dict]:
    """COCO result entries of one image.

    Parameters
    ----------
    boxes : array (n, 4)
        xyxy in pixels.
    scores : array (n,)
    category_ids : array (n,)
    masks : sequence of n COCO segmentations, or None
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
    for row, mask in zip(rows, masks or (), strict=False):
        row["segmentation"] = mask
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


def iterate_results(path: Path) -> Iterator[dict]:
    """Read COCO results of any origin, one after the other, so that a million fit into memory.

    Raises
    ------
    DescryError
        When the file is not a list of {image_id, category_id, bbox of 4 finite numbers, score},
        or an ``id`` occurs twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DescryError(f"{path}: no such results file") from None
    except (OSError, ValueError) as error:
        raise DescryError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    seen: set[object] = set()
    for i, row in enumerate(_entries(path, text)):
        problem = _problem(row)
        if problem:
            raise DescryError(f"{path}: detection {i}: {problem}")
        if "id" in row:
            if row["id"] in seen:
                raise DescryError(f"{path}: detection {i}: id {shown(row['id'])} occurs twice")
            seen.add(row["id"])
        yield row


def load_results(path: Path) -> list[dict]:
    """All COCO results of a file; see `iterate_results`."""
    return list(iterate_results(path))


def _entries(path: Path, text: str) -> Iterator[Any]:
    """The elements of a JSON list."""
    decode = json.JSONDecoder().raw_decode
    place = _skip(text, 0)
    if text[place : place + 1] == "{":
        raise DescryError(
            f"{path}: must be a list of detections, not an object. A file with images and "
            "annotations is ground truth: give it as --gt"
        )
    if text[place : place + 1] != "[":
        raise DescryError(f"{path}: not JSON, or not a list of detections")
    place = _skip(text, place + 1)
    if text[place : place + 1] == "]":
        place += 1
    else:
        while True:
            try:
                value, place = decode(text, place)
            except (ValueError, RecursionError) as error:
                raise DescryError(f"{path}: not JSON: {error}") from None
            yield value
            place = _skip(text, place)
            mark = text[place : place + 1]
            if mark not in (",", "]"):
                raise DescryError(f"{path}: not JSON: expected , or ] at character {place}")
            place = _skip(text, place + 1)
            if mark == "]":
                break
    if _skip(text, place) != len(text):
        raise DescryError(f"{path}: not JSON: text after the end of the list")


def _skip(text: str, place: int) -> int:
    """The next place that is not white space."""
    found = _SPACE.match(text, place)
    return found.end() if found else place


def _problem(row: object) -> str:
    if not isinstance(row, dict):
        return f"must be an object, not {shown(row)}"
    for key in ("image_id", "category_id", "bbox", "score"):
        if key not in row:
            return f"has no {key!r}"
    for key in ("image_id", "category_id"):
        if not is_whole(row[key]):
            return f"{key} must be a whole number below 2**63, not {shown(row[key])}"
    if not isinstance(row.get("id", 0), int | str):
        return f"id must be a whole number, not {shown(row['id'])}"
    bbox = row["bbox"]
    numbers = [*bbox, row["score"]] if isinstance(bbox, list) and len(bbox) == 4 else None
    if numbers is None or not all(map(is_finite, numbers)):
        given = f"{shown(bbox)}, {shown(row['score'])}"
        return f"bbox must be 4 finite numbers and score one, not {given}"
    if bbox[2] < 0 or bbox[3] < 0:
        return f"bbox [x, y, width, height] has a negative size: {bbox}"
    return ""

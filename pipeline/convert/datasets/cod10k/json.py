"""The COCO-like JSON of a COD10K split, and the text list that ships beside it.

Images are found by id, never by position; the category ids are ignored (the release holds one
generic category, the class stands in the file name). A box that is missing or unusable is taken
from the segmentation.
"""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.convert.formats.masks import segmentation_extent
from pipeline.convert.records import Box, Ledger
from pipeline.convert.segmentation import segmentation_text
from pipeline.errors import DescryError

_NO_BOX = "neither a usable bbox nor a usable segmentation"
_LISTED = re.compile(r"\[INFO\]\s+(?:.*\s)?(?P<file>\S+\.\w+)\s+(?P<count>\d+)\s*", re.IGNORECASE)


@dataclass(slots=True)
class ImageAnnotations:
    """What the annotations say of one image.

    Attributes
    ----------
    file_name : str
        As the annotation gives it; a mask's path where the mask is the annotation.
    size : (int, int) or None
        Declared width and height.
    boxes : list of Box
        Without a label; empty where they are in a mask.
    mask : str
        Path of the mask relative to the raw folder, or "".
    """

    file_name: str
    size: tuple[int, int] | None = None
    boxes: list[Box] = field(default_factory=list)
    mask: str = ""


def read_annotations(path: Path, where: str, ledger: Ledger) -> dict[str, ImageAnnotations]:
    """Images of the JSON with their boxes, by file name without folder and extension.

    Parameters
    ----------
    path : Path
    where : str
        The file's name in the report (relative to the raw folder).
    ledger : Ledger
        Gets every annotation that cannot be used.

    Raises
    ------
    DescryError
        When the file is not JSON, lacks a list, or gives one image id to two files.
    """
    content = _load(path)
    images, rows = _list(content, "images", path), _list(content, "annotations", path)
    ledger.read(where, len(rows))
    info = content.get("info")
    if isinstance(info, dict) and info.get("synthetic"):
        ledger.note(f"{where}: {info.get('description', 'synthetic')}")
    by_id = _images(images, where, path, ledger)
    measured = sum(
        _add_row(row, f"{where}:annotations[{index}]", by_id, ledger)
        for index, row in enumerate(rows)
    )
    if measured:
        ledger.note(f"{where}: {measured} boxes were measured from their segmentation")
    by_stem: dict[str, ImageAnnotations] = {}
    for entry in by_id.values():
        known = by_stem.setdefault(PurePosixPath(entry.file_name).stem, entry)
        if known is not entry:  # the same file under two ids: one image with all boxes
            known.boxes.extend(entry.boxes)
    return by_stem


def _load(path: Path) -> dict[str, Any]:
    """Parse the file; anything but a JSON object is an error."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise DescryError(
            f"{path}: not valid JSON at {place} ({error.msg}). Download it again, or convert "
            "from the masks (annotations=instance)."
        ) from error
    except (OSError, ValueError, RecursionError) as error:  # not UTF-8, absurd numbers or depth
        raise DescryError(f"{path}: not a JSON text ({error}). Download it again.") from error
    if not isinstance(content, dict):
        raise DescryError(
            f"{path}: holds a JSON {type(content).__name__}, expected an object with the lists "
            "'images' and 'annotations'. Is it the right file?"
        )
    return content


def _list(content: dict[str, Any], key: str, path: Path) -> list[Any]:
    """A list of the JSON object."""
    value = content.get(key)
    if not isinstance(value, list):
        told = "is missing" if key not in content else f"is a {type(value).__name__}, not a list"
        raise DescryError(f"{path}: {key!r} {told}. Is it the right file?")
    return value


def _images(
    images: list[Any], where: str, path: Path, ledger: Ledger
) -> dict[Any, ImageAnnotations]:
    """Entries by image id."""
    by_id: dict[Any, ImageAnnotations] = {}
    for index, image in enumerate(images):
        place = f"{where}:images[{index}]"
        file_name = image.get("file_name") if isinstance(image, dict) else None
        identity = image.get("id") if isinstance(image, dict) else None
        if not isinstance(file_name, str) or not isinstance(identity, int | str):
            ledger.drop("image", place, "malformed image entry", "needs id and file_name")
            continue
        entry = by_id.setdefault(
            identity, ImageAnnotations(file_name.replace("\\", "/"), _size(image))
        )
        if entry.file_name != file_name.replace("\\", "/"):
            raise DescryError(
                f"{path}: image id {identity!r} stands for {entry.file_name} and for {file_name}: "
                "its boxes cannot be told apart. Download the file again."
            )
    return by_id


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    """Declared width and height, if both are given as whole numbers."""
    width, height = image.get("width"), image.get("height")
    if not isinstance(width, int) or not isinstance(height, int) or min(width, height) < 1:
        return None
    return width, height


def _add_row(row: Any, where: str, by_id: dict[Any, ImageAnnotations], ledger: Ledger) -> bool:
    """Turn one annotation into a box of its image, or drop it; True if it had to be measured."""
    if not isinstance(row, dict):
        ledger.drop("row", where, "malformed annotation", f"a {type(row).__name__}, not an object")
        return False
    identity = row.get("image_id")
    entry = by_id.get(identity) if isinstance(identity, int | str) else None
    if entry is None:
        ledger.drop("row", where, "annotation of an unknown image id", f"image_id {identity!r}")
        return False
    stated = _bbox(row.get("bbox"))
    extent = stated or segmentation_extent(row.get("segmentation"))
    if extent is None:
        ledger.drop("row", where, _NO_BOX, f"bbox {row.get('bbox')!r}")
        return False
    mask = segmentation_text(row.get("segmentation"), extent)
    crowd = row.get("iscrowd") == 1
    entry.boxes.append(Box(*extent, label="", where=where, iscrowd=crowd, mask=mask))
    return stated is None


def _bbox(value: object) -> tuple[float, float, float, float] | None:
    """Four finite numbers with a positive size, or None."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in value):
        return None
    try:
        x, y, width, height = (float(v) for v in value)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    if not all(math.isfinite(v) for v in (x, y, width, height)):
        return None
    return (x, y, width, height) if width > 0 and height > 0 else None


def read_listing(path: Path) -> dict[str, int]:
    """Object counts of ``CAM-NonCAM_Instance_*.txt``, by file name without extension.

    Only the ``[INFO] <file> <count>`` heads are read; the file serves as a cross-check and a line
    of another form is no error.
    """
    counts = {}
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            match = _LISTED.fullmatch(line.strip())
            if match:
                counts[PurePosixPath(match["file"].replace("\\", "/")).stem] = int(match["count"])
    return counts

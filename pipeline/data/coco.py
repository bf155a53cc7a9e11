"""The one place where COCO JSON is read and written.

The layout is that of T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014,
as pycocotools reads it: boxes are ``[x, y, width, height]`` in pixels from the top-left corner.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from pipeline.atomic import replacing
from pipeline.errors import DescryError

_LISTS = ("images", "annotations", "categories")


def load_coco(path: Path, foreign: bool = False) -> dict[str, Any]:
    """Read and check a COCO detection file of any origin.

    A missing ``area`` becomes width x height, a missing ``iscrowd`` 0; category ids and image
    ids may begin anywhere and have gaps, and are kept.

    Parameters
    ----------
    foreign : bool
        An image's width or height may be missing (then None) or a whole number written as a
        float, as exporters do that did not open the image.

    Returns
    -------
    dict
        The file's content, with ``images``, ``annotations`` and ``categories`` as lists.

    Raises
    ------
    DescryError
        When the file is missing, is not JSON or breaks a rule of the format: a missing key, a
        duplicate id, an annotation of an unknown image or category, a box that is not four
        finite numbers of non-negative size. The message names file, entry, key and value.
    """
    return check_coco(_read_object(path), path, foreign)


def check_coco(coco: dict[str, Any], path: Path, foreign: bool = False) -> dict[str, Any]:
    """Check the content of the file at `path` and complete it; see `load_coco`."""
    for key in _LISTS:
        if not isinstance(coco.get(key), list):
            raise DescryError(
                f"{path}: '{key}' is {shown(coco.get(key))}; a COCO detection file has a list "
                f"there. Give the file with images, annotations and categories."
            )
    check = _Check(path)
    sizes: dict[str, type] = {"width": int, "height": int}
    if foreign:
        sizes = {}
        for i, image in enumerate(coco["images"]):
            check.foreign_size(f"images[{i}]", image)
    categories = check.ids("categories", coco["categories"], {"name": str})
    images = check.ids("images", coco["images"], {"file_name": str, **sizes})
    check.ids("annotations", coco["annotations"], {"bbox": list})
    for i, annotation in enumerate(coco["annotations"]):
        check.annotation(f"annotations[{i}]", annotation, images, categories)
    return coco


def _read_object(path: Path) -> dict[str, Any]:
    """Top-level object of a JSON file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DescryError(f"{path}: no such COCO file. Run the convert stage first.") from None
    except (ValueError, RecursionError) as error:
        raise DescryError(f"{path}: not a JSON file in UTF-8: {error}") from None
    except OSError as error:
        raise DescryError(f"{path}: cannot be read: {error.strerror}") from None
    if not isinstance(content, dict):
        raise DescryError(
            f"{path}: the top level is {shown(content)}; a COCO file is an object with "
            f"{', '.join(_LISTS)}"
        )
    return content


class _Check:
    """The rules of the format, with messages that name the file and the entry."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fail(self, where: str, key: str, value: object, wanted: str) -> DescryError:
        """Build the error for one wrong value."""
        return DescryError(f"{self.path}: {where}.{key} is {shown(value)}; it must be {wanted}")

    def ids(self, name: str, entries: list[Any], keys: Mapping[str, type]) -> set[int]:
        """Check required keys and unique ids of one list; return the ids."""
        seen: dict[int, int] = {}
        for i, entry in enumerate(entries):
            where = f"{name}[{i}]"
            if not isinstance(entry, dict):
                raise DescryError(f"{self.path}: {where} is {shown(entry)}, not an object")
            number = self.value(where, entry, "id", int)
            if number in seen:
                raise DescryError(
                    f"{self.path}: {where}.id is {number}, which {name}[{seen[number]}] has "
                    f"already; give every entry its own id"
                )
            seen[number] = i
            for key, kind in keys.items():
                self.value(where, entry, key, kind)
        return set(seen)

    def value(self, where: str, entry: Mapping[str, Any], key: str, kind: type) -> Any:
        """Return `entry[key]` if it is of the right kind (sizes positive, names not empty)."""
        value = entry.get(key)
        wanted = {int: "a whole number", str: "a text", list: "a list of 4 numbers"}[kind]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise self.fail(where, key, value, wanted)
        if kind is int and not is_whole(value):
            raise self.fail(where, key, value, "a whole number below 2**63")
        if kind is str and not _is_unicode(str(value)):
            raise self.fail(where, key, value, "a text of whole Unicode characters")
        if key in ("width", "height") and entry[key] <= 0:
            raise self.fail(where, key, value, "a positive number of pixels")
        if kind is str and not value:
            raise self.fail(where, key, value, "a text that is not empty")
        return value

    def foreign_size(self, where: str, image: object) -> None:
        """Make whole numbers of an image's width and height, or None of both."""
        if not isinstance(image, dict):
            return  # `ids` says so
        for key in ("width", "height"):
            value = image.get(key)
            whole = int(value) if isinstance(value, float) and value.is_integer() else value
            image[key] = whole or None
            if whole:
                self.value(where, image, key, int)
        if not (image["width"] and image["height"]):
            image["width"] = image["height"] = None

    def annotation(
        self, where: str, entry: dict[str, Any], images: set[int], categories: set[int]
    ) -> None:
        """Check references and box of one annotation; fill in ``area`` and ``iscrowd``."""
        wanted = {"image_id": (images, "images"), "category_id": (categories, "categories")}
        for key, (known, plural) in wanted.items():
            if self.value(where, entry, key, int) not in known:
                raise self.fail(where, key, entry[key], f"an id that stands in {plural}")
        box = entry["bbox"]
        if len(box) != 4 or not all(is_finite(v) for v in box):
            raise self.fail(where, "bbox", box, "[x, y, width, height], finite numbers")
        if box[2] < 0 or box[3] < 0:
            raise self.fail(where, "bbox", box, "of non-negative width and height")
        crowd = entry.setdefault("iscrowd", 0)
        if crowd not in (0, 1):
            raise self.fail(where, "iscrowd", crowd, "0 or 1")
        area = entry.setdefault("area", box[2] * box[3])
        if not is_finite(area) or area < 0:
            raise self.fail(where, "area", area, "a finite number of square pixels")


def is_finite(value: object) -> bool:
    """Whether `value` is a number that a float holds, not a bool, not NaN and not infinite."""
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # a whole number of hundreds of digits
        return False


def is_whole(value: object) -> bool:
    """Whether `value` is a whole number of at most 64 bits, not a bool."""
    return type(value) is int and -(2**63) <= value < 2**63


def _is_unicode(text: str) -> bool:
    """Whether `text` can be written; JSON may hold half of a character's pair of codes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def shown(value: object) -> str:
    """A value as the message shows it: short, absent ones named so."""
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def write_coco(
    path: Path,
    *,
    info: Mapping[str, object],
    licenses: Sequence[Mapping[str, object]],
    categories: Sequence[tuple[str, str]],
    images: Iterable[Mapping[str, Any]],
    annotations: Iterable[Mapping[str, Any]],
) -> None:
    """Write a COCO detection file: streamed, atomic, equal input gives equal bytes.

    Parameters
    ----------
    categories : sequence of (name, supercategory)
        Their ids are 1, 2, 3, ... in this order.
    images : iterable of mappings
        With ``file_name``, ``width`` and ``height`` and any further JSON values, but no ``id``:
        ids are 1, 2, 3, ... in this order.
    annotations : iterable of mappings
        With ``image_id``, ``category_id`` and ``bbox``; ids are 1, 2, 3, ... in this order,
        ``area`` is width x height and ``iscrowd`` 0 unless they are given.

    Raises
    ------
    ValueError
        When an annotation names an image or a category that is not written.
    """
    classes = [
        {"id": i, "name": name, "supercategory": parent}
        for i, (name, parent) in enumerate(categories, start=1)
    ]
    with replacing(path) as stream:
        stream.write('{\n"info": ' + _dump(info) + ',\n"licenses": ' + _dump(list(licenses)))
        _write_list(stream, "categories", classes)
        written = _write_list(stream, "images", _numbered(images))
        _write_list(stream, "annotations", _completed(annotations, written, len(classes)))
        stream.write("\n}\n")


def _numbered(images: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Images with their ids."""
    for i, image in enumerate(images, start=1):
        if "id" in image:
            raise ValueError(f"image {image['file_name']!r} already has an id")
        yield {"id": i, **image}


def _completed(
    annotations: Iterable[Mapping[str, Any]], images: int, categories: int
) -> Iterator[dict[str, Any]]:
    """Annotations with ids, area and iscrowd."""
    for i, annotation in enumerate(annotations, start=1):
        for key, last in (("image_id", images), ("category_id", categories)):
            if not 1 <= annotation[key] <= last:
                raise ValueError(f"annotation {i}: {key} {annotation[key]} is not in 1..{last}")
        x, y, width, height = annotation["bbox"]
        yield {
            "id": i,
            "area": width * height,
            "iscrowd": 0,
            **annotation,
            "bbox": [x, y, width, height],
        }


def _write_list(stream: IO[str], name: str, entries: Iterable[Mapping[str, Any]]) -> int:
    """Write one list of the file, an entry a line; return how many."""
    stream.write(f',\n"{name}": [')
    count = 0
    for entry in entries:
        stream.write(("," if count else "") + "\n" + _dump(entry))
        count += 1
    stream.write("\n]" if count else "]")
    return count


def _dump(value: object) -> str:
    """JSON on one line; NaN and infinity are refused because they are not JSON."""
    return json.dumps(value, allow_nan=False, separators=(", ", ": "))

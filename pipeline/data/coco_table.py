"""A COCO file of any size as arrays, which take a fifth of what its entries take as objects.

Of an annotation nothing is kept that detection does not need. A sound file is decoded an annotation
at a time; what is not strictly JSON (NaN, as Python writes it) or breaks a rule is left to
`load_coco`, which takes it or says what is wrong.
"""

import json
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.data.coco import check_coco, load_coco
from pipeline.data.masks import is_mask

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class CocoTable:
    """The entries of a COCO file.

    Attributes
    ----------
    images, categories : list of dict
        Checked and completed as by `load_coco` with `foreign`; of an image what `_Image` names.
    ids, image_ids, category_ids : array (n,), int64
        Of the annotations.
    boxes : array (n, 4), float64
        x, y, width, height.
    crowds : array (n,), bool
    rotations : dict
        Row -> value of ``attributes.rotation``, where there is one.
    shapes : bytes
        ``segmentation`` of all rows as JSON, one after the other, but for those that say no more
        than their box.
    ends : array (n + 1,), int64
        Where the rows begin in it.
    """

    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    ids: NDArray[np.int64]
    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    crowds: NDArray[np.bool_]
    rotations: dict[int, object]
    shapes: bytes
    ends: NDArray[np.int64]

    def mask(self, row: int) -> str:
        """``segmentation`` of a row as JSON; empty where only the box is known."""
        return self.shapes[self.ends[row] : self.ends[row + 1]].decode() if self.shapes else ""

    def rows_by_image(self) -> dict[int, list[int]]:
        """Rows of each image that has any, in the order of their annotation ids."""
        if not len(self.ids):
            return {}
        order = np.lexsort((self.ids, self.image_ids))
        images, first = np.unique(self.image_ids[order], return_index=True)
        rows = (mine.tolist() for mine in np.split(order, first[1:]))
        return dict(zip(images.tolist(), rows, strict=True))


class _Image(msgspec.Struct, gc=False):
    id: Any = None
    file_name: Any = None
    width: Any = None
    height: Any = None
    group: Any = None
    patient_id: Any = None


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: Annotated[int, msgspec.Meta(ge=0, le=1)] = 0
    area: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    attributes: Any = None
    segmentation: msgspec.Raw = msgspec.Raw(b"null")


class _File(msgspec.Struct, gc=False):
    images: list[_Image]
    annotations: list[msgspec.Raw]  # views of the file's bytes
    categories: list[dict[str, Any]]


def load_table(path: Path) -> CocoTable:
    """Read and check a COCO detection file of any origin.

    Raises
    ------
    DescryError
        As `load_coco`.
    """
    return _decoded(path) or _loaded(path)


def _decoded(path: Path) -> CocoTable | None:
    """The table of a sound file; None for one that somebody should look at again."""
    try:
        content = path.read_bytes().removeprefix(_BOM)
        file = msgspec.json.decode(content, type=_File)
        del content
        columns = _Columns()
        decode = msgspec.json.Decoder(_Annotation).decode
        for entry in file.annotations:
            columns.add(decode(entry))
    except (msgspec.MsgspecError, OSError, OverflowError, RecursionError):
        return None
    images = [msgspec.structs.asdict(image) for image in file.images]
    lists = {"images": images, "annotations": [], "categories": file.categories}
    return columns.table(check_coco(lists, path, foreign=True))


def _loaded(path: Path) -> CocoTable:
    """The table by way of objects."""
    coco, columns = load_coco(path, foreign=True), _Columns()
    for entry in coco["annotations"]:
        known = {key: entry[key] for key in ("id", "image_id", "category_id", "bbox")}
        shape = msgspec.Raw(json.dumps(entry.get("segmentation")).encode())
        more = {"attributes": entry.get("attributes"), "segmentation": shape}
        columns.add(_Annotation(**known, iscrowd=int(entry["iscrowd"]), **more))
    table = columns.table(coco)
    assert table is not None
    return table


class _Columns:
    """Annotations as columns that grow."""

    def __init__(self) -> None:
        self.numbers, self.boxes = array("q"), array("d")
        self.rotations: dict[int, object] = {}
        self.shapes, self.ends = bytearray(), array("q", [0])

    def add(self, entry: _Annotation) -> None:
        """Append a row."""
        if isinstance(entry.attributes, dict) and entry.attributes.get("rotation") is not None:
            self.rotations[len(self.numbers) // 4] = entry.attributes["rotation"]
        self.numbers.extend((entry.id, entry.image_id, entry.category_id, entry.iscrowd))
        self.boxes.extend(entry.bbox)
        shape = bytes(entry.segmentation)
        if shape != b"null" and is_mask(msgspec.json.decode(shape), list(entry.bbox)):
            self.shapes += shape
        self.ends.append(len(self.shapes))

    def table(self, coco: dict[str, Any]) -> CocoTable | None:
        """The rows with images and categories; None when they break a rule."""
        numbers = np.frombuffer(self.numbers, np.int64).reshape(-1, 4)
        ids, images, categories, crowds = np.ascontiguousarray(numbers.T)
        boxes = np.frombuffer(self.boxes, np.float64).reshape(-1, 4)
        sound = (
            len(np.unique(ids)) == len(ids)
            and bool(np.isin(images, [entry["id"] for entry in coco["images"]]).all())
            and bool(np.isin(categories, [entry["id"] for entry in coco["categories"]]).all())
            and bool(np.isfinite(boxes).all() and (boxes[:, 2:] >= 0).all())
        )
        if not sound:
            return None
        return CocoTable(
            coco["images"],
            coco["categories"],
            ids,
            images,
            categories,
            boxes,
            crowds.astype(bool),
            self.rotations,
            bytes(self.shapes),
            np.frombuffer(self.ends, np.int64),
        )

"""Ground truth and detections as arrays, in the order in which pycocotools meets them.

A million detections are a few tens of megabytes here, and everything that follows (matching,
curves, resampling) is arithmetic on these arrays.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.data.masks import compressed, outline, rle
from pipeline.errors import DescryError

MAX_DETECTIONS = 100  # of one class in one image, COCO's limit; by descending score


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """The objects of one COCO file, by image and class.

    Attributes
    ----------
    image_ids : array (n,), int64
        Ascending.
    categories : tuple of (id, name)
        By ascending id; a class's place in it is its label.
    image : array (m,), int64
        Place in `image_ids` of each object.
    label : array (m,), int64
    boxes : array (m, 4), float64
        x, y, width, height in pixels.
    area : array (m,), float64
        In square pixels, as the file says (a mask's area may be smaller than the box's).
    crowd : array (m,), bool
        Regions of many objects: neither counted nor held against a detection.
    masks : array (m,) of COCO run lengths, or None
        None: objects are their boxes. An object of which only the box is known is its rectangle.
    """

    image_ids: np.ndarray
    categories: tuple[tuple[int, str], ...]
    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    masks: np.ndarray | None = None

    @classmethod
    def of(cls, coco: Mapping[str, Any], *, masks: bool = False) -> "GroundTruth":
        """Pack a COCO file as `pipeline.data.coco.load_coco` gives it."""
        image_ids = np.array(sorted(image["id"] for image in coco["images"]), dtype=np.int64)
        pairs = ((int(c["id"]), str(c["name"])) for c in coco["categories"])
        categories = tuple(sorted(pairs))
        objects = coco["annotations"]
        image = np.searchsorted(image_ids, _integers(a["image_id"] for a in objects))
        label = _labels(categories, _integers(a["category_id"] for a in objects))
        order = np.lexsort((label, image))  # stable: the file's order inside an image's class
        boxes = np.array([a["bbox"] for a in objects], dtype=np.float64).reshape(-1, 4)
        area = np.array([a["area"] for a in objects], dtype=np.float64)
        crowd = np.array([bool(a["iscrowd"]) for a in objects], dtype=bool)
        shapes = _masks_of(coco)[order] if masks else None
        ours = image_ids, categories, image[order], label[order], boxes[order], area[order]
        return cls(*ours, crowd[order], shapes)

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.image_ids)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.categories)

    @property
    def objects(self) -> np.ndarray:
        """Number of objects that count, of each class, (K,)."""
        return np.bincount(self.label[~self.crowd], minlength=self.classes)


@dataclass(frozen=True, slots=True)
class Predictions:
    """Detections, by image, class and descending score.

    Attributes
    ----------
    image, label : array (d,), int64
        Places in the `GroundTruth`'s `image_ids` and `categories`.
    boxes : array (d, 4), float64
        x, y, width, height in pixels.
    score : array (d,), float64
    rank : array (d,), int64
        From 0, among the detections of the same class in the same image.
    masks : array (d,) of COCO run lengths, or None
    """

    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    score: np.ndarray
    rank: np.ndarray
    masks: np.ndarray | None = None

    @classmethod
    def of(
        cls, truth: GroundTruth, results: Sequence[Mapping[str, Any]], limit: int = MAX_DETECTIONS
    ) -> "Predictions":
        """Pack COCO results; only the first `limit` of a class in an image are kept.

        Raises
        ------
        DescryError
            When a detection names an image or a class that the ground truth does not have.
        """
        ids = _integers(row["image_id"] for row in results)
        classes = _integers(row["category_id"] for row in results)
        boxes = np.array([row["bbox"] for row in results], dtype=np.float64).reshape(-1, 4)
        score = np.array([row["score"] for row in results], dtype=np.float64)
        masks = None
        if truth.masks is not None:
            masks = objects_of([row["segmentation"] for row in results])
        return cls.packed(truth, ids, classes, boxes, score, limit, masks)

    @classmethod
    def packed(
        cls,
        truth: GroundTruth,
        image_ids: np.ndarray,
        category_ids: np.ndarray,
        boxes: np.ndarray,
        score: np.ndarray,
        limit: int = MAX_DETECTIONS,
        masks: np.ndarray | None = None,
    ) -> "Predictions":
        """The same from arrays of ids, boxes (d, 4), scores and masks."""
        _check_known("image_id", image_ids, truth.image_ids)
        known = np.array([i for i, _ in truth.categories], dtype=np.int64)
        _check_known("category_id", category_ids, known)
        image = np.searchsorted(truth.image_ids, image_ids)
        label = _labels(truth.categories, category_ids)
        order = np.lexsort((-score, label, image))  # stable, as pycocotools' mergesort
        image, label = image[order], label[order]
        _, rank = runs(image * max(truth.classes, 1) + label)
        kept = rank < limit
        order = order[kept]
        masks = None if masks is None else masks[order]
        return cls(image[kept], label[kept], boxes[order], score[order], rank[kept], masks)

    def __len__(self) -> int:
        return len(self.score)

    def where(self, chosen: np.ndarray) -> "Predictions":
        """Those rows; ranks stay."""
        return Predictions(
            self.image[chosen],
            self.label[chosen],
            self.boxes[chosen],
            self.score[chosen],
            self.rank[chosen],
            None if self.masks is None else self.masks[chosen],
        )


def objects_of(values: Sequence[Any]) -> np.ndarray:
    """An array (n,) of any objects."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _masks_of(coco: Mapping[str, Any]) -> np.ndarray:
    """Run lengths of all annotations, in the file's order."""
    size = {image["id"]: (image["height"], image["width"]) for image in coco["images"]}
    masks = []
    for a in coco["annotations"]:
        counts = compressed(a.get("segmentation"), *size[a["image_id"]])
        counts = counts or compressed(outline(*a["bbox"]), *size[a["image_id"]])
        masks.append(rle(counts or "", *size[a["image_id"]]))
    return objects_of(masks)


def _integers(values: Iterable[Any]) -> np.ndarray:
    return np.fromiter(values, dtype=np.int64)


def _labels(categories: Sequence[tuple[int, str]], ids: np.ndarray) -> np.ndarray:
    """Places of category ids in `categories`."""
    return np.searchsorted(np.array([i for i, _ in categories], dtype=np.int64), ids)


def runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs of equal values: where each begins, and the place of each row in its own.

    For a, a, a, b, c, c: 0, 3, 4 and 0, 1, 2, 0, 0, 1.
    """
    new = np.ones(len(values), dtype=bool)
    new[1:] = values[1:] != values[:-1]
    starts = np.flatnonzero(new)
    lengths = np.diff(np.append(starts, len(values)))
    return starts, np.arange(len(values)) - np.repeat(starts, lengths)


def _check_known(key: str, ids: np.ndarray, known: np.ndarray) -> None:
    unknown = ids[~np.isin(ids, known)]
    if len(unknown):
        some = ", ".join(map(str, known[:10].tolist())) + (", ..." if len(known) > 10 else "")
        raise DescryError(
            f"detection of {key} {unknown[0]}: the ground truth has no such {key[:-3]} "
            f"({len(unknown)} such detections). It has {some or 'none'}"
        )

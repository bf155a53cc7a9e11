"""What is looked through: images of some splits, their boxes, and how to choose among them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.browse.boxes import BOX_KINDS, BoxTable, Split, boxes_of
from pipeline.errors import DescryError
from pipeline.evaluate.coco_matching import AREAS

SIZES = tuple(AREAS)  # all, small, medium, large
ORDERS = ("file", "loss", "disagreement", "boxes")


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """One image.

    Attributes
    ----------
    split : str
    image_id : int
    file_name : str
        As the COCO file has it.
    width, height : int
        In pixels.
    root : Path
        Folder that `file_name` is relative to.
    frame : int
        From 0, of a DICOM file.
    """

    split: str
    image_id: int
    file_name: str
    width: int
    height: int
    root: Path
    frame: int = 0


@dataclass(frozen=True, slots=True)
class Filters:
    """Which images are shown, and in which order.

    An image is shown if one of its boxes fits all of `label` to `high`, or if none of these asks
    for anything.

    Attributes
    ----------
    split, label, kind : str
        Empty: any.
    size : str
        One of `SIZES`, by COCO's areas.
    low, high : float
        Range of the score; objects have none and fit only the whole range.
    order : str
        One of `ORDERS`; by loss and disagreement the image with the worst box comes first.
    """

    split: str = ""
    label: str = ""
    kind: str = ""
    size: str = "all"
    low: float = 0.0
    high: float = 1.0
    order: str = "file"

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Filters":
        """From the query of an address.

        Raises
        ------
        DescryError
            For a value that is not allowed.
        """
        try:
            low, high = float(query.get("low", 0)), float(query.get("high", 1))
        except ValueError:
            raise DescryError("low, high: must be numbers from 0 to 1") from None
        words = {key: query.get(key, "") for key in ("split", "label", "kind")}
        size, order = query.get("size", "all"), query.get("order", "file")
        allowed = {"kind": (words["kind"], ("", *BOX_KINDS)), "size": (size, SIZES)}
        for key, (value, choices) in (allowed | {"order": (order, ORDERS)}).items():
            if value not in choices:
                raise DescryError(f"{key}={value!r}: must be one of {', '.join(choices)}")
        return cls(**words, size=size, low=low, high=high, order=order)

    @property
    def asks_for_boxes(self) -> bool:
        """Whether anything but split and order is asked for."""
        return bool(self.label or self.kind) or self.size != "all" or not self._any_score

    @property
    def _any_score(self) -> bool:
        return self.low <= 0 and self.high >= 1


class Collection:
    """Images and boxes of some splits.

    Attributes
    ----------
    images : list of ImageEntry
    splits : tuple of str
    classes : tuple of str
    boxes : BoxTable
    labelled : bool
        Whether there is a ground truth.
    compared : bool
        Whether detections stand beside a ground truth, so that there are mistakes.
    """

    def __init__(self, splits: Sequence[Split]) -> None:
        self.splits = tuple(split.name for split in splits)
        self.classes = tuple(
            dict.fromkeys(
                c["name"]
                for split in splits
                for c in sorted(split.coco["categories"], key=lambda c: c["id"])
            )
        )
        self.labelled = any(split.labelled for split in splits)
        self.compared = any(split.labelled and split.found is not None for split in splits)
        self.images: list[ImageEntry] = []
        parts: list[BoxTable] = []
        for split in splits:
            parts += boxes_of(split, self.classes, len(self.images))
            self.images += _entries(split)
        self.boxes = BoxTable.joined(parts)

    def rows(self, i: int) -> slice:
        """Where the boxes of image `i` stand in the table."""
        first, end = np.searchsorted(self.boxes.image, [i, i + 1])
        return slice(int(first), int(end))

    def fitting(self, filters: Filters) -> np.ndarray:
        """Whether each box is asked for, (n,), bool."""
        table = self.boxes
        keep = np.ones(len(table), dtype=bool)
        if filters.label:
            keep &= table.label == self._place(filters.label)
        if filters.kind:
            keep &= table.kind == BOX_KINDS.index(filters.kind)
        if filters.size != "all":
            low, high = AREAS[filters.size]
            keep &= (table.area >= low) & (table.area <= high)
        if filters.low > 0 or filters.high < 1:
            keep &= (table.score >= filters.low) & (table.score <= filters.high)  # NaN: no
        return keep

    def chosen(self, filters: Filters) -> np.ndarray:
        """Places of the images to be shown, in order."""
        fitting = self.fitting(filters)
        here = np.ones(len(self.images), dtype=bool)
        if filters.split:
            here &= np.array([entry.split == filters.split for entry in self.images], dtype=bool)
        if filters.asks_for_boxes:
            here &= np.bincount(self.boxes.image[fitting], minlength=len(self.images)) > 0
        places = np.flatnonzero(here)
        worst, total = self._weights(filters.order, fitting)
        return places[np.lexsort((-total[places], -worst[places]))]  # stable

    def _weights(self, order: str, fitting: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What images are ordered by, the largest first: their worst box, then all of them."""
        worst, total = np.zeros(len(self.images)), np.zeros(len(self.images))
        image = self.boxes.image[fitting]
        if order == "boxes":
            np.add.at(total, image, 1.0)
        elif order in ("loss", "disagreement"):
            values = getattr(self.boxes, order)[fitting]
            np.maximum.at(worst, image, values)
            np.add.at(total, image, values)
        return worst, total

    def _place(self, label: str) -> int:
        if label not in self.classes:
            raise DescryError(f"label={label!r}: must be one of {', '.join(self.classes)}")
        return self.classes.index(label)


def _entries(split: Split) -> list[ImageEntry]:
    """Images by ascending id, the order of `GroundTruth.image_ids`."""
    return [
        ImageEntry(
            split.name,
            image["id"],
            image["file_name"],
            image["width"],
            image["height"],
            split.images,
            int(image.get("frame", 1)) - 1,
        )
        for image in sorted(split.coco["images"], key=lambda image: image["id"])
    ]

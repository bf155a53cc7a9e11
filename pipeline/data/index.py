"""A COCO file as a few numpy arrays, so that loader processes share it without copying."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.data.coco import load_coco
from pipeline.data.masks import compressed, decode, is_mask
from pipeline.errors import DescryError


class CocoIndex:
    """Images and boxes of one COCO file, packed.

    Python objects are copied into each loader process as their reference counts change; arrays
    are not, so the memory of workers stays flat.

    Attributes
    ----------
    image_ids : array (n,), int64
    sizes : array (n, 2), int32
        Width and height in pixels.
    boxes : array (m, 4), float32
        xyxy in pixels, of all images one after the other.
    labels : array (m,), int64
        From 0, the category's place in `categories`.
    crowd : array (m,), bool
    categories : list of (id, name)
    masked : int or None
        How many objects have a mask, crowds left out; None if masks were not asked for.
    """

    def __init__(self, path: Path, images: Path, *, masks: bool = False) -> None:
        coco = load_coco(path)
        self.path, self.images = path, images
        ordered = sorted(coco["images"], key=lambda image: image["id"])
        self.categories = [
            (int(c["id"]), str(c["name"]))
            for c in sorted(coco["categories"], key=lambda c: c["id"])
        ]
        self.image_ids = np.array([image["id"] for image in ordered], dtype=np.int64)
        self.sizes = np.array(
            [(image["width"], image["height"]) for image in ordered], dtype=np.int32
        ).reshape(-1, 2)
        self._names, self._name_ends = _pack([image["file_name"] for image in ordered])
        self._pack_boxes(coco["annotations"])
        self.masked: int | None = None
        if masks:
            self._pack_masks(coco["annotations"])

    def _pack_boxes(self, annotations: Sequence[dict]) -> None:
        place = {image_id: i for i, image_id in enumerate(self.image_ids.tolist())}
        label = {category_id: i for i, (category_id, _) in enumerate(self.categories)}
        rows = self._in_order(annotations)
        xywh = np.array([a["bbox"] for a in rows], dtype=np.float32).reshape(-1, 4)
        self.boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        self.labels = np.array([label[a["category_id"]] for a in rows], dtype=np.int64)
        self.crowd = np.array([bool(a["iscrowd"]) for a in rows], dtype=bool)
        counts = np.zeros(len(self.image_ids) + 1, dtype=np.int64)
        for a in rows:
            counts[place[a["image_id"]] + 1] += 1
        self._box_ends = np.cumsum(counts)

    def _in_order(self, annotations: Sequence[dict]) -> list[dict]:
        """By image, then by id; the images stand by their ids."""
        return sorted(annotations, key=lambda a: (a["image_id"], a["id"]))

    def _pack_masks(self, annotations: Sequence[dict]) -> None:
        size = dict(zip(self.image_ids.tolist(), self.sizes[:, ::-1].tolist(), strict=True))
        counts = [
            (compressed(shape, *size[a["image_id"]]) or "") if is_mask(shape, a["bbox"]) else ""
            for a in self._in_order(annotations)
            for shape in [a.get("segmentation")]
        ]
        self.masked = sum(bool(c) for c in np.array(counts, dtype=object)[~self.crowd])
        self._masks, self._mask_ends = _pack(counts)

    def __len__(self) -> int:
        return len(self.image_ids)

    def file_name(self, i: int) -> str:
        """The COCO file name of image `i`, relative to the images folder."""
        start, end = self._name_ends[i], self._name_ends[i + 1]
        return self._names[start:end].tobytes().decode("utf-8")

    def file(self, i: int) -> Path:
        """Where image `i` lies."""
        return self.images / self.file_name(i)

    def objects(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (n, 4) xyxy in pixels and labels (n,) of image `i`, crowds left out."""
        rows = slice(self._box_ends[i], self._box_ends[i + 1])
        keep = ~self.crowd[rows]
        return self.boxes[rows][keep], self.labels[rows][keep]

    def fitted(self, i: int, side: int) -> tuple[np.ndarray, np.ndarray]:
        """`objects`, the boxes in pixels of the square of `side` px that the model sees."""
        boxes, labels = self.objects(i)
        return boxes * (side / self.sizes[i].max()), labels

    def masks(self, i: int) -> list[np.ndarray | None]:
        """Masks (H, W), bool, of the objects of image `i`; None where only the box is known."""
        width, height = self.sizes[i].tolist()
        rows = np.arange(self._box_ends[i], self._box_ends[i + 1])
        ends = self._mask_ends
        texts = [self._masks[ends[r] : ends[r + 1]].tobytes() for r in rows[~self.crowd[rows]]]
        return [decode(text.decode("ascii"), height, width) if text else None for text in texts]

    def check_masks(self, task: str) -> None:
        """Refuse a training that needs masks on a dataset that has none.

        Raises
        ------
        DescryError
            For "instances" without a single mask, for "semantic" with an object that has none.
        """
        objects = int((~self.crowd).sum())
        if task == "detect" or self.masked == objects > 0 or (self.masked and task == "instances"):
            return
        missing = f"none of its {objects} objects has a mask"
        if self.masked:
            missing = f"{objects - self.masked} of its {objects} objects have no mask"
        raise DescryError(
            f"{self.path}: {missing}, which model.task={task} needs. Set model.task=detect, or "
            "convert raw files with masks: COCO with polygons or run lengths, a folder of masks, "
            "COD10K's GT_Instance, Cheng's tumours (docs/how-to/masks.md)"
        )


def _pack(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """All names as one byte array, and where each starts (n + 1)."""
    encoded = [name.encode("utf-8") for name in names]
    ends = np.cumsum([0, *map(len, encoded)])
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), ends

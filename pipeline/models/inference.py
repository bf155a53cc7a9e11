"""A saved model over a split of a COCO dataset, batch by batch."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import DataLoader, Dataset

from pipeline.data.index import CocoIndex
from pipeline.data.intensity import Intensity
from pipeline.data.masks import encode, rle
from pipeline.data.pixels import load_pixels
from pipeline.data.results import to_results
from pipeline.models.ensemble import Ensemble
from pipeline.models.saved import Detections, SavedModel


class _Images(Dataset[np.ndarray]):
    """8-bit images of an index in their own sizes, for loader processes."""

    def __init__(self, index: CocoIndex, intensity: Intensity) -> None:
        self.index, self.intensity = index, intensity

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> np.ndarray:
        return load_pixels(self.index, i, self.intensity)


def detect_split(
    model: SavedModel | Ensemble, index: CocoIndex, *, batch_size: int = 8, workers: int = 0
) -> list[dict]:
    """Detections in all images of a split, as COCO results in the order of the images."""
    rows: list[dict] = []
    for start, images in _batches(model, index, batch_size, workers):
        for i, found in enumerate(model.detect(images), start):
            image_id = int(index.image_ids[i])
            masks = segmentations(found, *images[i - start].shape[:2])
            rows += to_results(image_id, found.boxes, found.scores, found.labels, masks)
    return rows


def segmentations(found: Detections, height: int, width: int) -> list[dict] | None:
    """COCO's run lengths of the masks in an image of that size; None where there are no masks."""
    if found.masks is None:
        return None
    pairs = zip(found.masks, found.boxes, strict=True)
    return [rle(encode(mask.pixels(height, width, box)), height, width) for mask, box in pairs]


def _batches(
    model: SavedModel | Ensemble, index: CocoIndex, batch_size: int, workers: int
) -> Iterator[tuple[int, list[np.ndarray]]]:
    loader = DataLoader(
        _Images(index, model.intensity), batch_size, num_workers=workers, collate_fn=list
    )
    start = 0
    for images in loader:
        yield start, images
        start += len(images)

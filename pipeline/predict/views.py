"""Several looks at one picture: windows that slide over a large one, and its mirror image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import batched_nms

from pipeline.data.masks import SoftMask
from pipeline.predict.batches import ImageDetections, TrainedModel
from pipeline.predict.windows import Windows

MERGE_IOU = 0.5
_COVERED = 0.5  # share of a cut box that lies in a whole one, from which on they are one object
_EDGE = 0.01  # of a window's side: a box that comes so near to a cut counts as cut


@dataclass(frozen=True, slots=True)
class View:
    """A part of a picture, in pixels, mirrored left to right or not."""

    left: int
    top: int
    right: int
    bottom: int
    mirrored: bool = False


@dataclass(slots=True)
class Merged:
    """Detections of all views of one picture (see `ImageDetections`)."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: Sequence[SoftMask] | None = None


class Views:
    """Shows a detector every view of each picture, in batches of one size, and merges.

    The last places of an incomplete batch are filled with black pictures. Batched arithmetic may
    differ in the last bit with the size of the batch; this way it is the same for every picture.

    Parameters
    ----------
    detector : Detector
    size : int
        Views per call of the model.
    windows : Windows
        Which pictures are cut.
    mirror : bool
        Look at the mirror image too.
    """

    def __init__(
        self, detector: TrainedModel, size: int, windows: Windows, mirror: bool = False
    ) -> None:
        self.detector, self.size, self.windows, self.mirror = detector, size, windows, mirror

    def detect(self, images: Sequence[np.ndarray]) -> list[ImageDetections]:
        """Detections per image, in its pixels."""
        views = [self.views(*image.shape[:2]) for image in images]
        found = self._seen(
            [(image, view) for image, ours in zip(images, views, strict=True) for view in ours]
        )
        return [merged([(view, next(found)) for view in ours]) for ours in views]

    def views(self, height: int, width: int) -> list[View]:
        """All views of a picture of this size; first the whole one or the windows, row by row."""
        side = self.windows.side_for(height, width)
        views = [View(0, 0, width, height)]
        if side is not None:
            views = _tiles(height, width, side, self.windows.overlap)
        if self.mirror:
            views = views + [View(v.left, v.top, v.right, v.bottom, True) for v in views]
        return views

    def _seen(self, views: list[tuple[np.ndarray, View]]) -> Iterator[ImageDetections]:
        for start in range(0, len(views), self.size):
            pixels = [cut(image, view) for image, view in views[start : start + self.size]]
            black = [np.zeros_like(pixels[0])] * (self.size - len(pixels))
            yield from self.detector.detect(pixels + black)[: len(pixels)]


def cut(image: np.ndarray, view: View) -> np.ndarray:
    """Pixels of a view (h, w) or (h, w, 3); no copy of what is the whole picture."""
    part = image[view.top : view.bottom, view.left : view.right]
    return np.ascontiguousarray(part[:, ::-1] if view.mirrored else part)


def merged(seen: list[tuple[View, ImageDetections]]) -> ImageDetections:
    """Detections of a picture from those of its views.

    A box that ends where a window cuts is dropped if a whole box of its class covers half of it.
    Of overlapping boxes of a class that are left the best stays (non-maximum suppression at an
    IoU of `MERGE_IOU`); scores are not changed.
    """
    if len(seen) == 1:
        return seen[0][1]
    right, bottom = max(view.right for view, _ in seen), max(view.bottom for view, _ in seen)
    placed = [_placed(found, view) for view, found in seen]
    pairs = zip(placed, (view for view, _ in seen), strict=True)
    severed = np.concatenate([_severed(one.boxes, view, right, bottom) for one, view in pairs])
    every = _joined(placed)
    whole = _suppressed(_chosen(every, ~severed))
    rest = _chosen(every, severed)
    rest = _chosen(rest, ~_covered(rest, whole))
    return _suppressed(_joined([whole, rest]))


def _tiles(height: int, width: int, side: int, overlap: float) -> list[View]:
    """Windows over a picture; the last of a row or column ends at the picture's edge."""
    from monai.data.utils import dense_patch_slices  # takes seconds to import

    step = max(1, round(side * (1 - overlap)))
    slices = dense_patch_slices((height, width), (side, side), (step, step))
    return [View(across.start, down.start, across.stop, down.stop) for down, across in slices]


def _placed(found: ImageDetections, view: View) -> Merged:
    """From pixels of the view to pixels of the picture."""
    boxes = np.asarray(found.boxes, dtype=np.float64).reshape(-1, 4)
    if view.mirrored:
        boxes = boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [view.right - view.left, 0] * 2
    masks = found.masks
    if masks is not None and view.mirrored:
        masks = [mask.mirrored(view.right - view.left) for mask in masks]
    if masks is not None:
        masks = [mask.shifted(view.left, view.top) for mask in masks]
    return Merged(boxes + [view.left, view.top] * 2, found.scores, found.labels, masks)


def _severed(boxes: np.ndarray, view: View, right: int, bottom: int) -> np.ndarray:
    """Which boxes end where the window ends and the picture does not, (n,) bool."""
    edge = max(1.0, _EDGE * max(view.right - view.left, view.bottom - view.top))
    x1, y1, x2, y2 = boxes.T
    return (
        ((view.left > 0) & (x1 < view.left + edge))
        | ((view.top > 0) & (y1 < view.top + edge))
        | ((view.right < right) & (x2 > view.right - edge))
        | ((view.bottom < bottom) & (y2 > view.bottom - edge))
    )


def _covered(parts: Merged, whole: Merged) -> np.ndarray:
    """Which of `parts` lie by half or more in a box of the same class, (n,) bool."""
    first = np.maximum(parts.boxes[:, None, :2], whole.boxes[None, :, :2])  # (n, m, 2)
    last = np.minimum(parts.boxes[:, None, 2:], whole.boxes[None, :, 2:])
    shared = np.clip(last - first, 0, None).prod(axis=2)
    areas = (parts.boxes[:, 2:] - parts.boxes[:, :2]).prod(axis=1)
    same = parts.labels[:, None] == whole.labels[None, :]
    return ((shared >= _COVERED * areas[:, None]) & same).any(axis=1)


def _suppressed(found: Merged) -> Merged:
    """What non-maximum suppression per class leaves, best first."""
    boxes, scores, labels = (
        torch.from_numpy(np.ascontiguousarray(v)) for v in (found.boxes, found.scores, found.labels)
    )
    return _chosen(found, batched_nms(boxes, scores.double(), labels, MERGE_IOU).numpy())


def _chosen(found: Merged, index: np.ndarray) -> Merged:
    masks = found.masks
    if masks is not None:
        masks = [masks[i] for i in np.arange(len(masks))[index]]
    return Merged(found.boxes[index], found.scores[index], found.labels[index], masks)


def _joined(parts: Sequence[Merged]) -> Merged:
    boxes, scores, labels = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("boxes", "scores", "labels")
    )
    masks = None
    if all(part.masks is not None for part in parts):
        masks = [mask for part in parts for mask in part.masks or ()]
    return Merged(boxes, scores, labels, masks)

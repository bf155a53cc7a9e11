"""Several models and several views of an image as one detector: what evaluation asks.

One model, one view and plain non-maximum suppression are the model alone, to the bit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from pipeline.errors import DescryError
from pipeline.models.fusion import FUSIONS, Boxes
from pipeline.models.params import Selection
from pipeline.models.saved import Detections, SavedModel
from pipeline.models.thresholds import OperatingPoint

SCALES = (0.75, 1.25)  # of the image's side, beside 1
_STEP = 16  # px; sides are whole patches
CANDIDATES = 1000  # strongest of an image that soft-NMS sees


class Ensemble:
    """Detects with all models in all views and fuses what they find.

    Parameters
    ----------
    models : sequence of SavedModel
        With the same classes and intensity recipe; they are changed to give what `suppression`
        needs.
    selection : Selection
    suppression : {"nms", "soft_nms", "wbf"}
        See `pipeline.models.fusion`.
    tta : sequence of str
        Test-time augmentation: "flip" (left to right), "scale" (at `SCALES` too).

    Raises
    ------
    DescryError
        When the models do not belong together.
    """

    def __init__(
        self,
        models: Sequence[SavedModel],
        selection: Selection,
        suppression: str = "nms",
        tta: Sequence[str] = (),
    ) -> None:
        self.models, self.selection, self.suppression = models, selection, suppression
        self.mirrored = (False, True) if "flip" in tta else (False,)
        self.scales = (1.0, *SCALES) if "scale" in tta else (1.0,)
        _check_alike(models)
        self.categories, self.intensity = models[0].categories, models[0].intensity
        self.trained_on, self.task = models[0].trained_on, models[0].spec.task
        if self.task != "detect" and not self.single:
            raise DescryError(
                f"a model of model.task={self.task} is evaluated alone and as it is: give one "
                "--checkpoint, evaluate.suppression=nms and no evaluate.tta"
            )
        self.as_trained = self.single and models[0].detector.selection == selection
        raw = replace(selection, nms_threshold=1.0, max_detections=CANDIDATES)
        for model in models:
            model.detector.selection = raw if suppression == "soft_nms" else selection

    @property
    def operating_point(self) -> OperatingPoint | None:
        """That of the one model, if it detects as it was trained; else it must be chosen anew."""
        if not self.as_trained:
            return None
        return OperatingPoint.read(self.models[0].meta, self.models[0].score_threshold)

    @property
    def single(self) -> bool:
        """Whether it is one model as it stands, with nothing to fuse."""
        views = len(self.models) * len(self.mirrored) * len(self.scales)
        return views == 1 and self.suppression == "nms"

    def detect(self, images: Sequence[np.ndarray]) -> list[Detections]:
        """Find objects in 8-bit images (H, W) or (H, W, 3) of any sizes, as one batch a view."""
        if self.single:
            return self.models[0].detect(images)
        seen = list(self._views(images))
        return [self._fused([one[i] for one in seen]) for i in range(len(images))]

    def _views(self, images: Sequence[np.ndarray]) -> Iterator[list[Boxes]]:
        """What each model finds in each view of all images, in pixels of the images."""
        for model in self.models:
            for scale in self.scales:
                for mirrored in self.mirrored:
                    yield list(_seen(model, images, scale, mirrored))

    def _fused(self, seen: list[Boxes]) -> Detections:
        joined = Boxes(
            *(np.concatenate([getattr(b, n) for b in seen]) for n in ("boxes", "scores", "labels"))
        ).ranked()
        fuse, chosen = FUSIONS[self.suppression], self.selection
        left = fuse(joined, chosen.nms_threshold, len(seen)).ranked()
        left = left.chosen(left.scores > chosen.score_threshold)
        left = left.chosen(np.arange(min(len(left.scores), chosen.max_detections)))
        return Detections(left.boxes, left.scores, left.labels)


def _seen(
    model: SavedModel, images: Sequence[np.ndarray], scale: float, mirrored: bool
) -> Iterator[Boxes]:
    shown = [np.ascontiguousarray(image[:, ::-1]) if mirrored else image for image in images]
    found = model.detect(shown, side=_STEP * round(scale * model.image_size / _STEP))
    for image, one in zip(images, found, strict=True):
        boxes = one.boxes.astype(np.float64)
        if mirrored:
            boxes = boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [image.shape[1], 0] * 2
        yield Boxes(boxes, one.scores.astype(np.float64), one.labels)


def _check_alike(models: Sequence[SavedModel]) -> None:
    first = models[0]
    for other in models[1:]:
        for what in ("categories", "intensity", "trained_on"):
            ours, theirs = getattr(first, what), getattr(other, what)
            if ours != theirs:
                raise DescryError(
                    f"--checkpoint: models of one ensemble must have the same {what}, not {ours} "
                    f"and {theirs}: give checkpoints of one dataset"
                )

"""Frames in, detections out: batches across files, always of one size.

The last places of an incomplete batch are filled with black pictures. Batched arithmetic may
differ in the last bit with the size of the batch; this way it is the same for every frame, and
a run that was stopped and started again meets the same batches.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipeline.data.intensity import Intensity
from pipeline.data.results import BOX_DECIMALS, SCORE_DECIMALS
from pipeline.predict.records import Ended, FileResult, FrameResult, Picture


class Found(Protocol):
    """Detections in one image, by descending score (`pipeline.models.saved.Detections`)."""

    @property
    def boxes(self) -> np.ndarray:
        """Corners x1, y1, x2, y2 in pixels of the given image, (n, 4)."""
        ...

    @property
    def scores(self) -> np.ndarray:
        """Scores, (n,)."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """Category ids, (n,)."""
        ...


class Detector(Protocol):
    """What prediction needs of a trained model (`pipeline.models.saved.SavedModel`)."""

    @property
    def categories(self) -> tuple[tuple[int, str], ...]:
        """(id, name) of every class."""
        ...

    @property
    def intensity(self) -> Intensity:
        """Recipe of the training images."""
        ...

    @property
    def image_size(self) -> int:
        """Side in pixels of what the network sees."""
        ...

    @property
    def score_threshold(self) -> float:
        """Operating point, chosen on validation data."""
        ...

    @property
    def sha256(self) -> str:
        """Hash of the checkpoint file."""
        ...

    @property
    def trained_on(self) -> str:
        """Name of the dataset."""
        ...

    @property
    def meta(self) -> Mapping[str, Any]:
        """Whatever else the checkpoint recorded; `modality` is used here."""
        ...

    def detect(self, images: Sequence[np.ndarray]) -> Sequence[Found]:
        """Find objects in 8-bit images (H, W) or (H, W, 3) of any sizes."""
        ...


@dataclass(slots=True)
class _Waiting:
    picture: Picture
    frame: FrameResult
    result: FileResult


class Batches:
    """Collects frames and runs the model when there are enough.

    Parameters
    ----------
    detector : Detector
    size : int
        Pictures per call of the model.
    threshold : float
        Lower scores are left out.
    done : callable
        Told of every frame once its detections are filled in.
    """

    def __init__(
        self,
        detector: Detector,
        size: int,
        threshold: float,
        done: Callable[[Picture, FrameResult], None],
    ) -> None:
        self.detector, self.size, self.threshold, self.done = detector, size, threshold, done
        self._waiting: list[_Waiting] = []

    def add(self, picture: Picture, frame: FrameResult, result: FileResult) -> None:
        """Queue a frame; `frame` is filled in when its batch runs, `flush` at the latest."""
        self._waiting.append(_Waiting(picture, frame, result))
        if len(self._waiting) == self.size:
            self.flush()

    def flush(self) -> None:
        """Run what is queued."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        try:
            self._run(waiting)
        except Exception:  # the model refuses the batch: find out which picture it is
            for one in waiting:
                try:
                    self._run([one])
                except Exception as error:
                    message = f"frame {one.frame.frame + 1}: {type(error).__name__}"
                    one.result.ended = Ended("failed", "detect", "the model failed", message)

    def _run(self, waiting: list[_Waiting]) -> None:
        images = [one.picture.pixels for one in waiting]
        images += [np.zeros_like(images[0])] * (self.size - len(images))
        for one, found in zip(waiting, self.detector.detect(images), strict=False):
            fill(one.frame, found, self.threshold)
            self.done(one.picture, one.frame)


def fill(frame: FrameResult, found: Found, threshold: float) -> None:
    """Write detections into `frame`: above the threshold, clipped, rounded, sorted.

    Sorted by descending score, class and box, after rounding, so that equal runs are equal bytes.
    """
    width, height = frame.width, frame.height
    rows = []
    for (x1, y1, x2, y2), score, label in zip(
        found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
    ):
        left, right = (min(max(v, 0.0), width) for v in (x1, x2))
        top, bottom = (min(max(v, 0.0), height) for v in (y1, y2))
        box = [round(v, BOX_DECIMALS) for v in (left, top, right - left, bottom - top)]
        if score >= threshold and box[2] > 0 and box[3] > 0:
            rows.append((-round(score, SCORE_DECIMALS), int(label), box))
    rows.sort()
    frame.scores = [-score for score, _, _ in rows]
    frame.labels = [label for _, label, _ in rows]
    frame.boxes = [box for _, _, box in rows]

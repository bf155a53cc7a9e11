"""Frames in, detections out: batches across files."""

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
        """Operating point of all classes, chosen on validation data."""
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
        """Whatever else the checkpoint recorded.

        Used here: `modality`; `longest_side` of the training images, in pixels;
        `class_thresholds`, operating points by class name.
        """
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
    detect : callable
        Pictures -> what was found in each.
    size : int
        Pictures per call.
    thresholds : mapping
        Category id -> score; lower scores are left out.
    done : callable
        Told of every frame once its detections are filled in.
    """

    def __init__(
        self,
        detect: Callable[[Sequence[np.ndarray]], Sequence[Found]],
        size: int,
        thresholds: Mapping[int, float],
        done: Callable[[Picture, FrameResult], None],
    ) -> None:
        self.detect, self.size, self.thresholds, self.done = detect, size, thresholds, done
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
        for one, found in zip(waiting, self.detect(images), strict=True):
            fill(one.frame, found, self.thresholds)
            self.done(one.picture, one.frame)


def fill(frame: FrameResult, found: Found, thresholds: Mapping[int, float]) -> None:
    """Write detections into `frame`: from their class's threshold on, clipped, rounded, sorted.

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
        if score >= thresholds[int(label)] and box[2] > 0 and box[3] > 0:
            rows.append((-round(score, SCORE_DECIMALS), int(label), box))
    rows.sort()
    frame.scores = [-score for score, _, _ in rows]
    frame.labels = [label for _, label, _ in rows]
    frame.boxes = [box for _, _, box in rows]

"""Frames in, detections out: batches across files."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipeline.data.intensity import Intensity
from pipeline.data.results import BOX_DECIMALS, SCORE_DECIMALS
from pipeline.predict.records import Ended, FileResult, FrameResult, Picture

_AHEAD = 3  # batches that may wait or run: a file may have any number of frames


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
        Told of every frame once its detections are filled in, from the thread that did it.
    threads : Executor
        Where the model runs.
    """

    def __init__(
        self,
        detect: Callable[[Sequence[np.ndarray]], Sequence[Found]],
        size: int,
        thresholds: Mapping[int, float],
        done: Callable[[Picture, FrameResult], None],
        threads: Executor,
    ) -> None:
        self.detect, self.size, self.thresholds, self.done = detect, size, thresholds, done
        self.threads = threads
        self._waiting: list[_Waiting] = []
        self._jobs: deque[Future[None]] = deque()

    def add(self, picture: Picture, frame: FrameResult, result: FileResult) -> None:
        """Queue a frame; `frame` and `result` may change until `finish`."""
        self._waiting.append(_Waiting(picture, frame, result))
        if len(self._waiting) == self.size:
            self.flush()

    def flush(self) -> None:
        """Begin with what is queued, though it fills no batch."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        if len(self._jobs) == _AHEAD:
            self._jobs.popleft().result()
        self._jobs.append(self.threads.submit(self._attempt, waiting))

    def finish(self) -> None:
        """Wait until all that was flushed is done."""
        while self._jobs:
            self._jobs.popleft().result()

    def _attempt(self, waiting: list[_Waiting]) -> None:
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
            boxes = one.picture.fit.boxes_out(found.boxes)
            fill(one.frame, boxes, found, self.thresholds)
            self.done(one.picture, one.frame)


def fill(
    frame: FrameResult, boxes: np.ndarray, found: Found, thresholds: Mapping[int, float]
) -> None:
    """Write detections into `frame`: from their class's threshold on, clipped, rounded, sorted.

    `boxes` are those of `found` in pixels of the frame. Sorted by descending score, class and box,
    after rounding, so that equal runs are equal bytes.
    """
    width, height = frame.width, frame.height
    rows = []
    for (x1, y1, x2, y2), score, label in zip(
        boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
    ):
        left, right = (min(max(v, 0.0), width) for v in (x1, x2))
        top, bottom = (min(max(v, 0.0), height) for v in (y1, y2))
        box = [round(v, BOX_DECIMALS) for v in (left, top, right - left, bottom - top)]
        score = round(score, SCORE_DECIMALS)  # as thresholds are
        if score >= thresholds[int(label)] and box[2] > 0 and box[3] > 0:
            rows.append((-score, int(label), box))
    rows.sort()
    frame.scores = [-score for score, _, _ in rows]
    frame.labels = [label for _, label, _ in rows]
    frame.boxes = [box for _, _, box in rows]

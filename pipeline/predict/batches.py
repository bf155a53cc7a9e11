"""Frames in, detections out: batches across files, on threads of their own."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipeline.data.intensity import Intensity
from pipeline.data.masks import SoftMask, encode
from pipeline.data.results import BOX_DECIMALS, SCORE_DECIMALS
from pipeline.predict.records import Ended, FileResult, FrameResult, Picture
from pipeline.work.pool import cores as usable_cores

# Calls of the model at a time. Decoding and computing never take equally long, so that with one
# call the cores of one wait for the other; a second call fills them.
MODEL_THREADS = 2
BUDGET = 256 * 2**20  # bytes of pixels that a run holds; one picture may always


class ImageDetections(Protocol):
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

    @property
    def masks(self) -> Sequence[SoftMask] | None:
        """On the given image, n; None where the model gives boxes only."""
        ...


class TrainedModel(Protocol):
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

    def detect(self, images: Sequence[np.ndarray]) -> Sequence[ImageDetections]:
        """Find objects in 8-bit images (H, W) or (H, W, 3) of any sizes."""
        ...


class Budget:
    """So many bytes may be held at a time.

    Parameters
    ----------
    limit : int
        In bytes. What is larger by itself is let in when nothing else is held.
    """

    def __init__(self, limit: int = BUDGET) -> None:
        self.limit, self.held = limit, 0
        self._change = threading.Condition()

    def has_room(self, size: int) -> bool:
        """Whether `take` would not have to wait."""
        with self._change:
            return self._fits(size)

    def take(self, size: int) -> None:
        """Hold so many bytes more; waits until there is room."""
        with self._change:
            self._change.wait_for(lambda: self._fits(size))
            self.held += size

    def give_back(self, size: int) -> None:
        """Hold so many bytes less."""
        with self._change:
            self.held -= size
            self._change.notify_all()

    def _fits(self, size: int) -> bool:
        return self.held == 0 or self.held + size <= self.limit


class Held:
    """The pixels of a picture, for as long as they are needed.

    Parameters
    ----------
    picture : Picture
        Its bytes were taken from `budget`.
    budget : Budget

    Attributes
    ----------
    pixels, drawn : array or None
        What the model looks at, and what is drawn.
    """

    def __init__(self, picture: Picture, budget: Budget) -> None:
        self.fit = picture.fit
        self.pixels: np.ndarray | None = picture.pixels
        self.drawn = picture.whole
        self._budget, self._size = budget, picture.nbytes

    def seen(self) -> None:
        """The model has it: only what is drawn is needed still."""
        self.pixels = None
        self._keep(0 if self.drawn is None else self.drawn.nbytes)

    def drop(self) -> None:
        """Nothing of it is needed any more."""
        self.pixels = self.drawn = None
        self._keep(0)

    def _keep(self, size: int) -> None:
        self._budget.give_back(self._size - size)
        self._size = size


@dataclass(slots=True)
class _Waiting:
    picture: Held
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
        Told of every frame once its detections are filled in, from the thread that did it; drops
        the picture.
    threads : Executor
        Where the model runs.
    budget : Budget
        What pictures take their bytes from.
    """

    def __init__(
        self,
        detect: Callable[[Sequence[np.ndarray]], Sequence[ImageDetections]],
        size: int,
        thresholds: Mapping[int, float],
        done: Callable[[Held, FrameResult], None],
        threads: Executor,
        budget: Budget,
    ) -> None:
        self.detect, self.size, self.thresholds, self.done = detect, size, thresholds, done
        self.threads, self.budget = threads, budget
        self._waiting: list[_Waiting] = []
        self._jobs: deque[Future[None]] = deque()

    def add(self, picture: Picture, frame: FrameResult, result: FileResult) -> None:
        """Queue a frame, when there is room; `frame` and `result` may change until `finish`.

        Where pictures are large, the model begins before a batch is full: what it finds in one does
        not depend on the others (see `Views`).
        """
        if not self.budget.has_room(picture.nbytes):
            self.flush()
        self.budget.take(picture.nbytes)
        self._waiting.append(_Waiting(Held(picture, self.budget), frame, result))
        if len(self._waiting) == self.size:
            self.flush()

    def flush(self) -> None:
        """Begin with what is queued, though it fills no batch."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._jobs.append(self.threads.submit(self._attempt, waiting))

    @property
    def idle(self) -> bool:
        """Whether `finish` would not have to wait."""
        return all(job.done() for job in self._jobs)

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
                    one.picture.drop()
        except BaseException:  # the run ends: nobody may wait for room any more
            for one in waiting:
                one.picture.drop()
            raise

    def _run(self, waiting: list[_Waiting]) -> None:
        images = [one.picture.pixels for one in waiting if one.picture.pixels is not None]
        found = self.detect(images)
        del images
        for one, detections in zip(waiting, found, strict=True):
            one.picture.seen()
            fit = one.picture.fit
            boxes, masks = fit.boxes_out(detections.boxes), None
            if detections.masks is not None:
                masks = [m.scaled(1 / fit.scale_x, 1 / fit.scale_y) for m in detections.masks]
            fill(one.frame, boxes, masks, detections, self.thresholds)
            self.done(one.picture, one.frame)


def fill(
    frame: FrameResult,
    boxes: np.ndarray,
    masks: Sequence[SoftMask] | None,
    found: ImageDetections,
    thresholds: Mapping[int, float],
) -> None:
    """Write detections into `frame`: from their class's threshold on, clipped, rounded, sorted.

    `boxes` and `masks` are those of `found` in pixels of the frame. Sorted by descending score,
    class and box, after rounding, so that equal runs are equal bytes.
    """
    width, height = frame.width, frame.height
    rows = []
    for place, ((x1, y1, x2, y2), score, label) in enumerate(
        zip(boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    ):
        left, right = (min(max(v, 0.0), width) for v in (x1, x2))
        top, bottom = (min(max(v, 0.0), height) for v in (y1, y2))
        box = [round(v, BOX_DECIMALS) for v in (left, top, right - left, bottom - top)]
        score = round(score, SCORE_DECIMALS)  # as thresholds are
        if score >= thresholds[int(label)] and box[2] > 0 and box[3] > 0:
            rows.append((-score, int(label), box, place))
    rows.sort()
    frame.scores = [-score for score, *_ in rows]
    frame.labels = [label for _, label, *_ in rows]
    frame.boxes = [box for _, _, box, _ in rows]
    if masks is not None:
        places = (place for *_, place in rows)
        frame.masks = [encode(masks[i].pixels(height, width, boxes[i])) for i in places]


def share_cores(device: str, workers: int, cores: int = 0) -> tuple[int, str]:
    """Divide the cores, and tell PyTorch of its share: else the two get in each other's way.

    Parameters
    ----------
    device : str
        "cpu" or "cuda".
    workers : int
        Decoding processes; -1: half of the cores beside a model on the CPU, all but one beside
        a GPU.
    cores : int
        To be divided; 0: those that this process may use.

    Returns
    -------
    (int, str)
        Decoding processes, and the device with its number of threads, for run.json: on a CPU the
        last bit of a result may depend on it.
    """
    import torch  # here: the worker processes of a run do without

    there = cores or usable_cores()
    if workers < 0:
        workers = max(1, there // 2 if device == "cpu" else there - 1)
    if device != "cpu":
        return workers, device
    threads = max(1, there - workers)
    torch.set_num_threads(threads)
    return workers, f"cpu, {threads} threads"


@contextmanager
def model_threads() -> Iterator[ThreadPoolExecutor]:
    """Threads that call the model, each with PyTorch's present number of threads.

    A new thread would begin with as many as there are cores. Leaving waits for the calls under way
    and for no others.
    """
    import torch

    threads = ThreadPoolExecutor(
        MODEL_THREADS, "model", torch.set_num_threads, (torch.get_num_threads(),)
    )
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)

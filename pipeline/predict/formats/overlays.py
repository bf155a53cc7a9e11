"""Pictures for people: boxes, classes and scores drawn on the frame, marked for research."""

import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.atomic import replacing
from pipeline.data.draw import COLOURS, contours, draw_boxes, place_labels
from pipeline.data.masks import decode
from pipeline.predict.batches import Held
from pipeline.predict.formats.format import MARK, Format
from pipeline.predict.records import FileResult, FrameResult

FOLDER = "overlays"
THUMBNAIL = 320  # pixels, longest side


def draw(pixels: np.ndarray, found: FrameResult, classes: Mapping[int, str]) -> Image.Image:
    """Draw the detections of a frame.

    Parameters
    ----------
    pixels : array (H, W) or (H, W, 3), uint8
        The frame, or the frame scaled down.
    found : FrameResult
        Boxes and masks in pixels of the frame.
    classes : mapping
        Category id -> name.

    Returns
    -------
    Image
        RGB, the frame with a strip of text below it; wider than the frame if the text is. Where
        labels would cover each other, boxes are numbered and a list stands on the right.
    """
    height, width = pixels.shape[:2]
    size = max(12, min(width, height) // 48)
    font = ImageFont.load_default(size)
    xywh = np.array(found.boxes, dtype=np.float64).reshape(-1, 4)
    xywh = xywh * ([width / found.width, height / found.height] * 2)
    boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    ids = sorted(classes)
    colours = [COLOURS[ids.index(k) % len(COLOURS)] for k in found.labels]
    pairs = zip(found.labels, found.scores, strict=True)
    labels, listed = [f"{classes[k]} {score:.2f}" for k, score in pairs], list[str]()
    # the best is drawn last and lies on top
    if None in place_labels((width, height), boxes[::-1], labels[::-1]):
        listed = [f"{i}  {label}" for i, label in enumerate(labels, 1)]
        labels = [str(i) for i in range(1, len(labels) + 1)]
    beside = max((int(font.getlength(line)) + size for line in listed), default=0)
    across = max(width + beside, int(font.getlength(MARK)) + size)
    canvas = Image.new("RGB", (across, height + 2 * size), "black")
    shapes = (decode(counts, found.height, found.width) for counts in found.masks)
    lines = [contours(mask, (width, height)) for mask in shapes]  # one mask at a time in memory
    drawn = draw_boxes(pixels, boxes[::-1], labels[::-1], colours[::-1], outlines=lines[::-1])
    canvas.paste(drawn, (0, 0))
    pen = ImageDraw.Draw(canvas)
    pen.text((size // 2, height + size // 2), MARK, fill="white", font=font)
    for y, line, colour in _as_fits(listed, colours, size * 5 // 4, height):
        pen.text((width + size // 2, y), line, fill=colour, font=font)
    return canvas


def _as_fits(
    lines: list[str], colours: list[tuple[int, int, int]], step: int, height: int
) -> Iterator[tuple[int, str, tuple[int, int, int]]]:
    """Place, text and colour of as many lines as fit; the last says how many are missing."""
    room = max(1, height // step)
    shown = len(lines) if len(lines) <= room else room - 1
    for i in range(shown):
        yield i * step, lines[i], colours[i]
    if shown < len(lines):
        yield shown * step, f"and {len(lines) - shown} more", (255, 255, 255)


def save_overlay(
    path: Path, pixels: np.ndarray, found: FrameResult, classes: Mapping[int, str]
) -> None:
    """Draw and write a PNG, and a small JPEG of it for the report."""
    import cv2  # only where it is drawn: the command line says "no" sooner without

    drawn = draw(pixels, found, classes)
    # OpenCV's defaults take half the time of Pillow's fastest, for a third more bytes; this is the
    # slowest step of a run.
    _, png = cv2.imencode(".png", np.asarray(drawn)[..., ::-1])
    with replacing(path, "wb") as stream:
        stream.write(png.tobytes())
    small = thumbnail_of(path)
    drawn.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    with replacing(small, "wb") as stream:
        drawn.save(stream, "JPEG", quality=80, subsampling=0)


def thumbnail_of(overlay: Path) -> Path:
    """Where the small picture of an overlay is."""
    return overlay.parent.parent / "report" / "thumbnails" / f"{overlay.stem}.jpg"


class Overlays:
    """Draws and encodes in the background, while the model looks at the next pictures.

    Parameters
    ----------
    folder : Path
        The growing output.
    classes : mapping
        Category id -> name.
    policy : str
        "found", "all" or "none" (see `Options.overlays`).
    """

    def __init__(self, folder: Path, classes: Mapping[int, str], policy: str) -> None:
        self.folder, self.classes, self.policy = folder, classes, policy
        self._pool = ThreadPoolExecutor(1, "overlay")
        self._jobs: dict[str, Future[None]] = {}

    def __enter__(self) -> "Overlays":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def name(self, number: int, result: FileResult, frame: FrameResult) -> str:
        """Name the overlay of a frame, relative to the output folder; empty for policy "none".

        DICOM files are named by their SOP instance UID, since names of files and folders may
        hold identifiers; ordinary images have nothing but their path. The number of the file
        comes first: UIDs and flattened paths need not be unique.
        """
        if self.policy == "none":
            return ""
        stem = result.opened.instance or re.sub(r"[^\w.-]+", "_", result.path, flags=re.ASCII)[-80:]
        part = f"-frame{frame.frame + 1:04d}" if result.opened.frames > 1 else ""
        return f"{FOLDER}/{number + 1:06d}-{stem}{part}.png"

    def add(self, picture: Held, frame: FrameResult) -> None:
        """Draw a frame whose detections are known, if the policy wants it, and drop the picture.

        May be called from several threads.
        """
        if self.policy == "found" and not frame.boxes:
            frame.overlay = ""
        if picture.drawn is None or not frame.overlay:
            picture.drop()
        else:
            self._jobs[frame.overlay] = self._pool.submit(self._save, picture, frame)

    def _save(self, picture: Held, frame: FrameResult) -> None:
        try:
            if picture.drawn is not None:
                save_overlay(self._path(frame), picture.drawn, frame, self.classes)
        finally:
            picture.drop()

    def idle(self, frames: Iterable[FrameResult]) -> bool:
        """Whether `finish` would not have to wait."""
        jobs = [self._jobs.get(frame.overlay) for frame in frames]
        return all(job is None or job.done() for job in jobs)

    def finish(self, frames: Iterable[FrameResult]) -> None:
        """Wait until the overlays of these frames are on the disk."""
        for frame in frames:
            if frame.overlay in self._jobs:
                self._jobs.pop(frame.overlay).result()

    def remove(self, frame: FrameResult) -> None:
        """Take back the overlay of a frame whose file has failed."""
        if frame.overlay:
            self._path(frame).unlink(missing_ok=True)
            thumbnail_of(self._path(frame)).unlink(missing_ok=True)

    def _path(self, frame: FrameResult) -> Path:
        return self.folder / frame.overlay


FORMAT = Format(
    "overlays",
    {FOLDER: "pictures with boxes"},
    option="--overlays",
    grows=(FOLDER, "report"),  # thumbnails are for the report
)

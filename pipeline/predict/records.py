"""What is known of each input file, from the worker that reads it to the output files.

All of it is plain data: it crosses a process boundary, and it is kept in the journal as JSON.
Of a DICOM header only UIDs get this far.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.data.geometry import Fit

MM_DECIMALS = 2


@dataclass(frozen=True, slots=True)
class Opened:
    """First word of a worker on a file that will be read.

    Attributes
    ----------
    study, series, instance : str
        DICOM UIDs, empty for ordinary images.
    frames : int
        Number of frames the header announces.
    warnings : tuple of (kind, message)
        Constant texts.
    """

    study: str = ""
    series: str = ""
    instance: str = ""
    frames: int = 1
    warnings: tuple[tuple[str, str], ...] = ()

    def warned(self, *more: tuple[str, str]) -> "Opened":
        """With more warnings, each once."""
        return replace(self, warnings=tuple(dict.fromkeys((*self.warnings, *more))))


@dataclass(frozen=True, slots=True)
class Picture:
    """One decoded frame.

    Attributes
    ----------
    pixels : array (h, w) or (h, w, 3), uint8
        What the model looks at: the frame, scaled down where it is larger than the model sees.
    fit : Fit
        How `pixels` came of the frame, whose size it has.
    whole : array (H, W) or (H, W, 3), uint8, or None
        The frame, where it will be drawn.
    frame : int
        Place in its file, from 0.
    spacing : (row mm, column mm, element) or None
    notes : tuple of str
        Choices taken while decoding, constant phrases.
    limits : (low, high) or None
        Modality values shown as black and white (see `pipeline.dicom.read.pixels.Frame`).
    """

    pixels: np.ndarray
    fit: Fit
    whole: np.ndarray | None = None
    frame: int = 0
    spacing: tuple[float, float, str] | None = None
    notes: tuple[str, ...] = ()
    limits: tuple[float, float] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        drawn = 0 if self.whole is None or self.whole is self.pixels else self.whole.nbytes
        return self.pixels.nbytes + drawn


@dataclass(frozen=True, slots=True)
class Ended:
    """Last word of a worker on a file.

    Attributes
    ----------
    status : str
        "processed", "skipped" or "failed".
    step : str
        Where it ended when not processed: "find", "select", "read" or "decode".
    kind, message : str
        A constant phrase to count by, and the details.
    """

    status: str
    step: str = ""
    kind: str = ""
    message: str = ""


@dataclass(slots=True)
class FrameResult:
    """What was found in one frame.

    Attributes
    ----------
    frame : int
        From 0.
    width, height : int
        Of the frame, in pixels.
    boxes : list of [x, y, width, height]
        Pixels, rounded, by descending score.
    scores : list of float
    labels : list of int
        Category ids.
    spacing : (row mm, column mm, element) or None
    notes : list of str
    limits : (low, high) or None
        See `Picture`.
    overlay : str
        Path relative to the output folder; empty where none was drawn.
    masks : list of str
        COCO's compressed run lengths in the frame, one for each box; empty where the model gives
        boxes only.
    """

    frame: int
    width: int
    height: int
    boxes: list[list[float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    spacing: tuple[float, float, str] | None = None
    notes: list[str] = field(default_factory=list)
    limits: tuple[float, float] | None = None
    overlay: str = ""
    masks: list[str] = field(default_factory=list)

    def millimetres(self, box: list[float]) -> tuple[object, object, str]:
        """Width, height and where the spacing came from; empty where it is unknown."""
        if self.spacing is None:
            return "", "", ""
        row, column, source = self.spacing
        return round(box[2] * column, MM_DECIMALS), round(box[3] * row, MM_DECIMALS), source


@dataclass(slots=True)
class FileResult:
    """The whole account of one input file; a file that is not processed has no frames."""

    path: str
    opened: Opened
    ended: Ended
    frames: list[FrameResult] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values for the journal."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "FileResult":
        """Rebuild what `to_dict` gave, after JSON."""
        opened = dict(values["opened"])
        opened["warnings"] = tuple((kind, text) for kind, text in opened["warnings"])
        frames = [FrameResult(**frame) for frame in values["frames"]]
        return cls(values["path"], Opened(**opened), Ended(**values["ended"]), frames)


def frames_of(results: Iterable[FileResult]) -> Iterator[tuple[FileResult, FrameResult]]:
    """Every frame of the files that were processed, with its file."""
    for result in results:
        if result.ended.status == "processed":
            for frame in result.frames:
                yield result, frame


def printable(path: str) -> str:
    """A path as valid UTF-8: bytes that are none (old file systems) become escapes."""
    return path.encode("utf-8", "backslashreplace").decode()

"""report/pixels/: the best pictures with all their grey values, for the viewer of the report.

A page that is opened from a disk may neither fetch a file nor read the pixels of a picture, but it
may load a script. So each picture is a script that hands packed numbers to the viewer
(``pipeline/html/viewer.js``, which unpacks them).
"""

import json
import zlib
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile

import numpy as np

from pipeline.atomic import replacing
from pipeline.data.images import ImageError, read_image
from pipeline.data.intensity import Intensity, to_uint8
from pipeline.dicom.errors import DicomError
from pipeline.dicom.read.parse import looks_like_dicom
from pipeline.dicom.read.pixels import Depth, read_depth
from pipeline.predict.formats.format import Format
from pipeline.predict.records import FileResult, frames_of
from pipeline.predict.sources import SourceError, located

FOLDER = "report/pixels"
# Of a picture; of a larger one every second (third, ...) pixel is kept. The largest canvas that
# all browsers have, and more than radiographs and mammograms hold.
MOST = 2**24
_UNREADABLE = (DicomError, ImageError, SourceError, BadZipFile, zlib.error, EOFError, MemoryError)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A job for a worker: the frames of a file whose pixels are kept; (frame, file name) each."""

    path: str
    frames: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class PixelWriter:
    """Reads a file again and writes the pixels of frames; picklable, it travels to the workers."""

    root: Path
    intensity: Intensity
    folder: Path

    def __call__(self, wanted: Wanted) -> Iterator[None]:
        """Write one script a frame. A file that can be read no more keeps its overlay alone."""
        for index, name in wanted.frames:
            try:
                depth = self._read(wanted.path, index)
            except (*_UNREADABLE, FileNotFoundError, PermissionError, IndexError):
                continue
            with replacing(self.folder / name) as stream:
                stream.write(script(depth))
        yield from ()

    def _read(self, path: str, index: int) -> Depth:
        file = located(self.root, path)
        with file.open("rb") as stream:
            dicom = looks_like_dicom(stream.read(132))
        if dicom:
            return read_depth(file, self.intensity, index)
        with file.open("rb") as stream:
            pixels = read_image(stream).pixels
        return Depth(pixels, to_uint8(pixels, self.intensity))


def jobs(
    results: Iterable[FileResult], paths: Sequence[str], count: int
) -> list[tuple[int, Wanted]]:
    """Numbered jobs: of the frames that have an overlay the `count` with the highest scores.

    `paths` are those of all files of the run, in its order: what the results call a file may be a
    pseudonym.
    """
    files: dict[int, list[tuple[int, str]]] = {}
    for place, frame, name in _best(results, count):
        files.setdefault(place, []).append((frame, name))
    return [(place, Wanted(paths[place], tuple(sorted(files[place])))) for place in sorted(files)]


def trim(folder: Path, results: Iterable[FileResult], count: int) -> None:
    """Remove from a grown folder what is not among the `count` best."""
    kept = {name for _, _, name in _best(results, count)}
    for path in (folder / FOLDER).glob("*.js"):
        if f"{FOLDER}/{path.name}" not in kept:
            path.unlink()


def _best(results: Iterable[FileResult], count: int) -> list[tuple[int, int, str]]:
    """Place of the file, number of the frame and name of its pixels, of the best frames."""
    found = (
        (-frame.scores[0], place, frame.frame, file_of(frame.overlay))
        for place, result in enumerate(results)
        for _, frame in frames_of([result])
        if frame.scores and frame.overlay
    )
    return [(place, frame, name) for _, place, frame, name in nsmallest(count, found)]


def file_of(overlay: str) -> str:
    """Where the pixels of an overlay are, relative to the output."""
    return f"{FOLDER}/{PurePosixPath(overlay).stem}.js"


def script(depth: Depth) -> str:
    """What the page loads: a call with a description and packed numbers."""
    height, width = depth.stored.shape[:2]
    every = int(np.ceil(np.sqrt(height * width / MOST))) if height * width > MOST else 1
    stored, shown = depth.stored[::every, ::every], depth.shown[::every, ::every]
    about: dict[str, Any] = {"every": every, "hounsfield": depth.hounsfield}
    if stored.ndim == 3:
        values: np.ndarray = np.moveaxis(shown, 2, 0)
        table = np.zeros(0, np.uint8)
    else:
        lowest = int(stored.min())
        whole = (stored.astype(np.int64) - lowest).astype(np.uint16)
        table = np.zeros(int(whole.max()) + 1, np.uint8)
        table[whole] = shown
        table = _without_gaps(table, whole)
        values = whole[None] if len(table) > 256 else whole[None].astype(np.uint8)
        first = depth.intercept + depth.slope * lowest
        about |= {"first": first, "slope": depth.slope, "inverted": depth.inverted}
        about["window"] = depth.window
    about |= dict(zip(("channels", "height", "width"), values.shape, strict=True))
    about["bits"] = 8 * values.itemsize
    return f'descryPixels({json.dumps(about)}, "{packed(values)}", "{packed(table)}");\n'


def _without_gaps(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A table whose entries for values that do not occur lie between their neighbours'."""
    there = np.zeros(len(table), bool)
    there[values] = True
    places = np.flatnonzero(there)
    return np.interp(np.arange(len(table)), places, table[places]).astype(np.uint8)


def packed(values: np.ndarray) -> str:
    """Differences along rows, high bytes before low ones, deflated, as base64."""
    steps = np.diff(values, axis=-1, prepend=values.dtype.type(0))
    planes = [steps >> 8, steps & 255] if steps.itemsize == 2 else [steps]
    data = b"".join(plane.astype(np.uint8).tobytes() for plane in planes)
    return b64encode(zlib.compress(data, 1)).decode("ascii")


FORMAT = Format("pixels", {}, option="--pixels", grows=("report",))

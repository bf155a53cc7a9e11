"""Every file of the raw folder, and what became of it."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline import dicom
from pipeline.convert.engine.plan import number_of, writable
from pipeline.data.images import EXTENSIONS

IMAGE, ANNOTATION, DROPPED, UNUSED = "images", "annotations", "dropped", "unused"
_NOT_READ = "not an input of this converter"
_NOT_NAMED = "image that no annotation names"
_HIDDEN = "hidden or system file"
_IMAGES = EXTENSIONS | dicom.EXTENSIONS


def walk(raw: Path) -> Iterator[str]:
    """Paths of all files below `raw`, relative, with ``/``, sorted within each folder.

    Linked folders are followed, each real folder once.
    """
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(raw, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        relative = Path(folder).relative_to(raw).as_posix()
        prefix = "" if relative == "." else relative + "/"
        for name in sorted(names):
            yield writable(prefix + name)


class Numbers:
    """A set of texts held as sorted 64-bit numbers, 8 bytes each."""

    def __init__(self, numbers: np.ndarray) -> None:
        self._sorted = np.unique(numbers)

    def __contains__(self, text: str) -> bool:
        number = np.uint64(number_of(text))
        at = int(np.searchsorted(self._sorted, number))
        return at < len(self._sorted) and bool(self._sorted[at] == number)


def reason_unused(path: str) -> str:
    """Why a file that no one claimed is not used."""
    parts = path.split("/")
    if any(part.startswith(".") for part in parts) or "__MACOSX" in parts:
        return _HIDDEN
    return _NOT_NAMED if Path(path).suffix.lower() in _IMAGES else _NOT_READ

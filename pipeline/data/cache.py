"""Decode once: 8-bit pictures of bounded size, kept in a folder that all loader processes share.

What is kept is what a sample is made of before augmentation, so that training gives the same bits
with and without the cache. An entry is found by the content of the image file; files that move,
or change, need no care. A folder never grows beyond its limit: once it is full, further pictures
are decoded each time. Emptying it is deleting it.
"""

import fcntl
import hashlib
import json
import logging
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from pipeline.atomic import replacing
from pipeline.data.geometry import shrink
from pipeline.data.images import opened
from pipeline.data.index import CocoIndex
from pipeline.data.intensity import Intensity
from pipeline.data.pixels import load_pixels

log = logging.getLogger(__name__)
# Decoding and scaling are theirs; another version may give other pixels.
_MAKERS = ("pillow", "opencv-python-headless", "numpy")


@dataclass(frozen=True, slots=True)
class CachePlan:
    """Where decoded pictures are kept, and how many GiB of them at most."""

    folder: Path
    limit_gib: float


class PictureSource:
    """8-bit pictures of an index, none larger than a training square.

    Parameters
    ----------
    index : CocoIndex
    intensity : Intensity
    side : int
        Pictures with a longer side in pixels are scaled down to it.
    cache : CachePlan or None
        None: decode each time.
    """

    def __init__(
        self, index: CocoIndex, intensity: Intensity, side: int, cache: CachePlan | None = None
    ) -> None:
        self.index, self.intensity, self.side = index, intensity, side
        self.store = None if cache is None else PictureStore(cache, _recipe(intensity, side))

    def load(self, i: int) -> np.ndarray:
        """Picture `i`: (H, W) or (H, W, 3) uint8, H and W at most `side`."""
        if self.store is None or not self.index.file(i).is_file():
            return self._decode(i)  # which says what is wrong with a file that is missing
        key = self._key(i)
        pixels = self.store.get(key)
        if pixels is None:
            pixels = self._decode(i)
            self.store.put(key, pixels)
        return pixels

    def _decode(self, i: int) -> np.ndarray:
        return shrink(load_pixels(self.index, i, self.intensity), self.side)[0]

    def _key(self, i: int) -> str:
        """Content of the file, and the size that it was checked against."""
        with opened(self.index.file(i)) as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        width, height = self.index.sizes[i]
        return f"{content}-{width}x{height}"


class PictureStore:
    """Arrays by key in a folder of bounded size, for any number of processes.

    The bytes in use stand in a file of the folder that is changed under a lock, so that processes
    together keep the limit.
    """

    def __init__(self, plan: CachePlan, recipe: str) -> None:
        self.root, self.folder = plan.folder, plan.folder / recipe
        self.limit = int(plan.limit_gib * 2**30)
        self.open = True  # False once it is full or cannot be written
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.root / "bytes").open("a+") as ledger:
            fcntl.flock(ledger, fcntl.LOCK_EX)
            ledger.truncate(0)
            ledger.write(str(sum(f.stat().st_size for f in self.root.rglob("*.npy"))))

    def get(self, key: str) -> np.ndarray | None:
        """The array of a key, or None."""
        path = self._path(key)
        try:
            return np.load(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError) as error:
            log.warning("%s: not readable (%s); the image is decoded again", path, error)
            return None

    def put(self, key: str, pixels: np.ndarray) -> None:
        """Keep an array, if there is room for it."""
        if not self.open:
            return
        try:
            if self._reserve(pixels.nbytes + 128):  # an npy header has 128 bytes
                with replacing(self._path(key), "wb") as stream:
                    np.save(stream, pixels)
                return
            reason = f"it has reached its limit of {self.limit / 2**30:g} GiB"
        except OSError as error:
            reason = f"it cannot be written ({error.strerror})"
        self.open = False
        log.warning("%s takes no more pictures: %s; others are decoded", self.root, reason)

    def _reserve(self, size: int) -> bool:
        """Whether so many bytes still fit; if so, they count from now on."""
        with (self.root / "bytes").open("r+") as ledger:
            fcntl.flock(ledger, fcntl.LOCK_EX)
            used = int(ledger.read() or 0) + size
            if used > self.limit:
                return False
            ledger.seek(0)
            ledger.write(str(used))  # never shorter than what it replaces
        return True

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npy"


def _recipe(intensity: Intensity, side: int) -> str:
    """Name of everything but the file that decides a picture's bytes."""
    made_by = {name: version(name) for name in _MAKERS}
    text = json.dumps([intensity.to_dict(), made_by], sort_keys=True)
    return f"{side}px-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

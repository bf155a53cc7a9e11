"""What a run is: a digest of its parameters, its data, our code and the libraries that compute."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pipeline
from pipeline.data.index import CocoIndex
from pipeline.versions import version_of

_ROOMS = ("data", "evaluate", "models", "train")  # whose code decides over the result
_PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "numpy",
    "albumentations",
    "opencv-python-headless",
    "pillow",
)
_READERS = 8


def identity(parameters: Mapping[str, Any], data: str) -> str:
    """Digest of a run, 32 hexadecimal digits: equal only where everything that counts is equal.

    Parameters
    ----------
    parameters : mapping
        Plain values that JSON can hold.
    data : str
        Digest of the data, see `data_digest`.
    """
    what = [parameters, data, _code(), [version_of(package) for package in _PACKAGES]]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def data_digest(splits: Sequence[CocoIndex]) -> str:
    """SHA-256 over annotations and images, names and bytes, of some splits."""
    files = [split.path for split in splits]
    files += [split.file(i) for split in splits for i in range(len(split))]
    names = [split.path.name for split in splits]
    names += [split.file_name(i) for split in splits for i in range(len(split))]
    whole = hashlib.sha256()
    with ThreadPoolExecutor(_READERS) as readers:
        for name, digest in zip(names, readers.map(_file_digest, files), strict=True):
            whole.update(name.encode() + b"\0" + digest)
    return whole.hexdigest()


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _code() -> str:
    root = Path(pipeline.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for room in _ROOMS for path in (root / room).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()

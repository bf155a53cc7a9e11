"""What an interrupted run leaves behind to go on from, and how it is found again.

One folder for each run, named by a digest of its parameters, its data, our code and the libraries
that compute; in it one checkpoint at a time.
"""

import hashlib
import json
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.atomic import replacing
from pipeline.data.images import opened
from pipeline.data.index import CocoIndex
from pipeline.dependencies import STAGES, code_digest
from pipeline.errors import DescryError
from pipeline.train.guards import naming_a_full_disk
from pipeline.versions import version_of
from pipeline.work.workspace import locked

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


class RunFolder:
    """What one run keeps while it is under way; its name is the run's identity.

    So no other run looks inside.

    Attributes
    ----------
    path : Path
    checkpoint : Path
        Replaced as a whole: until a new one is complete and on the disk, the old one stays.
    last : Path
        The finished model.
    """

    def __init__(self, root: Path, identity: str) -> None:
        self.path = root / "train" / identity
        self.checkpoint = self.path / "checkpoint.pt"
        self.last = self.path / "last.safetensors"

    def best(self, epoch: int) -> Path:
        """Where the model of an epoch lies that was the best so far.

        Each has its own file, so that a checkpoint never finds a later one in its place.
        """
        return self.path / f"best-{epoch}.safetensors"

    @contextmanager
    def claimed(self, out: Path, rank: int) -> Iterator[None]:
        """Keep other runs out of here and of the output while the block runs.

        Raises
        ------
        DescryError
            When another process is at this very run, or at another one with the same output.
        """
        if rank:
            yield
            return
        this = f"{self.path}: another process is training this very configuration"
        other = f"{out}: another process is training into this folder"
        for folder in (self.path, out.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with (
            locked(self.path / "lock", f"{this}; wait for it, or end it"),
            locked(out.parent / f".{out.name}.lock", f"{other}; wait for it, or give another"),
        ):
            for half_written in self.path.glob(".*.tmp"):
                half_written.unlink()
            yield

    def load(self) -> dict[str, Any] | None:
        """The checkpoint, on the CPU, or None where there is none.

        Raises
        ------
        DescryError
            When it cannot be read.
        """
        if not self.checkpoint.exists():
            return None
        try:
            return torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load documents no set of exceptions
            raise DescryError(
                f"{self.checkpoint}: not readable ({type(error).__name__}); "
                f"remove {self.path} to train from the beginning"
            ) from error

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint in place of the last one."""
        with naming_a_full_disk(self.checkpoint, _bytes(state)):  # noqa: SIM117
            with replacing(self.checkpoint, "wb") as stream:
                torch.save(dict(state), stream)

    def remove(self) -> None:
        """Forget the run, which is done."""
        shutil.rmtree(self.path)


def _bytes(value: Any) -> int:
    """Size of all tensors in nested containers."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_bytes, value))
    return 0


def identity(parameters: Mapping[str, Any], data: str, stage: str = "train") -> str:
    """Digest of a run, 32 hexadecimal digits: equal only where everything that counts is equal.

    Parameters
    ----------
    parameters : mapping
        Plain values that JSON can hold.
    data : str
        Digest of the data, see `data_digest`.
    stage : str
        Of `pipeline.dependencies.STAGES`, whose code counts.
    """
    what = [
        parameters,
        data,
        code_digest(*STAGES[stage]),
        [version_of(package) for package in _PACKAGES],
    ]
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
    with opened(path) as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def random_states() -> dict[str, Any]:
    """States of all generators of this process that a step may draw from; plain values."""
    name, keys, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def restore_random_states(state: dict[str, Any]) -> None:
    """Put back what `random_states` gave."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu())

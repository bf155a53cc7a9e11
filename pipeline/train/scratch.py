"""What an interrupted run leaves behind to go on from: one folder, one checkpoint at a time."""

import errno
import fcntl
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.atomic import replacing
from pipeline.errors import DescryError

MIB = 2**20


class Scratch:
    """The folder of one run; its name is the run's identity, so that no other run looks inside.

    Attributes
    ----------
    folder : Path
    checkpoint : Path
        Replaced as a whole: until a new one is complete and on the disk, the old one stays.
    last : Path
        The finished model.
    """

    def __init__(self, root: Path, identity: str) -> None:
        self.folder = root / "train" / identity
        self.checkpoint = self.folder / "checkpoint.pt"
        self.last = self.folder / "last.pt"

    def best(self, epoch: int) -> Path:
        """Where the model of an epoch lies that was the best so far.

        Each has its own file, so that a checkpoint never finds a later one in its place.
        """
        return self.folder / f"best-{epoch}.pt"

    @contextmanager
    def claimed(self, rank: int) -> Iterator[None]:
        """Keep other runs out while the block runs; the lock of a killed process is gone with it.

        Raises
        ------
        DescryError
            When another process is at this very run.
        """
        if rank:
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            try:
                # flock would be inherited by loader processes, which outlive a killed run a while
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise DescryError(
                    f"{self.folder}: another process is training this very configuration; "
                    "wait for it, or end it"
                ) from None
            for half_written in self.folder.glob(".*.tmp"):
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
                f"remove {self.folder} to train from the beginning"
            ) from error

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the checkpoint in place of the last one."""
        with naming_a_full_disk(self.checkpoint, _bytes(state)):  # noqa: SIM117
            with replacing(self.checkpoint, "wb") as stream:
                torch.save(dict(state), stream)

    def remove(self) -> None:
        """Forget the run, which is done."""
        shutil.rmtree(self.folder)


@contextmanager
def naming_a_full_disk(path: Path, needed: int) -> Iterator[None]:
    """Turn "no space left" inside the block into an error that says where and how much.

    Raises
    ------
    DescryError
        With the path, the bytes needed and the bytes free, in MiB.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save hides the former behind the latter
        if not _is_full(error):
            raise
        free = shutil.disk_usage(path.parent).free
        raise DescryError(
            f"{path}: no space left on the disk: about {needed / MIB:.0f} MiB are needed, "
            f"{free / MIB:.0f} MiB are free. Make room and start again: the last complete "
            "checkpoint is still there"
        ) from error


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def _bytes(value: Any) -> int:
    """Size of all tensors in nested containers."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_bytes, value))
    return 0

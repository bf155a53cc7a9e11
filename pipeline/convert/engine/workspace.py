"""The folder in which a conversion grows, and the moment it becomes the output."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.atomic import unwritable
from pipeline.errors import DescryError

FORMAT = "descry conversion"  # the value of report.json's "format"


@dataclass(frozen=True, slots=True)
class Workspace:
    """``<out>.partial`` beside the output folder; kept when the run is killed.

    Attributes
    ----------
    out : Path
        The output folder, absolute, symbolic links resolved.
    """

    out: Path

    @property
    def partial(self) -> Path:
        """The growing folder."""
        return self.out.with_name(self.out.name + ".partial")

    @property
    def state(self) -> Path:
        """What only a restart needs; not part of the output."""
        return self.partial / "state"

    @property
    def images(self) -> Path:
        """Folder of the images, growing."""
        return self.partial / "images"

    @property
    def replaced(self) -> Path:
        """The former output, for the moment between two renames."""
        return self.out.with_name(f".{self.out.name}.replaced")

    def publish(self) -> None:
        """Make the growing folder the output; the former output goes only then."""
        shutil.rmtree(self.state)
        if self.out.exists():
            self.out.rename(self.replaced)
        self.partial.rename(self.out)
        if self.replaced.exists():
            shutil.rmtree(self.replaced)


@contextmanager
def open_workspace(out: Path, raw: Path) -> Iterator[Workspace]:
    """Lock and prepare the workspace of `out`; name a full disk for what it is.

    Raises
    ------
    DescryError
        When `out` is in use by another run, lies in `raw` or around it, holds something that is
        not a conversion, or cannot be written.
    """
    space = Workspace(out.resolve())
    _check_places(space.out, raw.resolve())
    with _explained(space):
        space.out.parent.mkdir(parents=True, exist_ok=True)
        with _locked(space.out):
            _recover(space)
            _check_replaceable(space.out)
            space.state.mkdir(parents=True, exist_ok=True)
            space.images.mkdir(exist_ok=True)
            yield space


def _check_places(out: Path, raw: Path) -> None:
    """Neither folder may hold the other: the output replaces what is there."""
    if out == raw or out in raw.parents or raw in out.parents:
        raise DescryError(
            f"--out {out} and --raw {raw}: one holds the other, and the raw files would be "
            f"replaced or taken for input; choose an output folder elsewhere"
        )


def _check_replaceable(out: Path) -> None:
    """Only a former conversion or an empty folder is replaced."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise DescryError(f"--out {out}: is a file; give a folder")
    if out.is_dir() and any(out.iterdir()) and not _is_conversion(out):
        raise DescryError(
            f"--out {out}: holds files that are not a conversion (no report.json of one) and "
            f"would be lost; choose an empty or new folder"
        )


def _is_conversion(folder: Path) -> bool:
    with suppress(OSError, ValueError, AttributeError):
        text = (folder / "report.json").read_text(encoding="utf-8")
        return json.loads(text).get("format") == FORMAT
    return False


def _recover(space: Workspace) -> None:
    """Mend what a kill between the two renames of `Workspace.publish` left."""
    if space.replaced.exists():
        if space.out.exists():
            shutil.rmtree(space.replaced)
        else:
            space.replaced.rename(space.out)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the lock file beside `out`; the system frees it when the process ends."""
    path = out.with_name(f".{out.name}.lock")
    descriptor = _take(path, out)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _take(path: Path, out: Path) -> int:
    """Open and lock `path`; again if it was removed in between by the run that held it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise DescryError(
                f"--out {out}: another conversion is writing there; wait for it or choose another "
                f"folder"
            ) from None
        with suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        os.close(descriptor)


@contextmanager
def _explained(space: Workspace) -> Iterator[None]:
    """Turn a failure to write into a message; what is finished is kept for a restart."""
    try:
        yield
    except OSError as error:
        raise DescryError(unwritable(error, space.partial)) from error

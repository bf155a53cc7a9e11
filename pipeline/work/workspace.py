"""The folder in which an output grows, and the moment it becomes the output.

``OUT.partial`` becomes ``OUT`` in one rename when all is written, so that `OUT` is complete or
absent. A run that was stopped finds there what is finished. Where an output shares its folder with
other files, `filling` marks the folder instead, until all is there.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.atomic import hold, release, unwritable
from pipeline.errors import DescryError

UNFINISHED = "UNFINISHED"  # the mark of `filling`
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True, slots=True)
class Kind:
    """What an output folder is, so that nothing else is ever replaced.

    Attributes
    ----------
    what : str
        "a conversion", "a prediction", ...
    file : str
        Name of a JSON file in it.
    format : str
        The value of its "format".
    """

    what: str
    file: str
    format: str

    def is_in(self, folder: Path) -> bool:
        """Whether `folder` is a finished output of this kind."""
        with suppress(OSError, ValueError, AttributeError):
            about = json.loads((folder / self.file).read_text(encoding="utf-8"))
            return about.get("format") == self.format
        return False


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
    def replaced(self) -> Path:
        """The former output, for the moment between two renames."""
        return self.out.with_name(f".{self.out.name}.replaced")

    @property
    def lock(self) -> Path:
        """The file that a run holds locked."""
        return self.out.with_name(f".{self.out.name}.lock")

    @property
    def all(self) -> set[Path]:
        """The output and all that a run keeps beside it."""
        return {self.out, self.partial, self.replaced, self.lock}

    def publish(self) -> None:
        """Make the growing folder the output; the former output goes only then."""
        shutil.rmtree(self.state)
        if self.out.exists():
            self.out.rename(self.replaced)
        self.partial.rename(self.out)
        if self.replaced.exists():
            shutil.rmtree(self.replaced)


@contextmanager
def open_workspace(out: Path, kind: Kind) -> Iterator[Workspace]:
    """Lock and prepare the workspace of `out`; name a full disk for what it is.

    Raises
    ------
    DescryError
        When `out` is in use by another run, holds something that is not of this kind, or cannot be
        written.
    """
    space = Workspace(out.resolve())
    try:
        space.out.parent.mkdir(parents=True, exist_ok=True)
        with locked(space.lock, _taken(space.out)):
            _recover(space)
            _check_replaceable(space.out, kind)
            space.state.mkdir(parents=True, exist_ok=True)
            yield space
    except OSError as error:  # what is finished is kept for a restart
        raise DescryError(unwritable(error, space.partial)) from error


def _check_replaceable(out: Path, kind: Kind) -> None:
    """Only a former output of the same kind or an empty folder is replaced."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise DescryError(f"--out {out}: is not a folder; give a new or empty folder")
    if out.is_dir() and any(out.iterdir()) and not kind.is_in(out):
        raise DescryError(
            f"--out {out}: holds files that are not {kind.what} (no {kind.file} of one) and would "
            f"be lost; give a new or empty folder"
        )


def _recover(space: Workspace) -> None:
    """Mend what a kill between the two renames of `Workspace.publish` left."""
    if space.replaced.exists():
        if space.out.exists():
            shutil.rmtree(space.replaced)
        else:
            space.replaced.rename(space.out)


@contextmanager
def filling(out: Path) -> Iterator[None]:
    """Hold a folder while files are written into it under their own names.

    Until the block has succeeded there is a file ``UNFINISHED`` in it, which is the lock as well.
    It goes, too, when the block has failed before anything was written.

    Raises
    ------
    DescryError
        When another run writes there, or nothing can be written.
    """
    mark = out / UNFINISHED
    try:
        out.mkdir(parents=True, exist_ok=True)
        with locked(mark, _taken(out), keep=True):
            os.utime(mark)
            try:
                yield
            except BaseException:
                if not _changed_since(mark):
                    mark.unlink()
                raise
            mark.unlink()
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise DescryError(unwritable(error, out)) from error


def _changed_since(mark: Path) -> bool:
    """Whether a file beside the mark is newer."""
    begun = mark.stat().st_mtime_ns
    files = (path for path in mark.parent.rglob("*") if path.is_file() and path != mark)
    return any(path.stat().st_mtime_ns >= begun for path in files)


@contextmanager
def locked(lock: Path, taken: str, keep: bool = False) -> Iterator[None]:
    """Hold a lock file; the system frees it when the process ends.

    Parameters
    ----------
    lock : Path
    taken : str
        What to say when another run holds it.
    keep : bool
        Leave the file there.

    Raises
    ------
    DescryError
    """
    descriptor = hold(lock)
    if descriptor is None:
        raise DescryError(taken)
    try:
        yield
    finally:
        if not keep:
            lock.unlink(missing_ok=True)
        release(descriptor)


def _taken(out: Path) -> str:
    return f"--out {out}: another run is writing there; wait for it or give another folder"

"""The files of a folder, an archive or a medium, in an order independent of the file system."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.dicom.read.parse import listed_files
from pipeline.errors import DescryError
from pipeline.predict.sources import SourceError, is_zip, members
from pipeline.work.workspace import Workspace


def find_files(source: Path, out: Path) -> list[str]:
    """List all files below `source`, or `source` itself if it is a file.

    Parameters
    ----------
    source : Path
        Folder that is searched to any depth; links to folders are not followed. Or one file; of a
        zip archive its members, of a DICOMDIR the files that it lists.
    out : Path
        The output folder; where it, or what a run keeps beside it, lies inside of `source` it is
        left out.

    Returns
    -------
    list of str
        Paths relative to `source` (to its parent, if it is a file) with ``/``, sorted by code
        point, of whatever name and extension. In the place of a zip archive stand its members,
        ``archive.zip/member``; the archive itself where it is empty or damaged.

    Raises
    ------
    DescryError
        When `source` does not exist, cannot be read or holds no file.
    """
    if source.is_file():
        return sorted(set(_of_file(source)))
    if not source.is_dir():
        raise DescryError(f"{source}: no such file or folder; give a folder of DICOM or images")
    found = sorted(set(_walk(source, Workspace(out.resolve()).all)))
    if not found:
        raise DescryError(f"{source}: the folder holds no files; give a folder of DICOM or images")
    return found


def root_of(source: Path) -> Path:
    """Return the folder that the paths of `find_files` are relative to."""
    return source.parent if source.is_file() else source


def of_shard(paths: list[str], shard: int, shards: int) -> list[str]:
    """Every `shards`-th path, from the `shard`-th on (from 0)."""
    if not 0 <= shard < shards:
        raise DescryError(f"--shard {shard} of --num-shards {shards}: need 0 <= shard < num-shards")
    return paths[shard::shards]


def _of_file(source: Path) -> list[str]:
    listed = listed_files(source)
    if listed is not None:
        return listed
    return list(_unfolded(source.parent, source.name))


def _walk(source: Path, ours: set[Path]) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise DescryError(f"{error.filename}: cannot list the folder ({error.strerror})") from error

    def is_ours(path: Path) -> bool:
        return path.name in named and path.resolve() in ours

    named = {path.name for path in ours}
    for folder, folders, names in os.walk(source, onerror=fail):
        here = Path(folder)
        folders[:] = [name for name in folders if not is_ours(here / name)]
        links = [name for name in folders if (here / name).is_symlink()]
        for name in names + links:
            if not is_ours(here / name):
                yield from _unfolded(source, (here / name).relative_to(source).as_posix())


def _unfolded(root: Path, path: str) -> Iterator[str]:
    """The members of an archive; a file is its own only member."""
    inside: list[str] = []
    if is_zip(root / path):
        with suppress(SourceError, OSError):  # else reading the archive will say what is wrong
            inside = members(root / path)
    yield from (f"{path}/{name}" for name in inside) if inside else (path,)

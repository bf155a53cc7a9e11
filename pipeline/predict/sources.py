"""The files of a folder, an archive or a medium, in a fixed order; members are opened like files.

Members of archives are never unpacked to the disk. What a member may become in memory is bounded
before and while it is read, since a few bytes of an archive can stand for terabytes.
"""

import gzip
import os
import re
import shutil
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import IO, BinaryIO, Literal, cast
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from pipeline.dicom.read.parse import listed_files
from pipeline.errors import DescryError
from pipeline.work.workspace import Workspace

SUFFIX, GZIP = ".zip", ".gz"
DAMAGED = "damaged archive"
MAX_BYTES = 2**30  # of a member
MAX_RATIO = 200  # unpacked to packed, for members above `FREE_BYTES`; blank pictures pack well
FREE_BYTES = 2**26
_STEP = 2**20
_OPEN = 2  # archives that a process keeps open: reading the table of one takes long


class SourceError(Exception):
    """An archive or a member cannot be read; it costs that file only.

    Parameters
    ----------
    kind : str
        "damaged archive", "encrypted", "too large" or "cannot unpack".
    detail : str
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a zip archive, or the only one in a file of gzip.

    Attributes
    ----------
    archive : Path
    path : str
        Its name in the archive; empty in a file of gzip.
    whole : bool
        Unpack all of it when opened, so that one can seek freely; else while it is read.
    """

    archive: Path
    path: str
    whole: bool = True

    @property
    def name(self) -> str:
        """Last part of the name."""
        return self.path.rsplit("/", 1)[-1] or self.archive.stem

    @property
    def suffix(self) -> str:
        """Extension, as of a `Path`."""
        return Path(self.name).suffix

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Open for reading.

        Raises
        ------
        SourceError
            When the member is damaged, encrypted, too large or packed in an unusual way.
        """
        with _unpacking():
            if not self.path:
                return _gunzipped(self.archive)
            zipped = _opened(self.archive, self.archive.stat().st_mtime_ns)
            info = zipped.getinfo(self.path)
            _check(info)
            stream = zipped.open(info)
            return _whole(stream) if self.whole else cast(BinaryIO, stream)


def located(root: Path, path: str, *, whole: bool = True) -> Path | Member:
    """Return what `path`, relative to `root`, stands for: a file, or a member of an archive.

    Parameters
    ----------
    whole : bool
        See `Member`.
    """
    place = root / path
    if place.suffix.lower() == GZIP and _begins(place, b"\x1f\x8b"):
        return Member(place, "", whole)
    if place.exists():
        return place
    for end in (found.start() for found in re.finditer("/", path)):
        if (root / path[:end]).is_file():
            return Member(root / path[:end], path[end + 1 :], whole)
    return place


def is_zip(path: Path) -> bool:
    """Say whether a file is a zip archive: by its name, or, where that has no ending, by content.

    Office documents and programs are zip archives too; they have endings of their own.
    """
    ending = path.suffix.lower().removeprefix(".")
    if path.suffix.lower() == SUFFIX:
        return path.is_file()
    return (not ending or ending.isdigit()) and _begins(path, b"PK\x03\x04")


def _begins(path: Path, mark: bytes) -> bool:
    """Say whether a regular file begins so; one that cannot be opened does not."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return stream.read(len(mark)) == mark
    except OSError:
        return False


def members(archive: Path) -> list[str]:
    """Names of the files in an archive, folders left out; of equal names the last one counts.

    Raises
    ------
    SourceError
        When its table of contents cannot be read.
    OSError
        When it cannot be opened.
    """
    with _unpacking(), ZipFile(archive) as zipped:
        return list(dict.fromkeys(i.filename for i in zipped.infolist() if not i.is_dir()))


def fingerprint(root: Path, path: str) -> tuple[int, int]:
    """Size and time of change of a file or of the archive around it; -1 where there is none."""
    place = located(root, path)
    try:
        about = (place.archive if isinstance(place, Member) else place).stat()
    except OSError:
        return -1, -1
    return about.st_size, about.st_mtime_ns


def is_regular(place: Path | Member) -> bool:
    """Say whether it is neither a pipe nor a device nor the like.

    Raises
    ------
    OSError
        When there is nothing.
    """
    return isinstance(place, Member) or stat.S_ISREG(place.stat().st_mode)


@contextmanager
def _unpacking() -> Iterator[None]:
    """Turn what `zipfile` raises into a `SourceError`."""
    try:
        yield
    except (SourceError, OSError, MemoryError):
        raise
    except Exception as error:  # damaged tables of contents surface as many types
        raise SourceError(DAMAGED, type(error).__name__) from error


@lru_cache(maxsize=_OPEN)
def _opened(archive: Path, changed: int) -> ZipFile:
    """Open an archive, or find it open; `changed` keeps a new file of that name apart."""
    return ZipFile(archive)


def _check(info: ZipInfo) -> None:
    """Refuse what cannot or should not be unpacked, from the table of contents alone."""
    if info.flag_bits & 0x1:
        raise SourceError("encrypted", "the member is protected by a password")
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise SourceError("cannot unpack", f"compression method {info.compress_type}")
    if info.file_size > MAX_BYTES:
        raise SourceError("too large", f"unpacks to more than {MAX_BYTES >> 20} MiB")
    if info.file_size > max(FREE_BYTES, MAX_RATIO * info.compress_size):
        raise SourceError("too large", f"unpacks to more than {MAX_RATIO} times its size")


def _whole(stream: IO[bytes]) -> BytesIO:
    """All that a member holds; `zipfile` stops at the size that the table declares."""
    content = BytesIO()
    with stream:
        shutil.copyfileobj(stream, content, _STEP)
    content.seek(0)
    return content


def _gunzipped(path: Path) -> BytesIO:
    """What a file of gzip holds, up to the limits of members."""
    limit = min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * path.stat().st_size))
    content = BytesIO()
    try:
        with gzip.open(path) as stream:
            while part := stream.read(_STEP):
                if content.write(part) and content.tell() > limit:
                    raise SourceError("too large", f"unpacks to more than {limit >> 20} MiB")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceError(DAMAGED, type(error).__name__) from error
    content.seek(0)
    return content


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

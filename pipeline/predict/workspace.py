"""The folder in which predictions grow, the journal of finished files, and the final rename.

``OUT.partial`` becomes ``OUT`` in one rename when all is written, so `OUT` is complete or absent.
A run that was stopped finds its journal there and goes on.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.atomic import unwritable, write_json
from pipeline.errors import DescryError
from pipeline.predict.discover import working_names
from pipeline.predict.records import FileResult

FORMAT = "descry predictions 1"  # the value of run.json's "format"
GROWING = ("overlays", "report", "sr", "gsps", "sc")  # folders that are filled file by file


class Workspace:
    """The growing folder of an output folder.

    Parameters
    ----------
    out : Path
        Output folder, absolute.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.partial, self.replaced = (out.with_name(name) for name in working_names(out.name))
        self.overlays = self.partial / "overlays"
        self.spool = self.partial / "spool"  # what an archive gave
        self._journal = self.partial / "journal.jsonl"
        self._identity = self.partial / "identity.json"

    def resume(self, identity: Mapping[str, Any], chunk: int, total: int) -> int:
        """Number of files that a stopped run has finished: whole chunks, or all `total`.

        Journals of another model, other options or other files are thrown away. What was written
        for files that are not finished goes as well: a decoder that hangs now and did not then
        gives a file another end.
        """
        if self._read(self._identity) != json.loads(json.dumps(identity)):
            self._journal.unlink(missing_ok=True)
            for name in GROWING:
                shutil.rmtree(self.partial / name, ignore_errors=True)
            write_json(self._identity, identity)
        self.overlays.mkdir(exist_ok=True)
        done = self._finished(chunk, total)
        self._remove_beyond(done)
        return done

    def _finished(self, chunk: int, total: int) -> int:
        """Cut the journal after the last whole chunk; return how many files it has then."""
        if not self._journal.exists():
            return 0
        ends = [0]
        with self._journal.open("rb") as stream:
            for line in stream:
                if line.endswith(b"\n"):
                    ends.append(ends[-1] + len(line))
        lines = len(ends) - 1
        done = lines if lines == total else lines // chunk * chunk
        os.truncate(self._journal, ends[done])
        return done

    def _remove_beyond(self, done: int) -> None:
        """Remove all but what belongs to the first `done` files, which is named by their numbers.

        Also what a kill left of files that were being written (see `replacing`).
        """
        for name in GROWING:
            for path in (self.partial / name).rglob("*"):
                number = path.name.partition("-")[0]
                if path.is_file() and not (number.isdecimal() and int(number) <= done):
                    path.unlink()
        for path in self.partial.glob(".*.tmp"):
            path.unlink()

    def commit(self, results: Iterable[FileResult]) -> None:
        """Append a chunk of finished files; it is on the disk when this returns."""
        with self._journal.open("a", encoding="ascii") as stream:
            for result in results:
                stream.write(json.dumps(result.to_dict(), allow_nan=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def results(self) -> Iterator[FileResult]:
        """All finished files in order, read back one at a time."""
        for _, result in self.numbered():
            yield result

    def numbered(self) -> Iterator[tuple[int, FileResult]]:
        """All finished files in order, each with what `at` needs to find it again."""
        if self._journal.exists():
            with self._journal.open("rb") as stream:
                place = 0
                for line in stream:
                    yield place, FileResult.from_dict(json.loads(line))
                    place += len(line)

    def at(self, place: int) -> FileResult:
        """One finished file, as `numbered` found it."""
        with self._journal.open("rb") as stream:
            stream.seek(place)
            return FileResult.from_dict(json.loads(stream.readline()))

    def publish(self) -> None:
        """Make the growing folder the output; a former output goes only then."""
        for path in (self._journal, self._identity, self.partial / "lock"):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.spool, ignore_errors=True)
        if self.out.exists():
            self.out.rename(self.replaced)
        self.partial.rename(self.out)
        shutil.rmtree(self.replaced, ignore_errors=True)

    @staticmethod
    def _read(path: Path) -> Any:
        with suppress(OSError, ValueError):
            return json.loads(path.read_text(encoding="utf-8"))
        return None


@contextmanager
def open_workspace(out: Path) -> Iterator[Workspace]:
    """Lock the growing folder of `out` against a second run.

    Raises
    ------
    DescryError
        When another run uses it, or `out` holds something that is not a former prediction.
    """
    space = Workspace(out.resolve())
    try:
        if space.replaced.exists() and not space.out.exists():
            space.replaced.rename(space.out)  # a kill between the two renames of `publish`
        _check_replaceable(space.out)
        space.partial.mkdir(parents=True, exist_ok=True)
        with _locked(space.partial / "lock"):
            yield space
    except OSError as error:
        raise DescryError(unwritable(error, space.partial)) from error


def _check_replaceable(out: Path) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise DescryError(f"-o {out}: is not a folder; give a new or empty folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    former = Workspace._read(out / "run.json")
    if not isinstance(former, dict) or former.get("format") != FORMAT:
        raise DescryError(
            f"-o {out}: holds files that are not a former prediction (no run.json of one) and "
            "would be lost; give a new or empty folder"
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system frees when the process ends, however it ends."""
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DescryError(f"{path.parent}: another run is writing there") from None
        if not path.exists() or path.stat().st_ino != os.fstat(stream.fileno()).st_ino:
            raise DescryError(f"{path.parent}: another run has just finished there; try again")
        yield

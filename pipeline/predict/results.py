"""What is known of the finished files of a run, in the journal and in the folders that grow."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from pipeline.atomic import write_json
from pipeline.predict.formats import GROWING
from pipeline.predict.records import FileResult
from pipeline.work.journal import Journal
from pipeline.work.workspace import Kind, Workspace

FORMAT = "descry predictions 1"  # the value of run.json's "format"
PREDICTION = Kind("a former prediction", "run.json", FORMAT)


class Results:
    """The finished files of a run, one at a time from the disk.

    Parameters
    ----------
    space : Workspace
    journal : Journal

    Attributes
    ----------
    folder : Path
        The growing output.
    """

    def __init__(self, space: Workspace, journal: Journal) -> None:
        self.folder, self.journal = space.partial, journal
        self._identity = space.state / "identity.json"

    def resume(self, identity: Mapping[str, Any], chunk: int, total: int) -> int:
        """Number of files that a stopped run has finished: whole chunks, or all `total`.

        Journals of another model, other options or other files are thrown away. What was written
        for files that are not finished goes as well: a decoder that hangs now and did not then
        gives a file another end.
        """
        if self._former_identity() != json.loads(json.dumps(identity)):
            self.journal.cut(0)
            for name in GROWING:
                shutil.rmtree(self.folder / name, ignore_errors=True)
            write_json(self._identity, identity)
        (self.folder / "overlays").mkdir(exist_ok=True)
        lines = self.journal.lines
        done = lines if lines == total else lines // chunk * chunk
        self.journal.cut(done)
        self._remove_beyond(done)
        return done

    def _former_identity(self) -> Any:
        with suppress(OSError, ValueError):
            return json.loads(self._identity.read_text(encoding="utf-8"))
        return None

    def _remove_beyond(self, done: int) -> None:
        """Remove all but what belongs to the first `done` files, which is named by their numbers.

        Also what a kill left of files that were being written (see `replacing`).
        """
        for name in GROWING:
            for path in (self.folder / name).rglob("*"):
                number = path.name.partition("-")[0]
                if path.is_file() and not (number.isdecimal() and int(number) <= done):
                    path.unlink()
        for path in self.folder.glob(".*.tmp"):
            path.unlink()

    def commit(self, results: Iterable[FileResult]) -> None:
        """Append a chunk of finished files; it is on the disk when this returns."""
        self.journal.add_all(result.to_dict() for result in results)

    def __iter__(self) -> Iterator[FileResult]:
        """All finished files in order."""
        for _, result in self.numbered():
            yield result

    def numbered(self) -> Iterator[tuple[int, FileResult]]:
        """All finished files in order, each with what `at` needs to find it again."""
        for place, entry in self.journal.entries():
            yield place, FileResult.from_dict(entry)

    def at(self, place: int) -> FileResult:
        """One finished file, as `numbered` found it."""
        return FileResult.from_dict(self.journal.at(place))

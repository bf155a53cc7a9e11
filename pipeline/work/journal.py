"""What is finished of a long run, on disk, so that a killed one goes on where it stopped."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import DescryError

_DIGEST = 32  # hexadecimal digits at the head of each line
NEVER_REUSED = "-" * _DIGEST


class Journal:
    """One line per result: a digest of all that it depends on, and the result as JSON.

    Lines are appended and never changed; a last one that a kill left unfinished is cut off. Only
    the digests' places are held in memory, the rest is read back from the file. As a context it is
    closed in the end.

    Parameters
    ----------
    path : Path
        Made if it does not exist.

    Attributes
    ----------
    lines : int
        How many there are.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = 0
        self._places: dict[int, int] = {}
        path.touch()
        self._end = self._load()
        self._writer = path.open("ab", buffering=0)
        self._reader = path.open("rb")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()
        self._reader.close()

    def _load(self) -> int:
        """Read the digests of finished lines; return where the next line goes."""
        end = 0
        with self.path.open("rb") as stream:
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                digest = line[:_DIGEST].decode("ascii", errors="replace")
                if digest != NEVER_REUSED:
                    self._places[self._key(digest)] = end
                end += len(line)
                self.lines += 1
        os.truncate(self.path, end)
        return end

    def _key(self, digest: str) -> int:
        try:
            return int(digest, 16)
        except ValueError:
            raise DescryError(
                f"{self.path}: not a journal (a line begins with {digest!r}); remove "
                f"{self.path.parent.parent} and start again"
            ) from None

    def __len__(self) -> int:
        """Number of results of an earlier run that may be used again."""
        return len(self._places)

    def find(self, digest: str) -> int | None:
        """Place of the line with this digest, None if there is none."""
        return self._places.get(self._key(digest))

    def add(self, entry: dict[str, Any], digest: str = NEVER_REUSED) -> int:
        """Append a line; return its place. It is on its way to the disk when this returns."""
        line = (digest + json.dumps(entry, allow_nan=False) + "\n").encode()
        place, self._end = self._end, self._end + len(line)
        self.lines += 1
        while line:  # without a buffer, a write near the end of the disk may be a part of it
            line = line[self._writer.write(line) :]
        return place

    def add_all(self, entries: Iterable[dict[str, Any]]) -> None:
        """Append lines; they are on the disk when this returns."""
        for entry in entries:
            self.add(entry)
        os.fsync(self._writer.fileno())

    def at(self, place: int) -> dict[str, Any]:
        """Entry of the line at `place`."""
        self._reader.seek(place)
        return json.loads(self._reader.readline()[_DIGEST:])

    def entries(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Place and entry of every line, in order, one at a time."""
        place = 0
        while place < self._end:
            self._reader.seek(place)
            line = self._reader.readline()
            yield place, json.loads(line[_DIGEST:])
            place += len(line)

    def cut(self, lines: int) -> None:
        """Keep the first `lines` lines."""
        self.lines = lines
        with self.path.open("rb") as stream:
            for _ in range(lines):
                stream.readline()
            self._end = stream.tell()
        os.truncate(self.path, self._end)
        self._places = {key: at for key, at in self._places.items() if at < self._end}


def entry_at(path: Path, place: int) -> dict[str, Any]:
    """Entry of the line at `place` of a journal that nobody writes to any more."""
    with path.open("rb") as stream:
        stream.seek(place)
        entry: dict[str, Any] = json.loads(stream.readline()[_DIGEST:])
    return entry

"""What is finished of a conversion, on disk, so that a killed one goes on where it stopped."""

import json
import os
from pathlib import Path
from typing import Any

from pipeline.errors import DescryError

_DIGEST = 32  # hexadecimal digits at the head of each line
NEVER_REUSED = "-" * _DIGEST


class Journal:
    """One line per record: a digest of all that its result depends on, and the result.

    Lines are appended and never changed. Only the digests' places are held in memory, the rest is
    read back from the file.

    Parameters
    ----------
    path : Path
        Made if it does not exist. A last line that a kill left unfinished is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[int, int] = {}
        path.touch()
        self._end = self._load()
        self._writer = path.open("ab", buffering=0)
        self._reader = path.open("rb")

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
        os.truncate(self.path, end)
        return end

    def _key(self, digest: str) -> int:
        try:
            return int(digest, 16)
        except ValueError:
            raise DescryError(
                f"{self.path}: not a journal of a conversion (a line begins with {digest!r}); "
                f"remove {self.path.parent.parent} and start again"
            ) from None

    def __len__(self) -> int:
        return len(self._places)

    def find(self, digest: str) -> int | None:
        """Place of the line with this digest, None if there is none."""
        return self._places.get(self._key(digest))

    def add(self, digest: str, entry: dict[str, Any]) -> int:
        """Append a line; return its place. It is on its way to the disk when this returns."""
        line = (digest + json.dumps(entry, allow_nan=False) + "\n").encode()
        place, self._end = self._end, self._end + len(line)
        while line:  # without a buffer, a write near the end of the disk may be a part of it
            line = line[self._writer.write(line) :]
        return place

    def at(self, place: int) -> dict[str, Any]:
        """Entry of the line at `place`."""
        self._reader.seek(place)
        return json.loads(self._reader.readline()[_DIGEST:])

    def close(self) -> None:
        """Close the file."""
        self._writer.close()
        self._reader.close()

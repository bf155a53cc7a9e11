"""What a person marked for review, kept in a CSV that is whole at any moment."""

import csv
from dataclasses import dataclass
from pathlib import Path

from pipeline.atomic import write_csv
from pipeline.errors import DescryError

VERDICTS = ("look again", "wrong class", "wrong box", "missing object", "no object", "fine")
TARGET = ("split", "file_name", "annotation_id", "class", "x", "y", "width", "height", "score")
COLUMNS = (*TARGET, "verdict", "note")
LONGEST = 2000  # characters of a note


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """What a mark is about, as text: a whole image (all but the first two empty) or a box of it."""

    split: str
    file_name: str
    annotation_id: str = ""
    name: str = ""
    x: str = ""
    y: str = ""
    width: str = ""
    height: str = ""
    score: str = ""

    def cells(self) -> tuple[str, ...]:
        """Values of the columns `TARGET`."""
        box = (self.x, self.y, self.width, self.height, self.score)
        return (self.split, self.file_name, self.annotation_id, self.name, *box)


class Review:
    """Marks by target; each change is written at once.

    Parameters
    ----------
    path : Path
        The CSV; what stands in it already is kept.

    Raises
    ------
    DescryError
        When the file is there but is not such a CSV.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.marks: dict[Target, tuple[str, str]] = _read(path) if path.exists() else {}

    def mark(self, target: Target, verdict: str, note: str) -> None:
        """Set a mark, or remove it with an empty `verdict`.

        Raises
        ------
        DescryError
            For an unknown verdict, or when the file cannot be written.
        """
        if verdict and verdict not in VERDICTS:
            raise DescryError(f"verdict={verdict!r}: must be one of {', '.join(VERDICTS)}")
        before = dict(self.marks)
        self.marks.pop(target, None)
        if verdict:
            self.marks[target] = (verdict, " ".join(note.split())[:LONGEST])
        try:
            rows = ((*key.cells(), *value) for key, value in sorted(self.marks.items()))
            write_csv(self.path, COLUMNS, rows)
        except OSError as error:
            self.marks = before
            raise DescryError(f"{self.path}: cannot be written: {error.strerror}") from None

    def of_image(self, split: str, file_name: str) -> dict[Target, tuple[str, str]]:
        """All marks of an image and its boxes."""
        return {
            target: value
            for target, value in self.marks.items()
            if (target.split, target.file_name) == (split, file_name)
        }


def _read(path: Path) -> dict[Target, tuple[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.reader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise DescryError(f"{path}: cannot be read as a CSV: {error}") from None
    if not rows or tuple(rows[0]) != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise DescryError(
            f"{path}: not a list of marks (its first line would be {','.join(COLUMNS)}); give "
            "another file with --review"
        )
    return {Target(*row[: len(TARGET)]): (row[-2], row[-1]) for row in rows[1:]}

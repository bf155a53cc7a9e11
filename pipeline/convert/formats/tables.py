"""CSV files as they reach people: byte-order marks, CRLF, semicolons, decimal commas, cut rows.

Rows come out as text with the place they stand at; what a field means is the caller's to say.
"""

import csv
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipeline.convert.records import Ledger, Unreadable
from pipeline.errors import DescryError

Parsed = TypeVar("Parsed")
MALFORMED = "malformed row"
_DELIMITERS = re.compile(r"[,;\t]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table.

    Attributes
    ----------
    where : str
        ``"<file>:<line>"``, for messages and the report.
    fields : tuple of str
        Without surrounding blanks.
    decimal_comma : bool
        The table is separated by semicolons, where ``264,0`` is the number 264.0.
    """

    where: str
    fields: tuple[str, ...]
    decimal_comma: bool = False

    def number(self, index: int) -> float:
        """Field `index` as a finite number.

        Raises
        ------
        Unreadable
            When it is not one (empty, text, ``nan``, ``inf``).
        """
        text = self.fields[index]
        plain = text.replace(",", ".") if self.decimal_comma else text
        value = float(plain) if _NUMBER.fullmatch(plain) else math.nan
        if not math.isfinite(value):
            raise Unreadable(MALFORMED, f"field {index + 1} is {text!r}, not a number")
        return value


def read_rows(path: Path) -> Iterator[Row]:
    """Stream the rows of a CSV file; blank lines are skipped.

    The delimiter is the first comma, semicolon or tab of the first line.

    Raises
    ------
    DescryError
        When the file is empty, is not UTF-8 text or cannot be parsed as CSV at all.
    """
    empty = True
    try:
        for row in _rows(path):
            empty = False
            yield row
    except UnicodeDecodeError as error:
        raise DescryError(
            f"{path}: not a UTF-8 text file ({error.reason} at byte {error.start}). "
            "Download it again, or save it as CSV in UTF-8."
        ) from error
    except (csv.Error, OSError) as error:
        raise DescryError(f"{path}: cannot be read as CSV ({error}). Download it again.") from error
    if empty:
        raise DescryError(f"{path}: the file is empty. Download it again.")


def _rows(path: Path) -> Iterator[Row]:
    """Rows of a file, with the errors of the csv module and of the decoder."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        found = _DELIMITERS.search(stream.readline())
        delimiter = found.group() if found else ","
        stream.seek(0)
        reader = csv.reader(stream, delimiter=delimiter)
        for cells in reader:
            fields = tuple(cell.strip() for cell in cells)
            if any(fields):
                yield Row(f"{path.name}:{reader.line_num}", fields, delimiter == ";")


@dataclass(frozen=True, slots=True)
class Columns:
    """Where the wanted columns of a table stand, and how long its rows are."""

    order: tuple[int, ...]
    length: int

    def pick(self, row: Row) -> Row:
        """Return the row with the wanted columns only, in the wanted order.

        Raises
        ------
        Unreadable
            When the row has more or fewer fields than the header.
        """
        if len(row.fields) != self.length:
            raise Unreadable(MALFORMED, f"{len(row.fields)} fields instead of {self.length}")
        return Row(row.where, tuple(row.fields[at] for at in self.order), row.decimal_comma)


def find_columns(header: Row, wanted: Sequence[str], path: Path) -> Columns:
    """Find the columns named `wanted`, whatever their order and case.

    Raises
    ------
    DescryError
        When one is missing (a file without its header line, or another file).
    """
    names = [name.casefold() for name in header.fields]
    missing = [name for name in wanted if name.casefold() not in names]
    if missing:
        raise DescryError(
            f"{path}: the first line must be the header with the columns {', '.join(wanted)}; "
            f"missing {', '.join(missing)}, found {', '.join(header.fields)[:120]!r}. "
            "Restore the header line or download the file again."
        )
    return Columns(tuple(names.index(name.casefold()) for name in wanted), len(names))


def parse_rows(
    path: Path,
    rows: Iterable[Row],
    parse: Callable[[Row], Parsed],
    ledger: Ledger,
    refused: list[Row],
) -> Iterator[tuple[Row, Parsed]]:
    """Parse rows one by one; those that `parse` refuses are dropped into the ledger.

    Parameters
    ----------
    refused : list of Row
        Receives the refused rows: an image with one of them is not completely annotated.

    Raises
    ------
    DescryError
        When there is no row at all or none can be parsed: that is another file, not a bad row.
    """
    count, problem_seen = 0, ""
    ledger.claim(path.name)
    for row in rows:
        count += 1
        ledger.read(path.name)
        try:
            parsed = parse(row)
        except Unreadable as problem:
            ledger.drop("row", row.where, problem.reason, problem.detail)
            refused.append(row)
            problem_seen = problem_seen or f"{row.where}: {problem.reason}, {problem.detail}"
        else:
            yield row, parsed
    if count == len(refused):
        told = (
            f"none of its {count} rows can be used ({problem_seen})" if count else "it has no row"
        )
        raise DescryError(f"{path}: {told}. Is it the right file? Download it again.")


def find_table(raw: Path, names: Sequence[str], pattern: str, way_out: str) -> Path:
    """Return the first of `names` that exists in `raw`, else the only file that matches `pattern`.

    Raises
    ------
    DescryError
        When the folder or the file is missing, or several match.
    """
    if not raw.is_dir():
        raise DescryError(f"{raw}: no such folder. {way_out}")
    for name in names:
        if (raw / name).is_file():
            return raw / name
    others = sorted(path for path in raw.glob(pattern) if path.is_file())
    if len(others) == 1:
        return others[0]
    if others:
        listed = ", ".join(path.name for path in others)
        raise DescryError(f"{raw}: several files could be {names[0]} ({listed}). Keep one of them.")
    raise DescryError(f"{raw / names[0]}: this file is missing. {way_out}")


_AGE = re.compile(r"(\d{1,3})([YMWD]?)", re.ASCII)
_PER_YEAR = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.1775, "D": 365.2425}
OLDEST = 120  # the longest documented human life is 122 years


def age_in_years(text: str) -> float | int | None:
    """Age in years, or None when `text` is no age that a patient can have.

    Parameters
    ----------
    text : str
        A number of years, or a DICOM age string. Whole years come back as int; months, weeks
        and days as years with two decimals.
    """
    found = _AGE.fullmatch(text.strip().upper())
    if not found:
        return None
    number, unit = int(found[1]), found[2]
    years = number / _PER_YEAR[unit]
    if years > OLDEST:
        return None
    return number if unit in ("", "Y") else round(years, 2)

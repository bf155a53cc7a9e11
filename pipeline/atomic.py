"""Whole files or none: every output goes to a temporary sibling and is renamed into place."""

import csv
import errno
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_FORMULA = re.compile(r"[=@\t\r]|[-+](?![\d.]+([eE][-+]?\d+)?$)")  # numbers are none
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary sibling of `path`; rename it over `path` when the block succeeds.

    Parameters
    ----------
    path : Path
        The file to write; missing parent folders are made.
    mode : str
        ``"w"`` for UTF-8 text with LF line ends, ``"wb"`` for bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with temporary.open(mode, **text) as stream:  # type: ignore[call-overload]
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON with sorted keys, so that equal values are equal bytes."""
    with replacing(path) as stream:
        json.dump(value, stream, indent=1, sort_keys=True, allow_nan=False)
        stream.write("\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV with LF line ends; the rows are streamed.

    Text that a spreadsheet would take for a formula (a class or file name with ``=``, ``+``, ``-``
    or ``@`` in front) gets an apostrophe in front of it.
    """
    with replacing(path) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([_no_formula(cell) for cell in row] for row in rows)


def _no_formula(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def unwritable(error: OSError, folder: Path) -> str:
    """Message for an `OSError` of writing into `folder`."""
    if error.errno in _FULL:
        return (
            f"{folder}: no space left to write ({error.strerror}). Free some and start the same "
            f"command again: it goes on where it stopped"
        )
    return f"{error.filename or folder}: {error.strerror or error}"

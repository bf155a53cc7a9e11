"""Whole files or none: every output goes to a temporary sibling and is renamed into place."""

import csv
import errno
import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

_FORMULA = re.compile(r"[=@\t\r]|[-+](?![\d.]+([eE][-+]?\d+)?$)")  # numbers are none
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


_held: set[int] = set()


def hold(path: Path) -> int | None:
    """Lock a file, made if need be, for this process; None when another holds it.

    The lock ends with `release`, or with the process: what it has forked does not keep it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        with suppress(FileNotFoundError):  # removed in between by the one that held it
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                _held.add(descriptor)
                return descriptor
        os.close(descriptor)


def release(descriptor: int) -> None:
    """Give up what `hold` gave."""
    _held.discard(descriptor)
    os.close(descriptor)


def _let_go() -> None:
    """Close the parent's locks in a fork, which may outlive it; they stay the parent's."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary sibling of `path`; rename it over `path` when the block succeeds.

    What a killed process leaves of it has the name that the next one takes, so nothing piles up.

    Parameters
    ----------
    path : Path
        The file to write; missing parent folders are made.
    mode : str
        ``"w"`` for UTF-8 text with LF line ends, ``"wb"`` for bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    lock = hold(temporary)
    if lock is None:  # another process is writing the same file: the last one wins
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with temporary.open(mode, **text) as stream:  # type: ignore[call-overload]
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        if lock is not None:
            release(lock)


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

"""Files of one kind below some folders, by name, for datasets whose tables name the files."""

import os
from collections.abc import Iterable
from pathlib import Path

from pipeline.convert.records import Ledger


def files_by_name(
    raw: Path, folders: Iterable[Path], suffix: str, ledger: Ledger
) -> dict[str, str]:
    """Map file name -> path relative to `raw`, of the files that end in `suffix` in any case.

    Links to folders are followed (large data is often linked), hidden files and the resource
    forks of macOS are skipped. A name that occurs twice is dropped at its second place.
    """
    found: dict[str, str] = {}
    for path in sorted(path for folder in folders for path in _walk(folder, suffix)):
        relative = path.relative_to(raw).as_posix()
        if path.name in found:
            ledger.drop("file", relative, "same file name in two folders", found[path.name])
        else:
            found[path.name] = relative
    return found


def _walk(folder: Path, suffix: str) -> Iterable[Path]:
    for place, inner, files in os.walk(folder, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith((".", "__MACOSX"))]
        for name in files:
            if name.lower().endswith(suffix) and not name.startswith("."):
                yield Path(place, name)

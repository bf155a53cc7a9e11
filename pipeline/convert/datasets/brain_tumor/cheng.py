"""Cheng's brain tumour dataset: one slice, one tumour, one mask per MATLAB file.

J. Cheng, "brain tumor dataset", figshare 1512427: 3,064 T1-weighted contrast-enhanced slices of
233 patients. The box is the extent of the mask, not of the hand-drawn border.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from pipeline.convert.datasets.brain_tumor.cheng_mat import (
    compare_border,
    load,
    read_head,
    read_vector,
    to_unsigned,
)
from pipeline.convert.formats.folders import relative
from pipeline.convert.formats.masks import whole_object
from pipeline.convert.records import Box, Ledger, Picture, Record, Unreadable
from pipeline.errors import DescryError

PUBLISHED = 3064
FOLDS = 5
_FOLD_FILES = ("cvind.mat", "cvind5fold.mat")


def slice_files(raw: Path) -> list[Path]:
    """Files named by a number, wherever below `raw`, by ascending number and then path.

    The archives unpack to folders of various names, so only the file's own name counts.
    """
    found = [p for p in raw.rglob("*.mat") if re.fullmatch("0*[1-9][0-9]*", p.stem)]
    return sorted(found, key=lambda p: (int(p.stem), p.as_posix()))


def scan_slices(raw: Path, fold: int, ledger: Ledger) -> Iterator[Record]:
    """Yield one record per usable file, by number, grouped by patient.

    Parameters
    ----------
    raw : Path
    fold : int
        Which of the five official folds is the test split, when cvind.mat is there; 0: none.
    ledger : Ledger

    Raises
    ------
    DescryError
        When no file is usable, or cvind.mat does not fit the files.
    """
    files = slice_files(raw)
    folds = _folds(raw, int(files[-1].stem), fold, ledger)
    check = _LabelCheck(_vector(raw, ("label.mat",), "label", ledger))
    used: set[int] = set()
    anonymous = 0
    for path in files:
        number = int(path.stem)
        head = _head(raw, path, number in used, ledger)
        if head is None:
            continue
        label, patient = head
        used.add(number)
        anonymous += not patient
        check.compare(number, label, path)
        split = None if folds is None else ("test" if folds[number - 1] == fold else "train")
        yield Record(f"{number:04d}", relative(raw, path), (), patient, split)
    _finish(raw, len(files), len(used), ledger)
    check.note(ledger)
    if anonymous:
        ledger.note(f"{anonymous} file(s) carry no patient id: each counts as its own patient.")


@dataclass(slots=True)
class _LabelCheck:
    """Compares label.mat (by file number - 1; None: not there) with the files' own labels."""

    labels: np.ndarray | None
    contradicted: list[str] = field(default_factory=list)

    def compare(self, number: int, label: int, path: Path) -> None:
        """Note a file whose label is another one in the list."""
        if self.labels is None or number > len(self.labels):
            return
        if self.labels[number - 1] != label:
            self.contradicted.append(path.name)

    def note(self, ledger: Ledger) -> None:
        """Say how the comparison went."""
        if self.contradicted:
            ledger.note(
                f"label.mat contradicts the label inside {len(self.contradicted)} file(s) "
                f"({', '.join(self.contradicted[:3])}); the file's own label is used."
            )
        elif self.labels is not None:
            ledger.note("label.mat agrees with the label inside every file.")


def read_slice(raw: Path, record: Record) -> Picture:
    """Read the pixels (16 bits kept) and the box of one file.

    Raises
    ------
    Unreadable
        When the file is not of this structure, or its mask is empty or of another size.
    """
    content = load(raw / record.path)
    found = whole_object(content.mask)
    if found is None:
        raise Unreadable("tumour mask is empty")
    pixels, notes = to_unsigned(content.image)
    if ndimage.label(content.mask, np.ones((3, 3)))[1] > 1:
        notes += ("tumour mask has several parts: the box covers all",)
    notes += (compare_border(content.border, content.mask),)
    extent, mask = found
    return Picture(pixels, (Box(*extent, content.label, record.path, mask=mask),), False, notes)


def _head(raw: Path, path: Path, is_second: bool, ledger: Ledger) -> tuple[int, str] | None:
    """Label and patient of a file, or None when it is dropped."""
    try:
        if is_second:
            raise Unreadable("second file of the same number", path.name)
        return read_head(path)
    except Unreadable as problem:
        ledger.drop("image", relative(raw, path), problem.reason, problem.detail)
        return None


def _folds(raw: Path, largest: int, fold: int, ledger: Ledger) -> np.ndarray | None:
    """Official fold (1 to 5) by file number - 1, or None when there are none to use."""
    if fold == 0:
        return None
    folds = _vector(raw, _FOLD_FILES, "cvind", ledger)
    if folds is None:
        ledger.note("No cvind.mat: the official folds are not known, the split is by patient.")
        return None
    if len(folds) < largest or not np.isin(folds, range(1, FOLDS + 1)).all():
        raise DescryError(
            f"{raw}: cvind.mat holds {len(folds)} numbers, among them "
            f"{sorted(set(folds.tolist()))[: FOLDS + 1]}; needed is one from 1 to {FOLDS} for each "
            f"file up to {largest}.mat. Take the published cvind.mat, or set fold to 0."
        )
    ledger.note(f"Official fold {fold} of {FOLDS} (cvind.mat) is the test split.")
    return folds


def _vector(raw: Path, names: tuple[str, ...], key: str, ledger: Ledger) -> np.ndarray | None:
    """List `key` of the first of the files `names` that lies anywhere below `raw`, if any."""
    found = [path for name in names for path in sorted(raw.rglob(name))]
    if not found:
        return None
    ledger.claim(relative(raw, found[0]))
    return read_vector(found[0], key)


def _finish(raw: Path, files: int, used: int, ledger: Ledger) -> None:
    """Fail when nothing was usable; say how much of the published set is here."""
    if not used:
        (reason, count), *_ = Counter(d.reason for d in ledger.drops).most_common(1)
        raise DescryError(
            f"{raw}: none of the {files} numbered .mat files is usable; {count} times: {reason} "
            f"({ledger.drops[0].where}: {ledger.drops[0].detail}). Needed are the published "
            "MATLAB v7.3 files with the structure cjdata."
        )
    ledger.note(f"{used} of the {PUBLISHED:,} published slices; every one shows a tumour.")

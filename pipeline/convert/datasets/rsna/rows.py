"""The tables of the RSNA Pneumonia Detection Challenge 2018.

``stage_2_train_labels.csv`` holds one row per box, or one row without a box for a negative;
``stage_2_detailed_class_info.csv`` repeats the image's class once per row of the former.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pipeline.convert.formats.tables import MALFORMED, Row, find_columns, parse_rows, read_rows
from pipeline.convert.records import Box, Ledger, Unreadable
from pipeline.errors import DescryError

Parsed = TypeVar("Parsed")
CLASS = "Lung Opacity"
FINDINGS = (CLASS, "Normal", "No Lung Opacity / Not Normal")
_LABEL_COLUMNS = ("patientId", "x", "y", "width", "height", "Target")
_CLASS_COLUMNS = ("patientId", "class")
_TARGETS = {"0": False, "0.0": False, "1": True, "1.0": True}
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*", re.ASCII)


@dataclass(slots=True)
class ImageLabels:
    """What the label table says of one image.

    Attributes
    ----------
    boxes : list of Box
    negatives : list of str
        Places of rows that say "no opacity" (Target 0).
    """

    boxes: list[Box] = field(default_factory=list)
    negatives: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[str]:
        """Places of all rows of the image."""
        return [*self.negatives, *(box.where for box in self.boxes)]


def read_labels(path: Path, ledger: Ledger) -> tuple[dict[str, ImageLabels], set[str]]:
    """ImageLabels per image id, and the ids of which a row was refused.

    Repeated and malformed rows are dropped. A row without a box proves nothing when another row
    of its image has a box, or has been refused: it is dropped too.

    Raises
    ------
    DescryError
        When the table cannot be used as a whole.
    """
    labels: dict[str, ImageLabels] = defaultdict(ImageLabels)
    incomplete: set[str] = set()
    for where, (identity, box) in _parsed(path, _LABEL_COLUMNS, _parse_label, ledger, incomplete):
        _add(labels[identity], identity, box, where, ledger)
    for identity, found in labels.items():
        if found.boxes or identity in incomplete:
            for where in found.negatives:
                ledger.drop("row", where, "row without a box contradicts another row", identity)
            found.negatives.clear()
    return {identity: found for identity, found in labels.items() if found.rows}, incomplete


def _parsed(
    path: Path,
    wanted: Sequence[str],
    parse: Callable[[Row], Parsed],
    ledger: Ledger,
    incomplete: set[str],
) -> Iterator[tuple[str, Parsed]]:
    """Place and content of every usable row; ids of refused rows go to `incomplete`."""
    rows = read_rows(path)
    columns = find_columns(next(rows), wanted, path)
    refused: list[Row] = []
    for row, parsed in parse_rows(
        path, rows, lambda row: parse(columns.pick(row)), ledger, refused
    ):
        yield row.where, parsed
    first = columns.order[0]
    incomplete.update(row.fields[first] for row in refused if len(row.fields) > first)


def _add(labels: ImageLabels, identity: str, box: Box | None, where: str, ledger: Ledger) -> None:
    """Add one row to an image unless it says nothing new."""
    if box is None:
        known = bool(labels.negatives)
    else:
        frame = (box.x, box.y, box.width, box.height)
        known = any(frame == (b.x, b.y, b.width, b.height) for b in labels.boxes)
    if known:
        ledger.drop("row", where, "repeated row", identity)
    elif box is None:
        labels.negatives.append(where)
    else:
        labels.boxes.append(box)


def _parse_label(row: Row) -> tuple[str, Box | None]:
    """Image id and box of one row; no box for Target 0."""
    identity, target = image_id(row), row.fields[5]
    if target not in _TARGETS:
        raise Unreadable("unknown class", f"Target is {target!r}, neither 0 nor 1")
    if _TARGETS[target]:
        x, y, width, height = (row.number(index) for index in range(1, 5))
        return identity, Box(x, y, width, height, CLASS, row.where)
    if any(text.casefold() not in ("", "nan") for text in row.fields[1:5]):
        raise Unreadable(MALFORMED, "Target is 0 but the row has a box")
    return identity, None


def read_findings(path: Path, known: Iterable[str], ledger: Ledger) -> dict[str, str]:
    """Class per image id, for the ids in `known`.

    The table repeats itself once per box, so that repeated rows are the rule; they are dropped
    and counted like all others.

    Raises
    ------
    DescryError
        When the table cannot be used as a whole.
    """
    images = set(known)
    findings: dict[str, str] = {}
    for where, (identity, finding) in _parsed(path, _CLASS_COLUMNS, _parse_finding, ledger, set()):
        if identity not in images:
            ledger.drop("row", where, "class of an image that is not used", identity)
        elif identity not in findings:
            findings[identity] = finding
            ledger.use(path.name)
        elif findings[identity] == finding:
            ledger.drop("row", where, "class repeated for a further box", identity)
        else:
            ledger.drop("row", where, "contradicts an earlier row", identity)
    return findings


def _parse_finding(row: Row) -> tuple[str, str]:
    """Image id and class of one row."""
    identity, finding = image_id(row), row.fields[1]
    if finding not in FINDINGS:
        raise Unreadable("unknown class", f"{finding!r} is not one of {', '.join(FINDINGS)}")
    return identity, finding


def image_id(row: Row) -> str:
    """Return the id that a row begins with, checked to be usable as a file name."""
    identity = row.fields[0]
    if not _ID.fullmatch(identity):
        raise Unreadable(MALFORMED, f"{identity[:60]!r} is not an image id")
    return identity


_NIH_IMAGE = re.compile(r"\d{8}_\d{3}\.png", re.ASCII)


def read_mapping(path: Path, ledger: Ledger) -> dict[str, str]:
    """RSNA id -> NIH file name; entries of another form are dropped.

    Raises
    ------
    DescryError
        When the file is missing, is not a JSON list, or holds no usable entry.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DescryError(
            f"{path}: cannot be read as JSON ({error}). Download RSNA's mapping again, or do "
            "without: remove the file (the split is then by image)."
        ) from error
    if not isinstance(entries, list):
        raise DescryError(f"{path}: must be a JSON list, is a {type(entries).__name__}.")
    ledger.read(path.name, len(entries))
    mapping: dict[str, str] = {}
    for number, entry in enumerate(entries, start=1):
        pair = _pair(entry)
        if pair is None:
            ledger.drop("row", f"{path.name}:entry {number}", "malformed row", repr(entry)[:80])
        elif mapping.setdefault(*pair) != pair[1]:
            detail = f"{pair[0]} is {mapping[pair[0]]} and {pair[1]}"
            ledger.drop("row", f"{path.name}:entry {number}", "contradicts an earlier row", detail)
        else:
            ledger.use(path.name)
    if not mapping:
        raise DescryError(
            f"{path}: no entry with subset_img_id and img_id. Is it RSNA's mapping file?"
        )
    return mapping


def _pair(entry: object) -> tuple[str, str] | None:
    """RSNA id and NIH file name of one entry."""
    if not isinstance(entry, dict):
        return None
    identity, image = entry.get("subset_img_id"), entry.get("img_id")
    if not (isinstance(identity, str) and isinstance(image, str) and _NIH_IMAGE.fullmatch(image)):
        return None
    return identity, image

"""Rows of the two tables of NIH ChestX-ray14, read by position.

Both headers hold brackets with commas inside (``Bbox [x,y,w,h]``) and exist in several spellings,
so that names and columns never match; the order of the columns is the same in all of them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.convert.formats.tables import MALFORMED, Row, age_in_years, read_rows
from pipeline.convert.records import Box, Ledger, Unreadable

CLASSES = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
)
NO_FINDING = "No Finding"
FINDINGS = (
    *CLASSES,
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Pleural_Thickening",
    NO_FINDING,
)
BOX_FIELDS = 6
ENTRY_FIELDS = 11
SHORT_ENTRY_FIELDS = 7  # the same table without the size and spacing of the original
_IMAGE = re.compile(r"\d{8}_\d{3}\.png", re.ASCII)
_SEXES = {"M": "M", "F": "F", "MALE": "M", "FEMALE": "F"}


def _key(label: str) -> str:
    """One spelling for blanks, underscores and case."""
    return label.casefold().replace(" ", "_")


_CANONICAL = {_key(name): name for name in FINDINGS} | {"infiltrate": "Infiltration"}


@dataclass(frozen=True, slots=True)
class DataEntry:
    """One image of Data_Entry: its row and its findings in their canonical spelling."""

    row: Row
    findings: tuple[str, ...]

    @property
    def is_normal(self) -> bool:
        """Whether the image is labelled `No Finding` and nothing else."""
        return self.findings == (NO_FINDING,)


def body(path: Path, ledger: Ledger) -> Iterator[Row]:
    """Rows of a table without its header; a missing header is noted and costs no row."""
    for number, row in enumerate(read_rows(path)):
        if number == 0 and _key(row.fields[0]) == "image_index":
            continue
        if number == 0:
            ledger.note(f"{path.name} has no header line; its columns were read by position.")
        yield row


def parse_box(row: Row) -> tuple[str, Box]:
    """Image name and box of one row of BBox_List.

    Raises
    ------
    Unreadable
        When the row is malformed or its class is not one of the eight.
    """
    name = image_name(row)
    _check_length(row, BOX_FIELDS)
    label = _CANONICAL.get(_key(row.fields[1]))
    if label not in CLASSES:
        raise Unreadable("unknown class", f"{row.fields[1]!r} is not one of {', '.join(CLASSES)}")
    x, y, width, height = (row.number(index) for index in range(2, BOX_FIELDS))
    return name, Box(x, y, width, height, label, row.where)


def parse_entry(row: Row) -> DataEntry:
    """One row of Data_Entry.

    Raises
    ------
    Unreadable
        When the row is malformed, names an unknown finding or contradicts its file name.
    """
    name = image_name(row)
    _check_length(row, SHORT_ENTRY_FIELDS, ENTRY_FIELDS)
    labels = [label.strip() for label in row.fields[1].split("|")]
    for label in labels:
        if _key(label) not in _CANONICAL:
            raise Unreadable("unknown class", f"finding {label!r}")
    patient = row.fields[3]
    if not patient.isdecimal() or int(patient) != int(name[:8]):
        raise Unreadable(MALFORMED, f"patient {patient!r} is not that of the file name {name}")
    return DataEntry(row, tuple(_CANONICAL[_key(label)] for label in labels))


def image_name(row: Row) -> str:
    """Return the file name that a row begins with, checked for its pattern."""
    name = row.fields[0]
    if not _IMAGE.fullmatch(name):
        raise Unreadable(MALFORMED, f"{name[:60]!r} is not an image name such as 00000001_000.png")
    return name


def _check_length(row: Row, *allowed: int) -> None:
    """Refuse rows of other lengths; empty fields behind the last column do no harm."""
    longest = max(allowed)
    if any(row.fields[longest:]) or min(len(row.fields), longest) not in allowed:
        raise Unreadable(MALFORMED, f"{len(row.fields)} fields instead of {longest}")


def attributes(entry: DataEntry) -> dict[str, object]:
    """What COCO's image entry tells of the radiograph; what cannot be is left out.

    Returns
    -------
    dict
        ``findings`` (list), ``follow_up``, ``age`` (years), ``sex``, ``view_position``,
        ``original_size`` (width, height in pixels) and ``original_pixel_spacing_mm`` (x, y). The
        last two belong to the radiograph before NIH made it 1024 x 1024.
    """
    fields = entry.row.fields
    found: dict[str, object] = {"findings": list(entry.findings)}
    if fields[2].isdecimal():
        found["follow_up"] = int(fields[2])
    age = age_in_years(fields[4])
    if age is not None:
        found["age"] = age
    if fields[5].upper() in _SEXES:
        found["sex"] = _SEXES[fields[5].upper()]
    if fields[6]:
        found["view_position"] = fields[6]
    if len(fields) >= ENTRY_FIELDS:
        found |= _original_frame(entry.row)
    return found


def _original_frame(row: Row) -> dict[str, object]:
    """Size and spacing before the resize, each only if all its numbers are positive."""
    try:
        width, height, x, y = (row.number(index) for index in range(7, ENTRY_FIELDS))
    except Unreadable:
        return {}
    if min(width, height, x, y) <= 0:
        return {}
    return {"original_size": [int(width), int(height)], "original_pixel_spacing_mm": [x, y]}

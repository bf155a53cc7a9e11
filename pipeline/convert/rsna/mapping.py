"""Which NIH radiograph each RSNA image is: the only way to its patient.

RSNA's ``pneumonia-challenge-dataset-mappings_2018.json`` is a list with one object per image:
``subset_img_id`` is the challenge's id, ``img_id`` the NIH file name, whose first eight digits
are the patient.
"""

import json
import re
from pathlib import Path

from pipeline.convert.records import Ledger
from pipeline.errors import DescryError

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

"""What a DICOM header adds to the labels of its image: view, sex, age, pixel spacing."""

from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from pipeline.convert.formats.ages import age_in_years
from pipeline.dicom.header import quiet

IMPLAUSIBLE_AGE = "implausible age left out"
_KEYWORDS = ["PatientAge", "PatientSex", "ViewPosition", "PixelSpacing"]


@dataclass(frozen=True, slots=True)
class Description:
    """Attributes of one image, and what kept some of them out.

    Attributes
    ----------
    attributes : dict
        ``view_position``, ``sex``, ``age`` (years) and ``original_pixel_spacing_mm`` (x, y), as
        far as they are known.
    odd_age : bool
        There is an age that no patient can have (155 occurs in RSNA's files).
    """

    attributes: dict[str, object] = field(default_factory=dict)
    odd_age: bool = False


def describe(path: Path) -> Description:
    """Read the header of one file without its pixels.

    A damaged file gives no attributes here; reading its pixels reports it.
    """
    try:
        with quiet():  # an age of "32" has no unit, of which pydicom would warn for every file
            dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_KEYWORDS)
            texts = {keyword: _text(dataset, keyword) for keyword in _KEYWORDS}
    except Exception:  # pydicom has no common base for what damaged headers raise
        return Description()
    age = age_in_years(texts["PatientAge"])
    found: dict[str, object] = {"view_position": texts["ViewPosition"], "sex": texts["PatientSex"]}
    found = {name: value for name, value in found.items() if value}
    if age is not None:
        found["age"] = age
    spacing = _spacing(texts["PixelSpacing"])
    if spacing:
        found["original_pixel_spacing_mm"] = spacing
    return Description(found, odd_age=bool(texts["PatientAge"]) and age is None)


def _text(dataset: Dataset, keyword: str) -> str:
    """An element as text, several values with backslashes between; empty where absent."""
    value = dataset.get(keyword)
    values = value if isinstance(value, list | pydicom.multival.MultiValue) else [value]
    return "\\".join(str(item).strip() for item in values if item is not None)


def _spacing(text: str) -> list[float]:
    """Spacing along x and y in mm; the header gives y (between rows) first (PS3.3 10.7.1.3)."""
    try:
        y, x = (float(part) for part in text.split("\\"))
    except ValueError:
        return []
    return [x, y] if x > 0 and y > 0 else []

"""Text of data elements: as it is written, or not at all.

pydicom reads on where a value breaks its value representation: a backslash makes a list of it,
bytes that do not belong to the declared character set become other letters. That is right for a
viewer and wrong for a value that is copied into another object, where it would name another
patient.
"""

import unicodedata
from typing import Any

from pydicom import config
from pydicom.charset import decode_bytes, default_encoding, python_encoding
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.valuerep import TEXT_VR_DELIMS, validate_value

from pipeline.dicom.errors import quiet

_OF_CHARACTER_SET = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})  # PS3.5 6.1.2.3
_UNDIVIDED = frozenset({"LT", "ST", "UR", "UT"})  # a backslash is a letter there (PS3.5 6.2)
_LINES = frozenset({"LT", "ST", "UT"})  # the only ones that may hold ends of lines
_DELIMITERS = {"PN": {ord(c) for c in "\\^="}}
_ESCAPE = b"\x1b"  # begins a change of the character set
_SEXES = ("", "M", "F", "O")


def joined(value: Any) -> str:
    """The text of a value that pydicom has read; several are set apart by a backslash."""
    if value is None:
        return ""
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return str(value).strip()
    try:
        return "\\".join(str(part).strip() for part in value)
    except TypeError:
        return str(value).strip()


def coded(dataset: Dataset, keyword: str) -> str:
    """A coded string (VR CS): spaces around it mean nothing, and its letters are capitals."""
    return joined(dataset.get(keyword)).strip("\0 ").upper()


def exact_text(dataset: Dataset, keyword: str) -> str | None:
    """Return the one value of a text element, to be copied into another object.

    Parameters
    ----------
    dataset : Dataset
        Read from a file; the element must not have been looked at.
    keyword : str
        Of an element whose value representation is a kind of text.

    Returns
    -------
    str or None
        Empty where the element is absent or empty. None where the file does not say for sure
        what the value is: it is not valid for its representation, there are several where one is
        allowed, or its bytes do not belong to the Specific Character Set (UTF-8 under another
        name, or letters beyond ASCII under none).
    """
    vr = dictionary_VR(keyword)
    try:
        with quiet(), config.strict_reading():
            text = _decoded(_stored(dataset, keyword), vr, dataset)
            validate_value(vr, text, config.RAISE)
    except (LookupError, ValueError):  # an unknown character set; anything malformed
        return None
    if "\\" in text and vr not in _UNDIVIDED:
        return None
    allowed = _SEXES if keyword == "PatientSex" else (text,)
    return text if text in allowed and _printable(text, vr) else None


def _stored(dataset: Dataset, keyword: str) -> bytes:
    """The bytes of an element without their padding."""
    if keyword not in dataset:
        return b""
    element = dataset.get_item(keyword)
    if element.is_empty if isinstance(element, DataElement) else not element.value:
        return b""
    if not isinstance(element, RawDataElement):
        raise ValueError("converted already: its bytes are not known any more")
    return element.value.rstrip(b"\0 ")


def _decoded(content: bytes, vr: str, dataset: Dataset) -> str:
    """Bytes to text, by the rules of the standard alone."""
    if vr not in _OF_CHARACTER_SET or (content.isascii() and _ESCAPE not in content):
        return content.decode("ascii")
    encodings = _encodings(dataset)
    if encodings[0] != "UTF8" and _is_utf8(content):
        raise ValueError("UTF-8 under another name")
    return decode_bytes(content, encodings, _DELIMITERS.get(vr, TEXT_VR_DELIMS))


def _encodings(dataset: Dataset) -> list[str]:
    """Python's names of the character sets; KeyError for one that DICOM does not define.

    pydicom takes the default repertoire, which is ASCII, for Latin-1.
    """
    declared = joined(dataset.get("SpecificCharacterSet")).split("\\")
    encodings = [python_encoding[term.strip()] for term in declared]
    return ["ascii" if name == default_encoding else name for name in encodings]


def _is_utf8(content: bytes) -> bool:
    """Say whether letters beyond ASCII make sense as UTF-8, which is no accident.

    Escape sequences name the character set on the spot.
    """
    if _ESCAPE in content:
        return False
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _printable(text: str, vr: str) -> bool:
    """No control characters, but for the ends of lines where they are allowed."""
    allowed = "\t\n\f\r" if vr in _LINES else ""
    return all(c in allowed or unicodedata.category(c) != "Cc" for c in text)

"""Coded concepts of structured reports.

A class gets a code of a terminology only where DICOM's own context groups (PS3.16) list a code of
that meaning; all others get one of the private scheme, whose meaning is the name of the class. A
wrong code would be worse than a private one.
"""

from hashlib import sha256

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept
from pydicom.sr.coding import Code

PRIVATE = "99DESCRY"
SCHEME = CodingSchemeIdentificationItem(PRIVATE, name="Names of the classes of descry's models")
# Class name in lower case -> code
_CLASSES = {
    "cardiomegaly": Code("287272002", "SCT", "Cardiomegaly"),
    "effusion": Code("60046008", "SCT", "Pleural effusion"),  # NIH ChestX-ray8: of the pleura
    "infiltration": Code("112121", "DCM", "Infiltrate"),
    "lung opacity": Code("112001", "DCM", "Opacity"),
    "mass": Code("4147007", "SCT", "Mass"),
    "nodule": Code("27925004", "SCT", "Nodule"),
    "pneumothorax": Code("36118008", "SCT", "Pneumothorax"),
}
IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")
PERCENT = Code("%", "UCUM", "Percent")
PRESENCE = Code("121052", "DCM", "Presence of property")
ABSENT = Code("121054", "DCM", "Absent")
COMMENT = Code("121106", "DCM", "Comment")
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
_MAX_VALUE, _MAX_MEANING = 16, 64  # characters of Code Value and Code Meaning (PS3.5 6.2)


def concept_of(name: str) -> CodedConcept:
    """Code of a class by its name."""
    code = _CLASSES.get(name.lower())
    if code is not None:
        return CodedConcept(*code[:3])
    meaning = name.replace("\\", "/")[:_MAX_MEANING]  # a backslash would make two values of it
    return CodedConcept(_private_value(name), PRIVATE, meaning)


def _private_value(name: str) -> str:
    """The name itself where it can be a Code Value, else its beginning and a hash."""
    if len(name) <= _MAX_VALUE and name.isascii() and "\\" not in name:
        return name
    plain = "".join(c for c in name if c.isascii() and c.isalnum())[:7]
    return f"{plain}-{sha256(name.encode()).hexdigest()[:8]}"

"""What written objects may know of the image that they describe, and nothing else.

Every object is built from the data set made here, so that an element that is not put into it
cannot get out.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom import config
from pydicom.dataset import Dataset
from pydicom.uid import UID, UID_dictionary

from pipeline.dicom.errors import DicomError
from pipeline.dicom.pseudonym import Pseudonyms
from pipeline.dicom.read.header import Header
from pipeline.dicom.read.stored import frame_count
from pipeline.dicom.read.values import exact_text

CANNOT_REFER = "no object written"
# Type 2 in the Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1): always there, if empty
_OF_PATIENT = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
_OPTIONAL = ("IssuerOfPatientID", "StudyDescription")
NOBODY = "Anonymous"  # the name may be empty, but DCMTK refuses presentation states without one
COPIED = (*_OF_PATIENT, *_OPTIONAL)
HASHED = ("PatientID",)
IN_ADDITION = (
    "LossyImageCompression",
    "SpecificCharacterSet",
    "FrameOfReferenceUID",
    "SliceThickness",
)
_S = "1.2.840.10008.5.1.4.1.1."
# CR, DX, mammography, intra-oral, CT, MR, ultrasound, secondary capture, PET, visible light
_ENDS = "1 1.1 1.1.1 1.2 1.2.1 1.3 1.3.1 2 4 6.1 7 128 77.1.1 77.1.2 77.1.3 77.1.4"
_SINGLE_FRAME = tuple(_S + end for end in _ENDS.split())
_ROOT = re.compile(r"([01]\.[1-3]?\d|2\.\d+)\.")  # the arcs there are (ISO/IEC 9834-1)
_MAX_NUMBER = 99999  # longer Instance Numbers may be made of something else


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image that objects refer to.

    Attributes
    ----------
    header : Header
    reference : Dataset
        Its UIDs (or their pseudonyms) and size, and the patient: copied, empty, or, under a key,
        with a pseudonym for Patient ID.
    left_out : tuple of str
        Keywords that should have been copied, of which the header gives no exact value.
    frame_of_reference : str
        UID, or its pseudonym; empty where the header has none that is valid.
    """

    header: Header
    reference: Dataset
    left_out: tuple[str, ...]
    frame_of_reference: str = ""

    @property
    def number(self) -> int:
        """Its Instance Number, 1 where there is none that makes sense."""
        try:
            number = self.header.number("InstanceNumber", 1)
        except DicomError:
            return 1
        return number if 1 <= number <= _MAX_NUMBER else 1

    @property
    def colour(self) -> bool:
        """Whether it is shown in colour, with or without a palette."""
        return bool(self.reference.SamplesPerPixel == 3)

    @property
    def multi_frame(self) -> bool:
        """Whether frames have to be named."""
        return self.header.frame_count > 1


def wanted_elements(copy_patient: bool, pseudonymous: bool) -> tuple[str, ...]:
    """Keywords that `describe` needs beside those of every header."""
    return IN_ADDITION + _copied(copy_patient, pseudonymous)


def _copied(copy_patient: bool, pseudonymous: bool) -> tuple[str, ...]:
    return COPIED if copy_patient else HASHED if pseudonymous else ()


def describe(header: Header, *, copy_patient: bool, pseudonyms: Pseudonyms | None) -> SourceImage:
    """Collect what objects may say of an image.

    Parameters
    ----------
    header : Header
        Read with `wanted_elements`.
    copy_patient : bool
        Copy the patient and the study as the header names them.
    pseudonyms : Pseudonyms or None
        Replace all UIDs and the Patient ID; not together with `copy_patient`.

    Raises
    ------
    DicomError
        When nothing can refer to the image, since UIDs are missing or not valid.
    """
    reference = Dataset()
    reference.SpecificCharacterSet = "ISO_IR 192"
    reference.SOPClassUID = _sop_class(header)
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        original = _uid(header, keyword)
        setattr(reference, keyword, pseudonyms.uid(original) if pseudonyms else original)
    reference.Rows, reference.Columns = header.number("Rows"), header.number("Columns")
    palette = header.text("PhotometricInterpretation").upper() == "PALETTE COLOR"
    # As shown, not as stored: by this number highdicom knows colour.
    reference.SamplesPerPixel = 3 if palette else header.number("SamplesPerPixel", 1)
    if header.frame_count > 1:
        reference.NumberOfFrames = header.frame_count
    for keyword in _OF_PATIENT:
        setattr(reference, keyword, "")
    left_out = _copy(header, reference, _copied(copy_patient, pseudonyms is not None))
    if not copy_patient:
        reference.PatientName = NOBODY
    if pseudonyms:
        reference.PatientID = pseudonyms.text("patient", reference.PatientID.strip())
    space = header.text("FrameOfReferenceUID")
    space = space if _is_uid(space) else ""
    return SourceImage(
        header, reference, left_out, pseudonyms.uid(space) if pseudonyms and space else space
    )


def _sop_class(header: Header) -> UID:
    known = UID_dictionary.get(header.sop_class)
    if known is None:
        raise DicomError(CANNOT_REFER, "the SOP class is missing or unknown")
    if known[3] == "Retired":
        raise DicomError(CANNOT_REFER, f"{known[0]} is a retired SOP class")
    if header.frame_count > 1 and header.sop_class in _SINGLE_FRAME:
        raise DicomError(CANNOT_REFER, f"it has several frames, which {known[0]} does not allow")
    if frame_count(header) != header.frame_count:
        raise DicomError(CANNOT_REFER, "it has more frames than its header announces")
    return UID(header.sop_class)


def _uid(header: Header, keyword: str) -> UID:
    text = header.text(keyword)
    if not text:
        raise DicomError(CANNOT_REFER, f"{keyword} is missing")
    if not _is_uid(text):
        raise DicomError(CANNOT_REFER, f"{keyword} is not a valid UID")
    return UID(text)


def _is_uid(text: str) -> bool:
    return bool(_ROOT.match(text)) and UID(text, validation_mode=config.IGNORE).is_valid


def _copy(header: Header, reference: Dataset, keywords: Sequence[str]) -> tuple[str, ...]:
    """Copy what the header says for sure; return the keywords of the rest."""
    found = {keyword: exact_text(header.dataset, keyword) for keyword in keywords}
    for keyword, text in found.items():
        if text:
            setattr(reference, keyword, text)
    return tuple(keyword for keyword, text in found.items() if text is None)

"""What is asked of an archive, and what is known of each object that it names."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydicom.dataset import Dataset

from pipeline.errors import DescryError

# No attribute of a patient: what is typed here ends up in a shell's history.
STUDY_KEYS = ("StudyInstanceUID", "StudyDate", "StudyTime", "ModalitiesInStudy")
SERIES_KEYS = ("SeriesInstanceUID", "Modality", "BodyPartExamined", "SeriesDescription")
LEVELS = {  # of a query, and the unique key of each (PS3.4 C.6.2.1)
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}


@dataclass(frozen=True, slots=True)
class Query:
    """Matching keys (PS3.4 C.2.2.2) of the study and the series level."""

    study: tuple[tuple[str, str], ...]
    series: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Instance:
    """One object of an archive: its UIDs, and its class where the archive names it."""

    study: str
    series: str
    uid: str
    sop_class: str = ""

    @property
    def path(self) -> str:
        """Where it lies in a folder of fetched objects."""
        return f"{self.study}/{self.series}/{self.uid}.dcm"


def parse_query(texts: Iterable[str]) -> Query:
    """Read ``KEY=VALUE`` texts; wildcards, ranges of dates and lists of UIDs are DICOM's.

    Raises
    ------
    DescryError
        For an unknown key, and when nothing is asked for.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if key not in STUDY_KEYS + SERIES_KEYS or not value:
            allowed = ", ".join(STUDY_KEYS + SERIES_KEYS)
            raise DescryError(f"--query {key}: write it as KEY=VALUE; keys are {allowed}")
        found[key] = value
    if not found:
        raise DescryError(
            "--from needs at least one --query KEY=VALUE, for example "
            "--query StudyDate=20260101-20260131 --query Modality=CR"
        )
    study = tuple((key, found[key]) for key in STUDY_KEYS if key in found)
    return Query(study, tuple((key, found[key]) for key in SERIES_KEYS if key in found))


def identifier(level: str, keys: Mapping[str, str]) -> Dataset:
    """What a C-FIND, C-GET or C-MOVE asks for (PS3.4 C.4), by keywords."""
    question = Dataset()
    question.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(question, keyword, value)
    return question


def is_uid(text: str) -> bool:
    """Say whether `text` is a UID, which is also a harmless name of a file (PS3.5 9.1)."""
    return re.fullmatch(r"[0-9]+(\.[0-9]+)*", text) is not None and len(text) <= 64

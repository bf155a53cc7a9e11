"""What all written objects share: their maker, regions, UIDs, dates, and how they are stored."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid

from pipeline.atomic import replacing

NO_DATE = "19000101"  # where the standard demands a date and none is known
NO_TIME = "000000"
_TO_BE_NAMED = "2.25.0"  # until the content is complete
_OF_NOW = (
    "InstanceCreationDate",
    "InstanceCreationTime",
    "DateOfSecondaryCapture",
    "TimeOfSecondaryCapture",
)


@dataclass(frozen=True, slots=True)
class Maker:
    """The program and the model that found something.

    Attributes
    ----------
    version : str
        Of the program.
    sha256 : str
        Of the checkpoint file.
    trained_on : str
        Name of the dataset.
    thresholds : tuple of (class name, score)
        Lower scores are left out; names all classes that are looked for.
    mark : str
        What the objects are good for; stands in each of them.
    content_date : str
        YYYYMMDD, the Content Date of everything written. Not taken from the clock, since equal
        runs give equal bytes.
    """

    version: str
    sha256: str
    trained_on: str
    thresholds: tuple[tuple[str, float], ...]
    mark: str
    content_date: str = NO_DATE

    def equipment(self) -> dict[str, str]:
        """General Equipment (PS3.3 C.7.5.1) as arguments of highdicom."""
        return {
            "manufacturer": "descry",
            "manufacturer_model_name": f"descry, trained on {self.trained_on}"[:64],
            "software_versions": self.version,
            "device_serial_number": self.sha256[:64],
        }

    @property
    def lowest_scores(self) -> str:
        """`thresholds` in words."""
        return ", ".join(f"{name} {score:g}" for name, score in self.thresholds)


@dataclass(frozen=True, slots=True)
class Region:
    """One detection.

    Attributes
    ----------
    frame : int
        From 0.
    box : (x, y, width, height)
        Pixels of the frame.
    name : str
        Of the class.
    score : float
        0 to 1.
    mask : str
        Its pixels of the frame as COCO's compressed run lengths; empty where there are none.
    """

    frame: int
    box: tuple[float, float, float, float]
    name: str
    score: float
    mask: str = ""


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found in one SOP instance.

    Attributes
    ----------
    regions : tuple of Region
        By frame, then by descending score.
    """

    regions: tuple[Region, ...]

    def frames(self) -> list[int]:
        """Frames that hold something, ascending, from 0."""
        return sorted({region.frame for region in self.regions})


def outline(region: Region, rows: int, columns: int) -> NDArray[np.float64]:
    """Closed polygon of a box as (column, row), (5, 2).

    The top left corner of the top left pixel is 0, 0 and its bottom right corner 1, 1, here as
    in DICOM (PS3.3 C.18.6.1.2 and C.10.5.1.2). The sum of two rounded numbers may lie a hundredth
    of a pixel outside of the image; it is clipped.
    """
    x, y, width, height = region.box
    right, bottom = min(round(x + width, 2), columns), min(round(y + height, 2), rows)
    return np.array([[x, y], [right, y], [right, bottom], [x, bottom], [x, y]], dtype=np.float64)


def aspect_ratio(height: float, width: float) -> list[int]:
    """Height and width of a pixel as whole numbers (PS3.3 C.7.6.3.1.7)."""
    ratio = Fraction(height / width).limit_denominator(10000)
    return [ratio.numerator, ratio.denominator]


def derived_uid(*parts: object) -> UID:
    """A UID that is the same whenever the parts are the same (PS3.5 B.1)."""
    return generate_uid(entropy_srcs=[json.dumps([str(part) for part in parts])])


def tracking_uid(reference: Dataset, number: int, region: Region, maker: Maker) -> UID:
    """The same in all objects, and whenever the same thing is found (`number` of its image)."""
    place = (region.name, number, region.frame, region.box)
    return derived_uid(maker.sha256, reference.SOPInstanceUID, *place)


def new_object(maker: Maker, reference: Dataset, kind: str, number: int) -> dict[str, Any]:
    """Arguments of highdicom's constructors that all objects share.

    Parameters
    ----------
    kind : str
        "sr", "gsps", "sc" or "seg"; there is a series of each for each source series and
        checkpoint.
    number : int
        Instance Number.
    """
    return {
        "series_instance_uid": derived_uid(kind, maker.sha256, reference.SeriesInstanceUID),
        "series_number": {"sr": 9001, "gsps": 9002, "sc": 9003, "seg": 9004}[kind],
        "sop_instance_uid": _TO_BE_NAMED,
        "instance_number": number,
        "series_description": maker.mark,
        "content_date": maker.content_date,
        "content_time": NO_TIME,
        **maker.equipment(),
    }


def store(dataset: Dataset, path: Path, maker: Maker) -> None:
    """Replace what came from the clock, name the object by its content, and write it.

    The SOP Instance UID is a hash of all other bytes: equal objects have equal UIDs, on whatever
    machine they are made, and objects that differ never share one.
    """
    for keyword in _OF_NOW:
        if keyword in dataset:
            del dataset[keyword]
    for item in dataset.get("ContributingEquipmentSequence") or []:
        if "ContributionDateTime" in item:
            del item.ContributionDateTime
    if "PresentationCreationDate" in dataset:
        dataset.PresentationCreationDate = maker.content_date
        dataset.PresentationCreationTime = NO_TIME
    with silent():
        draft = BytesIO()
        dataset.save_as(draft, enforce_file_format=True)
        uid = derived_uid(sha256(draft.getvalue()).hexdigest())
        dataset.SOPInstanceUID = uid
        dataset.file_meta.MediaStorageSOPInstanceUID = uid
        with replacing(path, "wb") as stream:
            dataset.save_as(stream, enforce_file_format=True)


@contextmanager
def silent() -> Iterator[None]:
    """Keep pydicom and highdicom from printing or logging: their words quote values."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)

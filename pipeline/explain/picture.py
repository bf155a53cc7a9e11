"""The pixels of one file, read as prediction reads them."""

from pathlib import Path

import numpy as np

from pipeline.data.intensity import Intensity
from pipeline.errors import DescryError
from pipeline.predict.decode import Reader
from pipeline.predict.records import Ended, Picture


def read_picture(path: Path, intensity: Intensity) -> np.ndarray:
    """The first frame of a DICOM file, or an ordinary image, in 8 bits.

    Raises
    ------
    DescryError
        When there is no such file, or nothing to be read in it.
    """
    if not path.is_file():
        raise DescryError(f"{path}: no such file; give a DICOM file or an image")
    for message in Reader(path.parent, intensity)((path.name, False)):
        if isinstance(message, Picture):
            return message.pixels
        if isinstance(message, Ended) and message.status != "processed":
            reason = f"{message.kind}: {message.message}" if message.message else message.kind
            raise DescryError(f"{path}: {reason}; give a DICOM file or an image")
    raise DescryError(f"{path}: holds no frame; give a DICOM file or an image")

"""Files of one SOP Instance UID with different pixels: what refers to the UID may mean either."""

from pathlib import Path

from pipeline.dicom.read.pixels import same_pixels
from pipeline.predict.sources import SourceError, located

TWIN = (
    "same UID, other pixels",
    "an earlier file of the run has its SOP Instance UID; DICOM objects are of that one only",
)


class Twins:
    """The instances of a run so far.

    Parameters
    ----------
    root : Path
        Folder that paths are relative to.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._first = root, dict[str, str]()

    def is_twin(self, instance: str, path: str) -> bool:
        """Say whether an earlier file has this UID and other pixels; copies of one are no harm."""
        if not instance:
            return False
        earlier = self._first.setdefault(instance, path)
        if earlier == path:
            return False
        try:
            return not same_pixels(located(self._root, earlier), located(self._root, path))
        except (OSError, SourceError):  # gone since it was read
            return True

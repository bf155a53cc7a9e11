"""What every output format of a prediction says of itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.predict.records import FileResult

if TYPE_CHECKING:
    from pipeline.dicom.write.source import SourceImage
    from pipeline.predict.formats.objects import ObjectWriter
    from pipeline.predict.results import Results

MARK = "Research use only. Not for diagnosis."
Categories = tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """A run whose files are all finished.

    Attributes
    ----------
    results : Results
        In the growing folder.
    categories : tuple of (id, name)
    about : dict
        What stands in run.json.
    """

    results: "Results"
    categories: Categories
    about: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """The growing folder."""
        return self.results.folder


NOT_COPIED = "patient not copied in full"


def not_written(name: str) -> str:
    """Kind of the warning that a file has no DICOM object of a format."""
    return f"no {name} written"


def of_objects(kind: str) -> bool:
    """Whether a warning of this kind comes from writing DICOM objects."""
    return kind == NOT_COPIED or (kind.startswith("no ") and kind.endswith(" written"))


WriteObjects = Callable[["ObjectWriter", str, "SourceImage", FileResult], None]


@dataclass(frozen=True, slots=True)
class Format:
    """One output format.

    Attributes
    ----------
    name : str
        Of a DICOM object type also its folder, its count in run.json, and what `Objects.kinds`
        names; ``--to`` sends all files of that folder.
    outputs : mapping
        File or folder in the output -> what it holds, for the report's list.
    option : str
        The command line's; empty: always written.
    grows : tuple of str
        Folders that are filled file by file; names in them begin with the file's number.
    write : callable or None
        Writes it when all files are finished.
    write_objects : callable or None
        Of a DICOM object type: (writer, beginning of the name, source, result of the file) ->
        None; raises `DicomError` where there can be no object.
    needs_overlays : bool
        It shows the overlays.
    needs_masks : bool
        It holds masks, which not every model gives.
    """

    name: str
    outputs: Mapping[str, str]
    option: str = ""
    grows: tuple[str, ...] = ()
    write: Callable[[Finished], None] | None = None
    write_objects: WriteObjects | None = None
    needs_overlays: bool = False
    needs_masks: bool = False

"""DICOM structured reports (TID 1500), one for every image."""

from typing import TYPE_CHECKING

from pipeline.predict.formats.format import Format
from pipeline.predict.records import FileResult

if TYPE_CHECKING:
    from pipeline.dicom.write.source import SourceImage
    from pipeline.predict.formats.objects import ObjectWriter


def _write(writer: "ObjectWriter", stem: str, source: "SourceImage", result: FileResult) -> None:
    from pipeline.dicom.write.sr import write_report

    path = writer.folder / "sr" / f"{stem}.dcm"
    write_report(path, source, writer.findings(result), writer.maker)


FORMAT = Format(
    "sr", {"sr": "DICOM structured reports"}, option="--sr", grows=("sr",), write_objects=_write
)

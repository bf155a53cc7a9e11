"""DICOM presentation states, one for every image with a detection."""

from typing import TYPE_CHECKING

from pipeline.predict.formats.format import Format
from pipeline.predict.records import FileResult

if TYPE_CHECKING:
    from pipeline.dicom.write.source import SourceImage
    from pipeline.predict.formats.objects import ObjectWriter


def _write(writer: "ObjectWriter", stem: str, source: "SourceImage", result: FileResult) -> None:
    from pipeline.dicom.write.gsps import write_presentation_state

    findings = writer.findings(result)
    if findings.regions:
        path = writer.folder / "gsps" / f"{stem}.dcm"
        limits = {frame.frame: frame.limits for frame in result.frames}
        write_presentation_state(path, source, findings, writer.maker, writer.intensity, limits)


FORMAT = Format(
    "gsps",
    {"gsps": "DICOM presentation states"},
    option="--gsps",
    grows=("gsps",),
    write_objects=_write,
)

"""DICOM segmentations of the images in which something was found."""

from typing import TYPE_CHECKING

from pipeline.predict.formats.format import Format
from pipeline.predict.records import FileResult

if TYPE_CHECKING:
    from pipeline.dicom.write.source import SourceImage
    from pipeline.predict.formats.objects import ObjectWriter


def _write(writer: "ObjectWriter", stem: str, source: "SourceImage", result: FileResult) -> None:
    from pipeline.dicom.errors import DicomError
    from pipeline.dicom.write.seg import write_segmentation

    size = (source.reference.Rows, source.reference.Columns)
    if any((frame.height, frame.width) != size for frame in result.frames):
        raise DicomError("no object written", "its pixels are not of the size that it announces")
    findings = writer.findings(result)
    if not all(region.mask for region in findings.regions):
        raise DicomError("no object written", "the model finds boxes without masks")
    if findings.regions:
        write_segmentation(writer.folder / "seg" / f"{stem}.dcm", source, findings, writer.maker)


FORMAT = Format(
    "seg",
    {"seg": "DICOM segmentations"},
    option="--seg",
    grows=("seg",),
    write_objects=_write,
    needs_masks=True,
)

"""DICOM secondary captures of the overlays."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.predict.formats.format import Format
from pipeline.predict.records import FileResult

if TYPE_CHECKING:
    from pipeline.dicom.write.source import SourceImage
    from pipeline.predict.formats.objects import ObjectWriter


def _write(writer: "ObjectWriter", stem: str, source: "SourceImage", result: FileResult) -> None:
    import numpy as np
    from PIL import Image

    from pipeline.dicom.write.capture import write_capture

    for frame in result.frames:
        if frame.overlay:
            with Image.open(writer.folder / frame.overlay) as drawn:
                pixels = np.asarray(drawn.convert("RGB"))
            path = writer.folder / "sc" / f"{Path(frame.overlay).stem}.dcm"
            write_capture(path, source, frame.frame, pixels, writer.maker)


FORMAT = Format(
    "sc",
    {"sc": "DICOM secondary captures"},
    option="--sc",
    grows=("sc",),
    write_objects=_write,
    needs_overlays=True,
)

"""detections.csv: one line per box."""

from collections.abc import Iterator

from pipeline.atomic import write_csv
from pipeline.predict.formats.format import MARK, Finished, Format
from pipeline.predict.records import frames_of, printable

COLUMNS = (
    "path",
    "study_instance_uid",
    "series_instance_uid",
    "sop_instance_uid",
    "frame",
    "class",
    "score",
    "x_px",
    "y_px",
    "width_px",
    "height_px",
    "width_mm",
    "height_mm",
    "spacing_from",
    "overlay",
    "mark",
)


def _write(finished: Finished) -> None:
    """Frames are numbered from 1, as DICOM does (Referenced Frame Number)."""
    write_csv(finished.folder / "detections.csv", COLUMNS, _rows(finished))


def _rows(finished: Finished) -> Iterator[tuple]:
    names = dict(finished.categories)
    for result, frame in frames_of(finished.results):
        uids = (result.opened.study, result.opened.series, result.opened.instance)
        for box, score, label in zip(frame.boxes, frame.scores, frame.labels, strict=True):
            yield (
                printable(result.path),
                *uids,
                frame.frame + 1,
                names[label],
                score,
                *box,
                *frame.millimetres(box),
                frame.overlay,
                MARK,
            )


FORMAT = Format("csv", {"detections.csv": "one line per box"}, write=_write)

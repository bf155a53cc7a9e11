"""The files of a finished prediction, streamed from the journal: sorted, rounded, repeatable."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.atomic import replacing, write_csv
from pipeline.predict.overlay import MARK
from pipeline.predict.records import FileResult, FrameResult

Categories = tuple[tuple[int, str], ...]
MM_DECIMALS = 2
DETECTION_COLUMNS = (
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


@dataclass(slots=True)
class Tally:
    """Numbers over a whole run; `files` = `processed` + `skipped` + `failed`."""

    files: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)

    def counts(self) -> dict[str, Any]:
        """Return the counts of run.json."""
        statuses = {name: self.files[name] for name in ("processed", "skipped", "failed")}
        return {
            "files": sum(statuses.values()),
            **statuses,
            "frames": self.frames,
            "detections": sum(self.classes.values()),
            "detections_by_class": dict(self.classes),
            "reasons": {status: dict(kinds) for status, kinds in self.kinds.items()},
            "decoding_notes": dict(self.notes),
            "warnings": dict(self.warnings),
        }


def tally(results: Iterable[FileResult], categories: Categories) -> Tally:
    """Count everything once."""
    names, total = dict(categories), Tally()
    total.classes.update(dict.fromkeys(names.values(), 0))
    for result in results:
        total.files[result.ended.status] += 1
        if result.ended.status != "processed":
            total.kinds.setdefault(result.ended.status, Counter())[result.ended.kind] += 1
        total.warnings.update(kind for kind, _ in result.opened.warnings)
        for frame in result.frames:
            total.frames += 1
            total.notes.update(frame.notes)
            total.classes.update(names[label] for label in frame.labels)
    return total


def write_tables(folder: Path, results: Iterable[FileResult], categories: Categories) -> None:
    """Write detections.csv, failures.csv, skipped.csv and warnings.csv.

    Frames are numbered from 1, as DICOM does (Referenced Frame Number).
    """
    write_csv(folder / "detections.csv", DETECTION_COLUMNS, _detections(results, categories))
    header = ("path", "step", "kind", "message")
    for status, name in (("failed", "failures.csv"), ("skipped", "skipped.csv")):
        rows = (
            (printable(r.path), r.ended.step, r.ended.kind, r.ended.message)
            for r in results
            if r.ended.status == status
        )
        write_csv(folder / name, header, rows)
    warnings = ((printable(r.path), *w) for r in results for w in r.opened.warnings)
    write_csv(folder / "warnings.csv", ("path", "kind", "message"), warnings)


def _detections(results: Iterable[FileResult], categories: Categories) -> Iterator[tuple]:
    names = dict(categories)
    for result, frame in _frames(results):
        uids = (result.opened.study, result.opened.series, result.opened.instance)
        for box, score, label in zip(frame.boxes, frame.scores, frame.labels, strict=True):
            yield (
                printable(result.path),
                *uids,
                frame.frame + 1,
                names[label],
                score,
                *box,
                *millimetres(box, frame),
                frame.overlay,
                MARK,
            )


def millimetres(box: list[float], frame: FrameResult) -> tuple[object, object, str]:
    """Width, height and where the spacing came from; empty where it is unknown."""
    if frame.spacing is None:
        return "", "", ""
    row, column, source = frame.spacing
    return round(box[2] * column, MM_DECIMALS), round(box[3] * row, MM_DECIMALS), source


def write_coco(path: Path, results: Iterable[FileResult], categories: Categories) -> None:
    """Write detections.coco.json: COCO with a `score` on every annotation.

    Images and annotations are numbered from 1 in the order of the files; one entry a line.
    """
    info = {"description": f"descry predictions. {MARK}"}
    classes = [{"id": number, "name": name} for number, name in categories]
    with replacing(path) as stream:
        stream.write(f'{{"info": {json.dumps(info)},\n"categories": {json.dumps(classes)},\n')
        stream.write('"images": [')
        _write_lines(stream.write, _images(results))
        stream.write('\n],\n"annotations": [')
        _write_lines(stream.write, _annotations(results))
        stream.write("\n]}\n")


def _write_lines(write: Callable[[str], object], entries: Iterable[dict[str, Any]]) -> None:
    for number, entry in enumerate(entries):
        write((",\n" if number else "\n") + json.dumps(entry, allow_nan=False))


def _images(results: Iterable[FileResult]) -> Iterator[dict[str, Any]]:
    for number, (result, frame) in enumerate(_frames(results), 1):
        yield {
            "id": number,
            "file_name": printable(result.path),
            "frame": frame.frame + 1,
            "width": frame.width,
            "height": frame.height,
            "study_instance_uid": result.opened.study,
            "series_instance_uid": result.opened.series,
            "sop_instance_uid": result.opened.instance,
        }


def _annotations(results: Iterable[FileResult]) -> Iterator[dict[str, Any]]:
    number = 0
    for image, (_, frame) in enumerate(_frames(results), 1):
        for box, score, label in zip(frame.boxes, frame.scores, frame.labels, strict=True):
            number += 1
            yield {
                "id": number,
                "image_id": image,
                "category_id": label,
                "bbox": box,
                "area": round(box[2] * box[3], 2),
                "iscrowd": 0,
                "score": score,
            }


def _frames(results: Iterable[FileResult]) -> Iterator[tuple[FileResult, FrameResult]]:
    for result in results:
        if result.ended.status == "processed":
            for frame in result.frames:
                yield result, frame


def printable(path: str) -> str:
    """A path as valid UTF-8: bytes that are none (old file systems) become escapes."""
    return path.encode("utf-8", "backslashreplace").decode()

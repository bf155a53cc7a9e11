"""detections.coco.json: COCO with a `score` on every annotation."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pipeline.atomic import replacing
from pipeline.data.masks import area, rle
from pipeline.predict.formats.format import MARK, Finished, Format
from pipeline.predict.records import FileResult, frames_of, printable


def _write(finished: Finished) -> None:
    """Images and annotations are numbered from 1 in the order of the files; one entry a line."""
    results = finished.results
    info = {"description": f"descry predictions. {MARK}"}
    classes = [{"id": number, "name": name} for number, name in finished.categories]
    with replacing(finished.folder / "detections.coco.json") as stream:
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
    for number, (result, frame) in enumerate(frames_of(results), 1):
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
    for image, (_, frame) in enumerate(frames_of(results), 1):
        rows = zip(frame.boxes, frame.scores, frame.labels, strict=True)
        for place, (box, score, label) in enumerate(rows):
            number += 1
            row: dict[str, Any] = {
                "id": number,
                "image_id": image,
                "category_id": label,
                "bbox": box,
                "area": round(box[2] * box[3], 2),
                "iscrowd": 0,
                "score": score,
            }
            if frame.masks:
                row["segmentation"] = rle(frame.masks[place], frame.height, frame.width)
                row["area"] = area(frame.masks[place], frame.height, frame.width)
            yield row


FORMAT = Format("coco", {"detections.coco.json": "the same as COCO"}, write=_write)

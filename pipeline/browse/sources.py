"""From what a person names on the command line to the splits of a collection."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.browse.boxes import Split
from pipeline.data.coco import load_coco
from pipeline.errors import DescryError
from pipeline.evaluate.coco_arrays import GroundTruth, Predictions
from pipeline.evaluate.run import read_found
from pipeline.models.thresholds import OperatingPoint

DEFAULT_THRESHOLD = 0.5
DETECTIONS = "detections.coco.json"
KNOWN = (
    "a dataset's name, a converted dataset (a folder with annotations/ and images/), a COCO file "
    f"(with --images), or a folder of `descry predict` (with {DETECTIONS}; with --images)"
)
# COCO file, folder of its images -> COCO results of a model
Detect = Callable[[Path, Path], list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Detector:
    """A model that looks at the images now, instead of a file of what it found before."""

    detect: Detect
    point: OperatingPoint


def open_splits(
    what: Path,
    *,
    images: Path | None = None,
    split: str = "",
    predictions: Path | None = None,
    detector: Detector | None = None,
    threshold: float | None = None,
) -> list[Split]:
    """Read all that is to be looked through.

    Parameters
    ----------
    what : Path
        See `KNOWN`.
    images : Path, optional
        Folder that file names are relative to, where `what` does not say it.
    split : str
        Only this one. Detections are of one split: this one, or else ``test``.
    predictions : Path, optional
        COCO results, as `descry evaluate` writes them.
    threshold : float, optional
        The score from which on detections count, in the place of the operating point that stands
        beside them.

    Raises
    ------
    DescryError
        When something is missing or wrong, naming it.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise DescryError(f"--threshold {threshold}: must be a score from 0 to 1")
    if (what / DETECTIONS).is_file():
        return [_predicted(what, _needed(images, what / DETECTIONS), threshold)]
    files = _files(what, images)
    if split and split not in files:
        raise DescryError(f"--split {split}: must be one of {', '.join(files)}")
    looked_at = _looked_at(files, split) if predictions or detector else ""
    splits = []
    for name, (file, folder) in files.items():
        if split in ("", name):
            coco, found, point = load_coco(file), None, OperatingPoint(DEFAULT_THRESHOLD, "default")
            if name == looked_at and predictions is not None:
                found, point = read_found(predictions, coco), _point_beside(predictions) or point
            elif name == looked_at and detector is not None:
                found = Predictions.of(GroundTruth.of(coco), detector.detect(file, folder))
                point = detector.point
            if threshold is not None:
                point = OperatingPoint(threshold, "given with --threshold")
            splits.append(Split(name, coco, folder, found, point))
    return splits


def _looked_at(files: Mapping[str, tuple[Path, Path]], split: str) -> str:
    """The split that the detections are of."""
    name = split or ("test" if "test" in files else next(iter(files)))
    if not split and len(files) > 1 and name != "test":
        raise DescryError(f"say with --split which of {', '.join(files)} the detections are of")
    return name


def _files(what: Path, images: Path | None) -> dict[str, tuple[Path, Path]]:
    """COCO file and images' folder of each split."""
    if what.is_file():
        return {what.stem: (what, _needed(images, what))}
    found = sorted((what / "annotations").glob("*.json"), key=_usual_order)
    if not found:
        raise DescryError(f"{what}: nothing to look through; give {KNOWN}")
    return {file.stem: (file, images or what / "images") for file in found}


def _usual_order(file: Path) -> tuple[int, str]:
    usual = ("train", "val", "test")
    return (usual.index(file.stem) if file.stem in usual else len(usual), file.stem)


def _needed(images: Path | None, file: Path) -> Path:
    if images is None:
        raise DescryError(f"{file}: give --images, the folder that its file names are relative to")
    if not images.exists():
        raise DescryError(f"--images {images}: no such folder")
    return images if images.is_dir() else images.parent


def _predicted(folder: Path, images: Path, threshold: float | None) -> Split:
    """What `descry predict` found; it keeps only what reaches the model's operating point."""
    coco = load_coco(folder / DETECTIONS)
    rows = coco.pop("annotations")
    if any("score" not in row for row in rows):
        raise DescryError(f"{folder / DETECTIONS}: an annotation has no score; run predict again")
    coco["annotations"] = []
    found = Predictions.of(GroundTruth.of(coco), rows)
    point = OperatingPoint(threshold or 0.0, "as predicted")
    return Split(folder.name, coco, images, found, point, labelled=False)


def _point_beside(predictions: Path) -> OperatingPoint | None:
    """The operating point in the ``details.json`` of `descry evaluate`, if there is one."""
    details = predictions.with_name("details.json")
    if not details.is_file():
        return None
    try:
        content = json.loads(details.read_text(encoding="utf-8"))["operating_point"]
        threshold = content["threshold"]
        return None if threshold is None else OperatingPoint(**content)
    except (ValueError, KeyError, TypeError) as error:
        raise DescryError(f"{details}: no operating point to be read ({error!r})") from None

"""From the journal to the output: splits, duplicates, COCO files, the report."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import pipeline
from pipeline.atomic import write_csv, write_json
from pipeline.convert.engine.alike import BITS, NEAR, near_pairs
from pipeline.convert.engine.report import (
    ANNOTATION,
    DROPPED,
    IMAGE,
    UNUSED,
    ConversionCounts,
    ConversionSettings,
    header,
    most_frequent,
)
from pipeline.convert.engine.scan import HashSet, RecordIndex, Scan, number_of, writable
from pipeline.convert.engine.split import NONE, Assignment, assign_splits, find_copies
from pipeline.convert.records import SPLITS, Source
from pipeline.data.coco import write_coco
from pipeline.data.masks import outline, rle
from pipeline.errors import DescryError
from pipeline.work.journal import Journal
from pipeline.work.workspace import Workspace

IMAGES = "images"  # folder of the images
NEAR_DUPLICATES = "near_duplicates.csv"


@dataclass(slots=True)
class Assembly:
    """One conversion whose images are all written."""

    source: Source
    space: Workspace
    scan: Scan
    journal: Journal
    index: RecordIndex
    settings: ConversionSettings

    def finish(self) -> dict[str, Any]:
        """Write annotations, list of drops and report into the workspace; return the report.

        Raises
        ------
        DescryError
            When no image is left.
        """
        kept = np.flatnonzero(self.index.written)
        counts = ConversionCounts(self.scan)
        assigned, codes, twins, within = self._decide(kept)
        for number in range(self.scan.records):
            self._tally(number, int(codes[number]), twins.get(number), counts)
        if not len(kept):
            raise DescryError(
                f"{self.source.raw}: no image could be converted: {most_frequent(counts.drops)}"
            )
        self._write_annotations(codes)
        self._sweep(codes)
        self._account_files(codes, counts)
        report = self._report(counts, assigned, len(twins), within)
        report["near duplicates"] = self._near_duplicates(codes)
        write_csv(
            self.space.partial / "dropped.csv",
            ("kind", "where", "reason", "detail"),
            counts.lines(),
        )
        write_json(self.space.partial / "report.json", report)
        return report

    def _decide(self, kept: np.ndarray) -> tuple[Assignment, np.ndarray, dict[int, int], int]:
        """Splits of the written images, and which of them are copies to leave out."""
        index = self.index
        assigned = assign_splits(
            index.groups[kept], index.official[kept], index.has_box[kept], self.settings.fractions
        )
        twin, within = find_copies(index.pixels[kept], assigned.codes)
        codes = np.full(self.scan.records, NONE, np.int8)
        codes[kept] = np.where(twin < 0, assigned.codes, NONE)
        twins = {int(kept[i]): int(kept[twin[i]]) for i in np.flatnonzero(twin >= 0)}
        return assigned, codes, twins, within

    def _near_duplicates(self, codes: np.ndarray) -> dict[str, Any]:
        """List the images of a held-out split that look like one of a split nearer to training."""
        rows = []
        for pair in near_pairs(self.index.looks, codes):
            ours, theirs = self._entry(pair.image)["file"], self._entry(pair.like)["file"]
            splits = SPLITS[codes[pair.image]], SPLITS[codes[pair.like]]
            rows.append((splits[0], ours, splits[1], theirs, str(pair.bits)))
        columns = ("split", "image", "like split", "like image", f"differing bits of {BITS}")
        write_csv(self.space.partial / NEAR_DUPLICATES, columns, rows)
        shown = [f"{a} {ours} is like {b} {theirs} ({n})" for a, ours, b, theirs, n in rows[:10]]
        return {"across splits": len(rows), "differing bits at most": NEAR, "examples": shown}

    def _tally(self, number: int, code: int, twin: int | None, counts: ConversionCounts) -> None:
        """Enter one record into the counts."""
        entry = self._entry(number)
        if twin is not None:
            counts.duplicate(entry, self._entry(twin)["file"])
        elif code == NONE:
            counts.lost(entry)
        else:
            counts.kept(entry, SPLITS[code])

    def _entry(self, number: int) -> dict[str, Any]:
        return self.journal.at(int(self.index.places[number]))

    def _write_annotations(self, codes: np.ndarray) -> None:
        """One COCO file per split, empty ones too."""
        categories = self.source.categories()
        ids = {name: i for i, (name, _) in enumerate(categories, start=1)}
        info = {"description": self.source.name, "version": f"descry {pipeline.__version__}"}
        for code, split in enumerate(SPLITS):
            numbers = np.flatnonzero(codes == code).tolist()
            write_coco(
                self.space.partial / "annotations" / f"{split}.json",
                info=info,
                licenses=[],
                categories=categories,
                images=self._images(numbers),
                annotations=self._annotations(numbers, ids),
            )

    def _images(self, numbers: list[int]) -> Iterator[dict[str, Any]]:
        """COCO entries of the images, in the order of the records."""
        for number in numbers:
            entry = self._entry(number)
            image = {
                "file_name": entry["file"],
                "width": entry["width"],
                "height": entry["height"],
                "source": entry["path"],
            }
            optional = {key: entry[key] for key in ("group", "crop", "attributes") if entry[key]}
            yield image | optional

    def _annotations(self, numbers: list[int], ids: dict[str, int]) -> Iterator[dict[str, Any]]:
        for image_id, number in enumerate(numbers, start=1):
            entry = self._entry(number)
            for x, y, width, height, label, iscrowd, _, mask in entry["boxes"]:
                shape: Any = outline(x, y, width, height)
                if mask:
                    shape = rle(mask, entry["height"], entry["width"])
                yield {
                    "image_id": image_id,
                    "category_id": ids[label],
                    "bbox": [x, y, width, height],
                    "segmentation": shape,
                    "iscrowd": iscrowd,
                }

    def _sweep(self, codes: np.ndarray) -> None:
        """Remove images that are not in the output: copies, and what a killed run left."""
        names = (self._entry(number)["file"] for number in np.flatnonzero(codes != NONE).tolist())
        kept = HashSet(np.fromiter(map(number_of, names), np.uint64))
        images = self.space.partial / IMAGES
        for name, _, files in os.walk(images, topdown=False):
            folder = Path(name)
            for path in (folder / file for file in files):
                if path.relative_to(images).as_posix() not in kept:
                    path.unlink()
            if folder != images and not any(folder.iterdir()):
                folder.rmdir()

    def _account_files(self, codes: np.ndarray, counts: ConversionCounts) -> None:
        """Enter every file of the raw folder once: image, annotation, dropped or unused."""
        used = HashSet(self.index.paths[codes != NONE])
        lost = HashSet(self.index.paths[codes == NONE])
        listed = {drop[1] for drop in counts.drops if drop[0] in ("image", "file")}
        for path in walk(self.source.raw):
            if path in used:
                kind = IMAGE
            elif path in self.scan.ledger.annotation_files:
                kind = ANNOTATION
            else:
                kind = DROPPED if path in lost or path in listed else UNUSED
            counts.file(path, kind)

    def _report(
        self, counts: ConversionCounts, assigned: Assignment, across: int, within: int
    ) -> dict[str, Any]:
        """The whole report."""
        return {
            **header(self.source, self.settings),
            **counts.sections(),
            "splits": counts.split_section([name for name, _ in self.source.categories()]),
            "split": assigned.words,
            "leakage": {"groups in more than one split": assigned.leaking},
            "duplicates": {"dropped across splits": across, "kept within a split": within},
            "size mismatches": {"images": len(counts.resized), "examples": counts.resized[:10]},
            "remarks on images": dict(sorted(counts.notes.items())),
            "notes of the converter": self.scan.ledger.notes,
        }


def walk(raw: Path) -> Iterator[str]:
    """Paths of all files below `raw`, relative, with ``/``, sorted within each folder.

    Linked folders are followed, each real folder once.
    """
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(raw, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        relative = Path(folder).relative_to(raw).as_posix()
        prefix = "" if relative == "." else relative + "/"
        for name in sorted(names):
            yield writable(prefix + name)

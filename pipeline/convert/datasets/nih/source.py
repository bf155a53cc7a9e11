"""NIH ChestX-ray14: 880 of 112,120 chest radiographs carry boxes of eight findings.

X. Wang et al., "ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks", CVPR 2017.

A radiograph without a box is not a negative: only those labelled `No Finding` are, and as many of
them as wanted are drawn by a seeded hash. All boxed images stand in the official test list, so
the official lists cannot divide a detection set; patients do.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pipeline.convert.datasets.nih import DATASET, NihParams
from pipeline.convert.datasets.nih.rows import (
    CLASSES,
    DataEntry,
    attributes,
    body,
    parse_box,
    parse_entry,
)
from pipeline.convert.formats.pictures import files_by_name, read_ordinary
from pipeline.convert.formats.tables import Row, find_table, parse_rows
from pipeline.convert.records import Box, Ledger, Picture, Record
from pipeline.errors import DescryError

_LISTS = ("train_val_list.txt", "test_list.txt")


@dataclass(frozen=True)
class Nih:
    """Converter of the NIH release: PNG folders and its two CSV files.

    Parameters
    ----------
    raw : Path
        The folder with ``BBox_List_2017.csv``, ``Data_Entry_2017*.csv`` and ``images*/``.
    params : NihParams
    seed : int
        Which negatives. The choice depends on the seed and the file names alone.
    """

    raw: Path
    params: NihParams = field(default_factory=NihParams)
    seed: int = 0

    name: ClassVar[str] = DATASET.name

    def scan(self, ledger: Ledger) -> Iterator[Record]:
        """Yield boxed images and the drawn negatives, by file name; see `Source.scan`."""
        survey = Survey.of(self.raw, DATASET.download, ledger)
        boxed = survey.boxed()
        negatives = self._draw(survey.normal(), len(boxed), ledger)
        survey.drop_all_but({*boxed, *negatives})
        survey.note_findings(boxed)
        survey.note_ages({*boxed, *negatives})
        self._note_lists(set(boxed), ledger)
        for name in sorted({*boxed, *negatives}):
            yield survey.record(name)

    def categories(self) -> list[tuple[str, str]]:
        """Return the eight boxed findings, always all of them."""
        return [(name, "finding") for name in CLASSES]

    def read(self, record: Record) -> Picture:
        """Decode one PNG; see `Source.read`.

        A copy of another size than 1024 x 1024 is refused: the boxes do not apply to it.
        """
        return read_ordinary(self.raw, record)

    def _draw(self, candidates: list[str], boxed: int, ledger: Ledger) -> list[str]:
        """File names of the negatives: the first by hash of seed and name."""
        wanted = math.floor(self.params.negatives * boxed + 0.5)
        drawn = sorted(candidates, key=self._rank)[:wanted]
        ledger.note(
            f"{len(drawn)} of {len(candidates)} No Finding images drawn as negatives "
            f"({self.params.negatives:g} per boxed image, seed {self.seed})."
        )
        return drawn

    def _rank(self, name: str) -> bytes:
        """Hash that orders the candidates; independent of all other files."""
        return hashlib.sha256(f"{self.seed}:{name}".encode()).digest()

    def _note_lists(self, boxed: set[str], ledger: Ledger) -> None:
        """Say why the official lists do not decide the split."""
        for name in _LISTS:
            path = self.raw / name
            if path.is_file():
                ledger.claim(name)
                text = path.read_text(encoding="utf-8-sig", errors="replace")
                listed = len(boxed.intersection(text.split()))
                ledger.note(
                    f"{name} holds {listed} of the {len(boxed)} boxed images; the official lists "
                    "are not used, the split is by patient."
                )


FRAME = 1024  # pixels; the boxes are given in it
_ENTRY_NAMES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")


@dataclass
class Survey:
    """The three sources of a scan, joined by the image's file name.

    Attributes
    ----------
    images : dict
        File name -> path relative to the raw folder.
    boxes : dict
        File name -> boxes. An empty list stands for an image all of whose rows were refused.
    entries : dict
        File name -> entry, for those images that have boxes or are labelled `No Finding`.
    listed : set of str
        File names with an entry of any kind.
    """

    images: dict[str, str]
    boxes: dict[str, list[Box]]
    entries: dict[str, DataEntry]
    listed: set[str]
    ledger: Ledger

    @classmethod
    def of(cls, raw: Path, download: str, ledger: Ledger) -> "Survey":
        """Read both tables and list the images.

        Raises
        ------
        DescryError
            When a table or all images are missing, or a table cannot be used as a whole.
        """
        box_table = find_table(raw, ("BBox_List_2017.csv",), "BBox_List_2017*.csv", download)
        entry_table = find_table(raw, _ENTRY_NAMES, "Data_Entry_2017*.csv", download)
        images = find_images(raw, download, ledger)
        survey = cls(images, {}, {}, set(), ledger)
        survey._read_boxes(box_table)
        survey._read_entries(entry_table)
        return survey

    def _read_boxes(self, path: Path) -> None:
        """Fill `boxes`; rows without their image and repeated rows are dropped."""
        refused: list[Row] = []
        seen = set()
        boxes: dict[str, list[Box]] = defaultdict(list)
        rows = body(path, self.ledger)
        for row, (name, box) in parse_rows(path, rows, parse_box, self.ledger, refused):
            identity = (name, box.label, box.x, box.y, box.width, box.height)
            if name not in self.images:
                self.ledger.drop("row", row.where, "annotation without image", name)
            elif identity in seen:
                self.ledger.drop("row", row.where, "repeated row", name)
            else:
                seen.add(identity)
                boxes[name].append(box)
        for row in refused:
            if row.fields[0] in self.images:
                boxes.setdefault(row.fields[0], [])
        self.boxes = dict(boxes)

    def _read_entries(self, path: Path) -> None:
        """Fill `entries` and `listed`; rows without their image and repeated ones are dropped."""
        rows = body(path, self.ledger)
        for row, entry in parse_rows(path, rows, parse_entry, self.ledger, []):
            name = row.fields[0]
            if name not in self.images:
                self.ledger.drop("row", row.where, "annotation without image", name)
            elif name in self.listed:
                self.ledger.drop("row", row.where, "repeated row", name)
            else:
                # Used for any image: it also tells why an image is not in the output.
                self.ledger.use(path.name)
                self.listed.add(name)
                if entry.is_normal or name in self.boxes:
                    self.entries[name] = entry

    def boxed(self) -> list[str]:
        """File names of the images with at least one box, sorted."""
        return sorted(name for name, boxes in self.boxes.items() if boxes)

    def normal(self) -> list[str]:
        """File names that may serve as negatives, sorted: `No Finding` and in no box row."""
        return sorted(
            name
            for name, entry in self.entries.items()
            if entry.is_normal and name not in self.boxes
        )

    def record(self, name: str) -> Record:
        """Return the record of one image."""
        entry = self.entries.get(name)
        return Record(
            key=name.removesuffix(".png"),
            path=self.images[name],
            boxes=tuple(self.boxes.get(name, ())),
            group=name[:8],
            size=(FRAME, FRAME),
            attributes=attributes(entry) if entry else {},
        )

    def drop_all_but(self, used: Collection[str]) -> None:
        """Account for every image that will not be in the output."""
        for name in sorted(self.images):
            if name not in used:
                self.ledger.drop("image", self.images[name], self._why_unused(name))

    def _why_unused(self, name: str) -> str:
        if name in self.boxes:
            return "all box rows of the image were dropped"
        if name in self.entries:
            return "No Finding image not drawn as a negative"
        if name in self.listed:
            return "finding without a box: neither positive nor negative"
        return "image without annotation"

    def note_findings(self, boxed: Iterable[str]) -> None:
        """Tell how far boxes and image labels agree."""
        unboxed = unlisted = without = 0
        for name in boxed:
            entry = self.entries.get(name)
            labels = {box.label for box in self.boxes[name]}
            findings = set(entry.findings) if entry else set()
            without += entry is None
            unboxed += bool(findings & set(CLASSES) - labels)
            unlisted += bool(entry and labels - findings)
        self.ledger.note(
            "Boxes are not exhaustive: "
            f"{unboxed} boxed images are labelled with a further one of the eight classes."
        )
        if unlisted:
            self.ledger.note(f"{unlisted} boxed images lack a box's class in their labels.")
        if without:
            self.ledger.note(f"{without} boxed images have no usable row in Data_Entry.")

    def note_ages(self, used: Iterable[str]) -> None:
        """Count the ages that `attributes` leaves out."""
        entries = [self.entries[name] for name in used if name in self.entries]
        odd = sum(1 for entry in entries if "age" not in attributes(entry))
        if odd:
            self.ledger.note(f"{odd} images have no plausible age; their age is left out.")


def find_images(raw: Path, download: str, ledger: Ledger) -> dict[str, str]:
    """File name -> path relative to `raw`, of every PNG under ``images*``.

    Raises
    ------
    DescryError
        When there is none.
    """
    folders = (folder for folder in raw.glob("images*") if folder.is_dir())
    named = files_by_name(raw, folders, ".png", ledger)
    found = {f"{name[:-4]}.png": path for name, path in named.items()}  # as the tables write it
    if not found:
        packed = len(list(raw.glob("images*.tar.gz")))
        hint = f"{packed} images*.tar.gz are still packed. " if packed else ""
        raise DescryError(f"{raw}/images*: no PNG in there. {hint}{download}")
    return found

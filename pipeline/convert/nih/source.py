"""NIH ChestX-ray14: 880 of 112,120 chest radiographs carry boxes of eight findings.

X. Wang et al., "ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks", CVPR 2017.

A radiograph without a box is not a negative: only those labelled `No Finding` are, and as many of
them as wanted are drawn by a seeded hash. All boxed images stand in the official test list, so
the official lists cannot divide a detection set; patients do.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.convert.formats.pictures import read_ordinary
from pipeline.convert.nih.rows import CLASSES
from pipeline.convert.nih.survey import Survey
from pipeline.convert.records import Ledger, Picture, Record
from pipeline.errors import DescryError

_LISTS = ("train_val_list.txt", "test_list.txt")


@dataclass(frozen=True)
class Nih:
    """Converter of the NIH release: PNG folders and its two CSV files.

    Parameters
    ----------
    raw : Path
        The folder with ``BBox_List_2017.csv``, ``Data_Entry_2017*.csv`` and ``images*/``.
    negatives : float
        How many `No Finding` images to take per boxed image; 0 for none.
    seed : int
        Which of them. The choice depends on the seed and the file names alone.
    """

    raw: Path
    negatives: float = 1.0
    seed: int = 0

    name: ClassVar[str] = "nih"
    markers: ClassVar[tuple[str, ...]] = ("BBox_List_2017*.csv", "Data_Entry_2017*.csv")
    download: ClassVar[str] = (
        "Get BBox_List_2017.csv, Data_Entry_2017_v2020.csv and the unpacked images_*.tar.gz from "
        "https://nihcc.app.box.com/v/ChestXray-NIHCC (free use; cite Wang et al., CVPR 2017, and "
        "acknowledge the NIH Clinical Center) and put them into one folder."
    )

    def __post_init__(self) -> None:
        if not (math.isfinite(self.negatives) and self.negatives >= 0):
            raise DescryError(
                f"nih: negatives is {self.negatives}; it must be a number of at least 0"
            )

    def scan(self, ledger: Ledger) -> Iterator[Record]:
        """Yield boxed images and the drawn negatives, by file name; see `Source.scan`."""
        survey = Survey.of(self.raw, self.download, ledger)
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
        wanted = math.floor(self.negatives * boxed + 0.5)
        drawn = sorted(candidates, key=self._rank)[:wanted]
        ledger.note(
            f"{len(drawn)} of {len(candidates)} No Finding images drawn as negatives "
            f"({self.negatives:g} per boxed image, seed {self.seed})."
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

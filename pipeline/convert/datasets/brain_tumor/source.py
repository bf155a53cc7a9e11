"""Brain tumour MRI: Cheng's MATLAB files, or YOLO folders as Kaggle, Ultralytics, Roboflow ship.

Which of the candidates the name stands for is not settled, so the files decide: numbered .mat
files are Cheng's, image and label folders are YOLO's.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pipeline.convert.datasets.brain_tumor import DATASET, BrainTumorParams
from pipeline.convert.datasets.brain_tumor.cheng import read_slice, scan_slices, slice_files
from pipeline.convert.datasets.brain_tumor.cheng_mat import LABELS
from pipeline.convert.formats.folders import Selection, bases
from pipeline.convert.formats.pictures import read_ordinary
from pipeline.convert.formats.yolo import find_folders, open_yolo
from pipeline.convert.records import Ledger, Picture, Record
from pipeline.errors import DescryError

_KAGGLE = re.compile(r"^(axial|coronal|sagittal)_t1wce_2_class$")
_PATIENT = re.compile(r"^(\d{5})_\d+$")
_RENAMED = re.compile(r"^val_\d+ \(\d+\)$")


@dataclass(frozen=True)
class BrainTumor:
    """Brain tumour slices in any of the layouts in circulation.

    Attributes
    ----------
    raw : Path
        The folder with the unpacked files (or one folder above them).
    params : BrainTumorParams
    """

    raw: Path
    params: BrainTumorParams = field(default_factory=BrainTumorParams)

    name: ClassVar[str] = DATASET.name

    @cached_property
    def _names(self) -> list[str]:
        """Class names by id, as the last scan found them; no field, hence no parameter."""
        return []

    def scan(self, ledger: Ledger) -> Iterator[Record]:
        """Yield the records: Cheng's by number, YOLO's by split folder and name.

        Raises
        ------
        DescryError
            When neither layout (or both) is there, or its class names or folds are unusable.
        """
        self._names.clear()
        if self._detect() == "cheng":
            self._refuse("Cheng's files", plane="all", classes=())
            ledger.note("layout: Cheng (MATLAB v7.3)")
            self._names.extend(LABELS.values())
            yield from scan_slices(self.raw, self.params.fold, ledger)
        else:
            ledger.note("layout: YOLO folders")
            yield from self._scan_yolo(ledger)

    def categories(self) -> list[tuple[str, str]]:
        """Cheng's three tumours, or the names in the yaml in index order."""
        return [(name, "brain tumor") for name in self._names]

    def read(self, record: Record) -> Picture:
        """Decode one slice; see `Source.read`."""
        if record.path.endswith(".mat"):
            return read_slice(self.raw, record)
        return read_ordinary(self.raw, record)

    def _detect(self) -> str:
        """Which layout the files show."""
        present = {
            "cheng": bool(slice_files(self.raw)),
            "yolo": any(find_folders(base) for base in bases(self.raw)),
        }
        wanted = [n for n, here in present.items() if here and self.params.layout in ("auto", n)]
        if len(wanted) == 1:
            return wanted[0]
        if wanted:
            raise DescryError(
                f"{self.raw}: holds both numbered .mat files and YOLO folders. Set layout to "
                "cheng or yolo, or keep one of them."
            )
        looked = "Cheng's numbered .mat files" if self.params.layout == "cheng" else "YOLO folders"
        if self.params.layout == "auto":
            looked = "neither Cheng's 1.mat, 2.mat, ... nor YOLO's images and labels folders"
            raise DescryError(f"{self.raw}: {looked} are there. {DATASET.download}")
        raise DescryError(
            f"{self.raw}: layout={self.params.layout}, but no {looked}. {DATASET.download}"
        )

    def _refuse(self, layout: str, **defaults: object) -> None:
        """Fail when a parameter is set that this layout has no use for."""
        for key, default in defaults.items():
            if getattr(self.params, key) != default:
                value = getattr(self.params, key)
                raise DescryError(
                    f"brain_tumor: {key}={value!r} means nothing for {layout} in {self.raw}. "
                    f"Set it to {default!r}."
                )

    def _scan_yolo(self, ledger: Ledger) -> Iterator[Record]:
        layout = open_yolo(self.raw, self._yolo_bases(ledger), Selection(self.params.classes))
        self._names.extend(layout.names())
        counts = {"patient": 0, "renamed": 0, "all": 0}
        for record in layout.records(ledger):
            stem = record.group or Path(record.path).stem
            patient = _PATIENT.match(stem)
            counts["patient"] += patient is not None
            counts["renamed"] += _RENAMED.match(stem) is not None
            counts["all"] += 1
            plane = _KAGGLE.match(record.path.split("/")[0])
            yield replace(
                record,
                group=patient[1] if patient else record.group,
                attributes={"plane": plane[1]} if plane else {},
            )
        _note_yolo(layout.classes, counts, ledger)

    def _yolo_bases(self, ledger: Ledger) -> list[Path]:
        """Folders in which YOLO folders begin: one, or Kaggle's planes."""
        own, *below = bases(self.raw)
        found = [own] if find_folders(own) else [base for base in below if find_folders(base)]
        planes = {m[1]: base for base in found if (m := _KAGGLE.match(base.name))}
        if not planes:
            self._refuse("folders that are not Kaggle's", plane="all")
            return found
        plane = self.params.plane
        if plane == "all":
            return list(planes.values())
        if plane not in planes:
            raise DescryError(
                f"{self.raw}: plane={plane}, but there is no {plane}_t1wce_2_class/. "
                f"Present: {', '.join(planes)}."
            )
        left = ", ".join(p for p in planes if p != plane)
        ledger.note(f"plane={plane}: the other planes are not used ({left or 'none here'}).")
        return [planes[plane]]


def _note_yolo(names: tuple[str, ...], counts: dict[str, int], ledger: Ledger) -> None:
    """Say what the class names and the file names do and do not mean."""
    if {name.lower() for name in names} == {"negative", "positive"}:
        ledger.note(
            "Class `negative` does not mean 'no tumour': both classes mark tumours. The class is "
            "the same for all slices of a patient, as a molecular marker would be."
        )
    ledger.note(f"{counts['patient']} of {counts['all']} file names carry a patient id.")
    if counts["renamed"]:
        ledger.note(
            f"{counts['renamed']} images were renamed by the publisher (`val_1 (n)`), so their "
            "patients are unknown and may also be in train: expect scores that are too high."
        )

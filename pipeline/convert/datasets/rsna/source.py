"""RSNA Pneumonia Detection Challenge 2018: lung opacities in 26,684 chest radiographs (DICOM).

G. Shih et al., "Augmenting the National Institutes of Health Chest Radiograph Dataset with Expert
Annotations of Possible Pneumonia", Radiology: Artificial Intelligence 1(1), 2019.

The challenge's `patientId` names an image, not a person: several may belong to one patient of
NIH ChestX-ray14, from which all images come. With RSNA's mapping file the patient decides the
split; without it, that is not possible and the report says so.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pipeline.convert.datasets.rsna import DATASET, IMAGES, LABELS, RsnaParams
from pipeline.convert.datasets.rsna.rows import (
    CLASS,
    ImageLabels,
    read_findings,
    read_labels,
    read_mapping,
)
from pipeline.convert.formats.pictures import files_by_name, read_picture
from pipeline.convert.formats.tables import find_table
from pipeline.convert.records import Ledger, Picture, Record
from pipeline.data.intensity import Intensity
from pipeline.errors import DescryError

CLASS_INFO = "stage_2_detailed_class_info.csv"
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
TEST_IMAGES = "stage_2_test_images"
SUBMISSION = "stage_2_sample_submission.csv"
COMPLETE_ROWS = 30_227  # of the label table as Kaggle gives it


@dataclass(frozen=True)
class Rsna:
    """Converter of the Kaggle release: a folder of DICOM files and two CSV files.

    Parameters
    ----------
    raw : Path
        The folder with ``stage_2_train_labels.csv`` and ``stage_2_train_images/``.
    params : RsnaParams
    intensity : Intensity
        From stored values to 8 bits. The release has 8 bits and no window: it changes nothing.
    """

    raw: Path
    params: RsnaParams = field(default_factory=RsnaParams)
    intensity: Intensity = field(default_factory=Intensity)

    name: ClassVar[str] = DATASET.name

    def scan(self, ledger: Ledger) -> Iterator[Record]:
        """Yield every labelled image, by id; see `Source.scan`."""
        table = find_table(self.raw, (LABELS,), LABELS, DATASET.download)
        images = self._images(ledger)
        labels, incomplete = read_labels(table, ledger)
        _drop_unmatched(images, labels, incomplete, ledger)
        self._drop_test(ledger)
        labels = {identity: labels[identity] for identity in sorted(images.keys() & labels.keys())}
        findings = self._findings(labels, ledger)
        nih_images = self._nih_images(labels, ledger)
        ledger.use(LABELS, sum(len(found.negatives) for found in labels.values()))
        for identity in labels:
            nih_image = nih_images.get(identity, "")
            texts = {"finding": findings.get(identity, ""), "nih_image": nih_image}
            yield Record(
                key=identity,
                path=images[identity],
                boxes=tuple(labels[identity].boxes),
                group=f"nih-{nih_image[:8]}" if nih_image else identity,
                attributes={k: v for k, v in texts.items() if v},
            )

    def categories(self) -> list[tuple[str, str]]:
        """Return the only class of the challenge."""
        return [(CLASS, "finding")]

    def read(self, record: Record) -> Picture:
        """Decode one DICOM file to 8 bits; see `Source.read`."""
        return read_picture(self.raw, record, self.intensity)

    def _images(self, ledger: Ledger) -> dict[str, str]:
        """Image id -> path relative to the raw folder."""
        files = files_by_name(self.raw, [self.raw / IMAGES], ".dcm", ledger)
        if not files:
            packed = (self.raw / f"{IMAGES}.zip").is_file()
            hint = f"{IMAGES}.zip is still packed. " if packed else ""
            raise DescryError(
                f"{self.raw / IMAGES}: no .dcm file in there. {hint}{DATASET.download}"
            )
        return {name[: -len(".dcm")]: path for name, path in files.items()}

    def _findings(self, labels: Mapping[str, ImageLabels], ledger: Ledger) -> dict[str, str]:
        """Class per image; without its table, none."""
        path = self.raw / CLASS_INFO
        if not path.is_file():
            ledger.note(f"{CLASS_INFO} is missing: images have no attribute 'finding'.")
            return {}
        findings = read_findings(path, labels, ledger)
        odd = sum((findings[i] == CLASS) != bool(labels[i].boxes) for i in findings)
        if odd:
            ledger.note(f"{odd} images are {CLASS!r} by one table and not by the other.")
        return findings

    def _nih_images(self, images: Collection[str], ledger: Ledger) -> dict[str, str]:
        """RSNA id -> NIH file name, from RSNA's mapping where it can be had."""
        path = Path(self.params.mapping) if self.params.mapping else self.raw / MAPPING
        if not self.params.mapping and not path.is_file():
            ledger.note(
                f"{MAPPING} is missing: an id stands for one image, so images of one person may "
                "be in different splits."
            )
            return {}
        mapping = read_mapping(path, ledger)
        unmapped = sum(1 for identity in images if identity not in mapping)
        ledger.note(
            f"Images are grouped by NIH patient ({path.name}); {unmapped} images are not in it "
            "and stand for themselves."
        )
        return mapping

    def _drop_test(self, ledger: Ledger) -> None:
        """List what the challenge kept without labels."""
        for path in files_by_name(self.raw, [self.raw / TEST_IMAGES], ".dcm", ledger).values():
            ledger.drop("file", path, "test image without labels")
        if (self.raw / SUBMISSION).is_file():
            ledger.drop("file", SUBMISSION, "sample submission, holds no labels")


def _drop_unmatched(
    images: Mapping[str, str],
    labels: Mapping[str, ImageLabels],
    incomplete: set[str],
    ledger: Ledger,
) -> None:
    """Account for label rows without their file, and for files without a usable row."""
    rows = ledger.rows_read[LABELS]
    for identity in sorted(labels.keys() - images.keys()):
        for where in labels[identity].rows:
            ledger.drop("row", where, "annotation without image", identity)
    unlabelled = sorted(images.keys() - labels.keys())
    for identity in unlabelled:
        refused = identity in incomplete
        reason = "all rows of the image were dropped" if refused else "image without annotation"
        ledger.drop("image", images[identity], reason)
    if len(incomplete.intersection(unlabelled)) < len(unlabelled) and rows < COMPLETE_ROWS:
        ledger.note(
            f"{LABELS} has {rows} rows, the complete table {COMPLETE_ROWS}: images without a row "
            "may be labelled there."
        )

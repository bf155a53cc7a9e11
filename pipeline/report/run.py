"""What is known of one run on one dataset, read from the folders that the stages wrote."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DescryError

Row = dict[str, str]
SAMPLE = (
    "Sample data: a few images that come with the project. The figures show that the pipeline "
    "works, not how well the method does."
)
FOUND_AP = 0.01  # of a class; below, the page says that it is not found


@dataclass(frozen=True, slots=True)
class Run:
    """A trained and evaluated model.

    Attributes
    ----------
    dataset : str
    train, evaluate : Path
        Folders of `descry train` and `descry evaluate`.
    details : dict
        ``evaluate/details.json``.
    about : dict
        ``train/about.json``.
    conversion : dict
        The conversion's ``report.json``; empty where the dataset was not converted here.
    card : str
        The dataset's card, Markdown; empty where there is none.
    """

    dataset: str
    train: Path
    evaluate: Path
    details: dict[str, Any]
    about: dict[str, Any]
    conversion: dict[str, Any]
    card: str

    @classmethod
    def read(cls, dataset: str, runs: Path, datasets: Path) -> "Run":
        """The run of a dataset in a folder of runs.

        Raises
        ------
        DescryError
            When the dataset was not trained or not evaluated there.
        """
        train, evaluate = runs / dataset / "train", runs / dataset / "evaluate"
        conversion, card = datasets / dataset / "coco/report.json", datasets / dataset / "README.md"
        return cls(
            dataset,
            train,
            evaluate,
            read_json(evaluate / "details.json", f"run `descry evaluate {dataset}` first"),
            read_json(train / "about.json", f"run `descry train {dataset}` first"),
            read_json(conversion, "") if conversion.is_file() else {},
            card.read_text(encoding="utf-8") if card.is_file() else "",
        )

    @property
    def figures(self) -> dict[str, Any]:
        """AP, AR and all other figures by name; None where there was nothing to measure."""
        return self.details["figures"]

    @property
    def stand_in(self) -> list[str]:
        """What the converter says of data that is not what its name says."""
        return stand_in(self.conversion)

    @property
    def missed_classes(self) -> list[str]:
        """What to know of classes that the model does not find."""
        rows = [row for row in self.rows("per_class.csv") if row["objects"] != "0"]
        return [
            f"{row['class']}: AP {float(row['AP']):.3f} over {row['objects']} test objects. The "
            "model does not find this class."
            for row in rows
            if row["AP"] and float(row["AP"]) < FOUND_AP
        ]

    def rows(self, name: str) -> list[Row]:
        """The rows of a CSV of the evaluation."""
        return read_rows(self.evaluate / name)

    def history(self) -> list[Row]:
        """One row an epoch."""
        return read_rows(self.train / "history.csv")


def stand_in(conversion: Mapping[str, Any]) -> list[str]:
    """The notes of a conversion's report that name stand-ins and synthetic data."""
    notes = [str(note) for note in conversion.get("notes of the converter", ())]
    words = ("Stand-in", "SYNTHETIC")
    plain = (note[note.index(word) :] for note in notes for word in words if word in note)
    return list(dict.fromkeys(plain))


def warnings_of(datasets: Path, names: Sequence[str], *, sample: bool) -> list[str]:
    """What must be known of datasets before any figure of theirs."""
    said = []
    for name in names:
        report = datasets / name / "coco/report.json"
        if report.is_file():
            said += [f"{name}: {line}" for line in stand_in(read_json(report, ""))]
    return said + [SAMPLE] * sample


def read_json(path: Path, way_out: str) -> dict[str, Any]:
    """A JSON object.

    Raises
    ------
    DescryError
        When the file is missing (`way_out` says what to do) or not JSON.
    """
    if not path.is_file():
        raise DescryError(f"{path}: no such file; {way_out}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DescryError(f"{path}: not valid JSON ({error}); {way_out}") from None


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV by column; none where there is no such file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def numbers(rows: list[Row], column: str) -> Iterator[float]:
    """A column as numbers; NaN where a cell is empty or missing."""
    return (float(row.get(column) or "nan") for row in rows)

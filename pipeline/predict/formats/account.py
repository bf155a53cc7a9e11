"""What became of every file: run.json, failures.csv, skipped.csv, warnings.csv."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pipeline.atomic import write_csv, write_json
from pipeline.predict.formats.format import Categories, Finished, Format
from pipeline.predict.records import FileResult, printable


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


def _write(finished: Finished) -> None:
    folder, results = finished.folder, finished.results
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
    write_json(folder / "run.json", finished.about)


FORMAT = Format(
    "account",
    {
        "failures.csv": "files that failed",
        "skipped.csv": "files that were left out",
        "warnings.csv": "what to know of single files",
        "run.json": "settings, versions and counts",
    },
    write=_write,
)

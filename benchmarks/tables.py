"""Write docs/reference/results.md from the JSON of `accuracy` and `study`; measures nothing itself.

python benchmarks/tables.py
"""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pieces import ROOT

from pipeline.atomic import replacing

RESULTS = ROOT / "benchmarks/results"
NOTES = RESULTS / "notes.md"  # what the figures mean, written by hand
SHOWN = ("AP", "AP50", "AP75")
Record = dict[str, Any]


def load(folder: Path) -> list[Record]:
    """All records of a folder, by name."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def grouped(records: Iterable[Record], keys: Sequence[str]) -> dict[tuple, list[Record]]:
    """Records that differ in their seed alone, in the order of the keys."""
    groups: dict[tuple, list[Record]] = defaultdict(list)
    for record in records:
        groups[tuple(record[key] for key in keys)].append(record)
    return dict(sorted(groups.items()))


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, three digits after the point."""
    mean = f"{statistics.mean(values):.3f}"
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A table in Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]


def accuracy(records: Sequence[Record]) -> list[str]:
    """One row per dataset, model and budget."""
    keys = ("dataset", "image_size", "epochs", "model")
    rows = []
    for key, runs in grouped(records, keys).items():
        test = [spread([run["test"][name] for run in runs]) for name in SHOWN]
        seconds = statistics.mean(run["cpu seconds of training"] for run in runs)
        rows.append((*key, *test, len(runs), f"{seconds:.0f}"))
    header = ("dataset", "px", "epochs", "model", *SHOWN, "seeds", "CPU seconds")
    return table(header, rows)


def classes(records: Sequence[Record]) -> list[str]:
    """AP of each class, of the same runs."""
    rows = []
    for key, runs in grouped(records, ("dataset", "image_size", "epochs", "model")).items():
        for name in runs[0]["test"]["AP by class"]:
            values = [run["test"]["AP by class"][name] for run in runs]
            rows.append((*key, name, spread(values)))
    return table(("dataset", "px", "epochs", "model", "class", "AP"), rows)


def study(records: Sequence[Record]) -> list[str]:
    """One row per dataset, backbone and arm, with the gain over the baseline of the same seeds."""
    groups = grouped(records, ("dataset", "backbone", "arm"))
    rows = []
    for (dataset, backbone, arm), runs in groups.items():
        plain = {r["seed"]: r for r in groups.get((dataset, backbone, "baseline"), [])}
        pairs = [
            (r["test"]["AP"], plain[r["seed"]]["test"]["AP"]) for r in runs if r["seed"] in plain
        ]
        gain = spread([a - b for a, b in pairs]) if pairs and arm != "baseline" else ""
        validation = spread([run["validation AP"] for run in runs])
        test = [spread([run["test"][name] for run in runs]) for name in SHOWN]
        rows.append((dataset, backbone, arm, validation, *test, gain, len(runs)))
    header = ("dataset", "backbone", "arm", "AP of validation", *SHOWN, "AP over baseline", "seeds")
    return table(header, rows)


def trials(records: Sequence[Record]) -> list[str]:
    """One row per trial on the validation split."""
    told = [name for name in records[0] if name not in ("validation", "seed")]
    rows = []
    for record in records:
        found = record["validation"]
        by_class = ", ".join(f"{ap:.3f}" for ap in found["AP by class"].values())
        figures = [f"{found[name]:.3f}" for name in SHOWN]
        rows.append((*(record[name] for name in told), *figures, by_class))
    classes = ", ".join(records[0]["validation"]["AP by class"])
    return table((*told, *SHOWN, f"AP of {classes}"), rows)


def zoo(folder: Path) -> list[str]:
    """One row per model that is committed."""
    rows = []
    for path in sorted(folder.glob("*/test.json")):
        test = json.loads(path.read_text())["test"]
        name = f"[{path.parent.name}](../../zoo/{path.parent.name}/README.md)"
        rows.append((name, test["images"], test["objects"], *(f"{test[n]:.3f}" for n in SHOWN)))
    return table(("model", "images", "objects", *SHOWN), rows)


def where(records: Iterable[Record]) -> str:
    """The machines and versions behind the figures."""
    kinds = {json.dumps(record["machine"], sort_keys=True) for record in records}
    versions = {json.dumps(record["versions"], sort_keys=True) for record in records}
    return "; ".join(sorted(kinds)) + " with " + "; ".join(sorted(versions))


def main() -> None:
    """Write the page."""
    lines = ["# Results", "", NOTES.read_text().strip()]
    parts = {"accuracy": (accuracy, classes), "study": (study,)}
    for name, tables in parts.items():
        records = load(RESULTS / name)
        lines += ["", f"## {name.capitalize()}", ""]
        if not records:
            lines.append(f"Nothing has been measured yet: `python benchmarks/{name}.py`.")
        for make in tables if records else ():
            lines += [*make(records), ""]
        lines += [f"Measured on {where(records)}."] if records else []
    told = json.loads((RESULTS / "trials.json").read_text())
    lines += ["", "## Trials of the recipe", "", told["about"], "", *trials(told["trials"])]
    lines += ["", "## Models of the zoo, on their test splits", "", *zoo(ROOT / "zoo")]
    with replacing(ROOT / "docs/reference/results.md") as stream:
        stream.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

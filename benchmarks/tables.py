"""Write docs/reference/results.md from the JSON of `accuracy` and `study`; measures nothing itself.

python benchmarks/tables.py
"""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pieces import ROOT, SIZES
from scipy.stats import t

from pipeline.atomic import replacing

RESULTS = ROOT / "benchmarks/results"
NOTES = RESULTS / "notes.md"  # what the figures mean, written by hand
SHOWN = ("AP", "AP50", "AP75")
NAMES = (*SHOWN, "small", "medium", "large")
LEVEL = 0.95  # coverage of an interval
# The full method with each control, its halves with the baseline.
CONTROLS = ("baseline", "wider", "copies")
PAIRS = (
    *(("full", control) for control in CONTROLS),
    *((half, "baseline") for half in ("acp", "cat")),
    ("contrast", "full"),  # a changed CAT, see the notes
)
BRANCHES = """\
Trained models on the validation split, each part of [y; acp; cat] taken away in all blocks by zeros
in W_o: what that changes, and the mean over blocks of the part's share of the stream (root mean
squares). From `python benchmarks/branches.py`."""
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


def spread(values: Sequence[float | None]) -> str:
    """Mean and standard deviation, three digits after the point; nothing where a value is."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean = f"{statistics.mean(known):.3f}"
    return f"{mean} ± {statistics.stdev(known):.3f}" if len(known) > 1 else mean


def interval(differences: Sequence[float]) -> str:
    """Mean of paired differences with Student's interval of `LEVEL`, which needs two of them."""
    mean, n = statistics.mean(differences), len(differences)
    if n < 2:
        return f"{mean:+.3f}"
    half = t.ppf((1 + LEVEL) / 2, n - 1) * statistics.stdev(differences) / math.sqrt(n)
    return f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A table in Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]


def accuracy(records: Sequence[Record]) -> list[str]:
    """One row per dataset, model and budget."""
    keys = ("dataset", "image_size", "epochs", "model")
    rows = []
    for key, runs in grouped(records, keys).items():
        test = [spread([run["test"][name] for run in runs]) for name in (*SHOWN, *SIZES)]
        seconds = statistics.mean(run["cpu seconds of training"] for run in runs)
        rows.append((*key, *test, len(runs), f"{seconds:.0f}"))
    header = ("dataset", "px", "epochs", "model", *NAMES, "seeds", "CPU seconds")
    return table(header, rows)


def classes(records: Sequence[Record]) -> list[str]:
    """AP of each class, of the same runs."""
    rows = []
    for key, runs in grouped(records, ("dataset", "image_size", "epochs", "model")).items():
        for name in runs[0]["test"]["AP by class"]:
            values = [run["test"]["AP by class"][name] for run in runs]
            rows.append((*key, name, spread(values)))
    return table(("dataset", "px", "epochs", "model", "class", "AP"), rows)


def study(records: Sequence[Record], split: str) -> list[str]:
    """One row per dataset, backbone and arm: the figures of a split."""
    rows = []
    for key, runs in grouped(records, ("dataset", "backbone", "arm")).items():
        found = [spread([run[split].get(name) for run in runs]) for name in (*SHOWN, *SIZES)]
        seconds = statistics.mean(run["cpu seconds of training"] for run in runs)
        rows.append((*key, runs[0]["parameters"], *found, len(runs), f"{seconds:.0f}"))
    header = ("dataset", "backbone", "arm", "parameters", *NAMES, "seeds", "CPU seconds")
    return table(header, rows)


def differences(records: Sequence[Record]) -> list[str]:
    """One row per dataset, backbone and pair of arms: what the same seeds differ by."""
    runs = {tuple(r[key] for key in ("dataset", "backbone", "arm", "seed")): r for r in records}
    rows = []
    for dataset, backbone in sorted({key[:2] for key in runs}):
        for arm, control in PAIRS:
            both = [
                (run, runs[dataset, backbone, control, key[3]])
                for key, run in runs.items()
                if key[:3] == (dataset, backbone, arm)
                and (dataset, backbone, control, key[3]) in runs
            ]
            if both:
                cells = [
                    interval([a[split][name] - b[split][name] for a, b in both])
                    for split in ("validation", "test")
                    for name in ("AP", "AP50")
                ]
                rows.append((dataset, backbone, f"{arm} - {control}", *cells, len(both)))
    of = ("AP, validation", "AP50, validation", "AP, test", "AP50, test")
    return table(("dataset", "backbone", "arms", *of, "seeds"), rows)


def branches(records: Sequence[Record]) -> list[str]:
    """One row per model and part of its interaction: what is lost without it, and its share."""
    rows = []
    for r in records:
        arm = "contrast" if "change" in r else "copies" if r["copies"] else "full"
        for part, without in r["without"].items():
            share = statistics.mean(block[part] for block in r["share of the stream by block"])
            lost = [f"{without[name] - r['whole'][name]:+.3f}" for name in ("AP", *SIZES)]
            who = (r["dataset"], r["backbone"], arm, r["seed"], f"{r['whole']['AP']:.3f}")
            rows.append((*who, part, *lost, f"{share:.2f}"))
    names = ("AP", "small", "medium", "large")
    header = ("dataset", "backbone", "arm", "seed", "AP of all", "without", *names, "share")
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
    commits = ", ".join(sorted({record.get("commit", "unknown") for record in records}))
    return "; ".join(sorted(kinds)) + " with " + "; ".join(sorted(versions)) + f"; code {commits}"


def section(name: str) -> list[str]:
    """The tables of the results of one command."""
    records = load(RESULTS / name)
    lines = ["", f"## {name.capitalize()}", ""]
    if not records:
        return [*lines, f"Nothing has been measured yet: `python benchmarks/{name}.py`."]
    if name == "accuracy":
        lines += [*accuracy(records), "", *classes(records)]
    else:
        lines += ["On the validation split:", "", *study(records, "validation"), ""]
        lines += ["On the test split:", "", *study(records, "test"), ""]
        lines += [f"Differences within seeds, mean and {LEVEL:.0%} interval (Student's):", ""]
        lines += differences(records)
        lines += ["", *BRANCHES.splitlines(), "", *branches(load(RESULTS / "branches"))]
    return [*lines, "", f"Measured on {where(records)}."]


def main() -> None:
    """Write the page."""
    lines = ["# Results", "", NOTES.read_text().strip(), *section("accuracy"), *section("study")]
    told = json.loads((RESULTS / "trials.json").read_text())
    lines += ["", "## Trials of the recipe", "", told["about"], "", *trials(told["trials"])]
    lines += ["", "## Models of the zoo, on their test splits", "", *zoo(ROOT / "zoo")]
    with replacing(ROOT / "docs/reference/results.md") as stream:
        stream.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

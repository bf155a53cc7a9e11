"""Pieces of work that are each a training run: done once, stopped and resumed at will, in JSON.

A piece is a command in a process of its own. It is left out if its JSON is there; a run that was
stopped goes on from its own checkpoint. The time of a process counts as the CPU seconds that it
and its children took, which other work on the machine changes less than time on the wall; of a run
that was stopped, in all its parts together.
"""

import csv
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from machine import machine

from pipeline.atomic import write_json
from pipeline.models.saved import SavedModel
from pipeline.versions import versions

ROOT = Path(__file__).parents[1]
PACKAGES = ("descry", "torch", "torchvision", "numpy", "albumentations")
SIZES = ("AP_small", "AP_medium", "AP_large")
COUNTED = ("AP", "AP50", "AP75", *SIZES, "AR100", "images", "objects")


class OutOfTime(Exception):
    """The time that was given is over; what has been done is kept."""


class Store:
    """A folder of JSON files, one per finished piece, and a folder for work under way."""

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder, self.work = folder, work
        folder.mkdir(parents=True, exist_ok=True)

    def done(self, name: str) -> bool:
        """Whether a piece has been finished."""
        return (self.folder / f"{name}.json").exists()

    def write(self, name: str, record: Mapping[str, Any]) -> None:
        """Keep a finished piece, with where it was made."""
        where = {"commit": commit(), "machine": machine(), "versions": versions(PACKAGES)}
        own = {"name": name, **record, **where}
        write_json(self.folder / f"{name}.json", own)

    def all(self) -> list[dict[str, Any]]:
        """All finished pieces, by name."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("*.json"))]


def commit() -> str:
    """Of the code that runs, with a mark if files differ from it; "unknown" outside of git."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def run(command: Sequence[str], log: Path, seconds: float | None = None) -> float:
    """CPU seconds of a command, which has one thread; its output goes to `log`.

    They are summed up beside `log` over all calls, until the command has come to its end.

    Raises
    ------
    OutOfTime
        When it takes longer than `seconds`; it has then been ended, and goes on when called again.
    subprocess.CalledProcessError
        When it fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    kept = log.with_suffix(".seconds")
    before = _children() - (float(kept.read_text()) if kept.exists() else 0.0)
    with log.open("a") as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
        try:
            code = process.wait(seconds)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as stop:
            process.terminate()
            process.wait()
            raise OutOfTime(log.stem) from stop
        finally:
            kept.write_text(f"{_children() - before:.1f}\n")
    if code:
        raise subprocess.CalledProcessError(code, command)
    return _children() - before


def ours(
    dataset: str, coco: Path, out: Path, given: Sequence[str], seconds: float | None = None
) -> dict[str, Any]:
    """Train and evaluate by the command line; the figures of both splits.

    Parameters
    ----------
    dataset : str
        A name that params.yaml knows; decides the augmentation.
    coco : Path
        The converted dataset.
    given : sequence of str
        Parameters, ``key=value``.
    """
    extra = ["machine.device=cpu", "evaluate.pictures=0", "evaluate.gallery=0"]
    extra += ["evaluate.resamples=0", f"machine.scratch={out / 'scratch'}"]
    options = [word for pair in [*extra, *given] for word in ("-S", pair)]
    descry = [sys.executable, "-m", "pipeline"]
    path = out / "train/model.safetensors"
    if not path.exists():
        train = [*descry, "train", dataset, "--coco", str(coco), "--out", str(out / "train")]
        run([*train, *options], out / "train.log", seconds)
    test = [*descry, "evaluate", dataset, "--coco", str(coco), "--checkpoint", str(path)]
    run([*test, "--out", str(out / "test"), *options], out / "test.log")
    model = SavedModel.load(path)
    validation = model.meta["validation"]
    words = [word for pair in given if not pair.startswith("machine.") for word in ("-S", pair)]
    return {
        "command": ["descry", "train", dataset, *words],
        "cpu seconds of training": float((out / "train.seconds").read_text()),
        "parameters": sum(p.numel() for p in model.detector.parameters()),
        "validation": {name: validation[name] for name in COUNTED if name in validation},
        "test": figures(out / "test"),
    }


def figures(folder: Path) -> dict[str, Any]:
    """What `descry evaluate` wrote, and the AP of each class."""
    content = json.loads((folder / "details.json").read_text())["figures"]
    with (folder / "per_class.csv").open(newline="") as stream:
        by_class = {row["class"]: float(row["AP"] or "nan") for row in csv.DictReader(stream)}
    return {name: content[name] for name in COUNTED} | {"AP by class": by_class}


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

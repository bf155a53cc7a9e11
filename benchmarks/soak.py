"""Memory, handles and threads of runs that take long: they should not grow.

    python benchmarks/soak.py predict --files 20000
    python benchmarks/soak.py train --minutes 120

`predict` goes over many small files with one command. `train` trains a model undisturbed, then
again and again until the time is over, killed with -9 at random moments and started anew until it
is done; the weights have to be the same bytes each time. Memory is the proportional set size (PSS)
of a command and its workers together.
"""

import argparse
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from limits import pss, save_model, session
from machine import machine

from pipeline.atomic import write_json
from pipeline.versions import versions

ROOT = Path(__file__).parents[1]
TRAIN = ("machine.checkpoint_minutes=0", "recipes.sample.image_size=64", "train.steps=1500")
SECONDS = 5.0  # between two looks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("predict", "train"))
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if chosen.part == "predict":
            found = predict(folder, chosen.files)
        else:
            found = train(folder, chosen.minutes)
    about = {"machine": machine(), "versions": versions(("numpy", "torch"))}
    write_json(chosen.out / f"soak-{chosen.part}.json", about | found)


def predict(folder: Path, files: int) -> dict[str, Any]:
    """One command over many small files."""
    random = np.random.default_rng(0)
    (folder / "in").mkdir()
    for i in range(files):
        pixels = random.integers(0, 255, (48, 64), np.uint8)
        cv2.imwrite(str(folder / "in" / f"{i:06}.png"), pixels)
    save_model(folder / "model.safetensors", least=0.0)
    out = folder / "out"
    words = ("--workers", "2", "--device", "cpu", "--threshold", "0")
    model = ("--checkpoint", folder / "model.safetensors")
    process = command("predict", folder / "in", "-o", out, *model, *words)
    journal = out.with_name("out.partial") / "state/journal"
    looks = list(watched(process, lambda: lines(journal)))
    return {"files": files, "status": process.returncode, "looks": looks}


def train(folder: Path, minutes: float) -> dict[str, Any]:
    """One training undisturbed, then laps with kills."""
    end, chance, coco = time.monotonic() + 60 * minutes, random.Random(0), folder / "coco"
    command("convert", "ccellbio", "--out", coco).wait()
    whole = lap(folder / "whole", coco, lambda: 1e9)
    laps = []
    for number in count():
        if time.monotonic() > end:
            break
        laps.append(lap(folder / f"lap{number}", coco, lambda: chance.uniform(10, 120)))
        laps[-1]["same"] = laps[-1]["sha256"] == whole["sha256"]
        print({"lap": number, "kills": laps[-1]["kills"], "same": laps[-1]["same"]}, flush=True)
    return {"undisturbed": whole, "laps": laps}


def lap(folder: Path, coco: Path, patience: Callable[[], float]) -> dict[str, Any]:
    """Train, be killed whenever patience is over, go on; until it is done."""
    looks: list[list[dict[str, Any]]] = []
    statuses: list[int] = []
    while not statuses or statuses[-1] == -signal.SIGKILL:
        words = ("-S", *" -S ".join((*TRAIN, f"machine.scratch={folder}/scratch")).split())
        process = command("train", "ccellbio", "--coco", coco, "--out", folder / "out", *words)
        end = time.monotonic() + patience()
        looks.append(list(watched(process, lambda: 0, end)))
        statuses.append(process.returncode)
        assert not session(process.pid), "processes are left behind"
    files = sorted(path.name for path in folder.rglob("*") if path.is_file())
    content = (folder / "out/model.safetensors").read_bytes() if statuses[-1] == 0 else b""
    return {
        "kills": len(statuses) - 1,
        "status": statuses[-1],
        "sha256": hashlib.sha256(content).hexdigest(),
        "files": files,
        "looks": looks,
    }


def command(*words: object) -> subprocess.Popen:
    """Start one of ours, in a session of its own."""
    program = [sys.executable, "-m", "pipeline", *map(str, words)]
    return subprocess.Popen(program, start_new_session=True, cwd=ROOT)


def watched(
    process: subprocess.Popen, done: Callable[[], int], end: float = float("inf")
) -> Iterator[dict[str, Any]]:
    """Look at a command until it ends; kill it at `end`."""
    while process.poll() is None:
        if time.monotonic() > end:
            process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(min(SECONDS, max(0.0, end - time.monotonic())))
        if process.poll() is None:
            yield {"done": done(), **held(process.pid)}


def held(leader: int) -> dict[str, int]:
    """What the processes of a session hold together."""
    handles = threads = memory = 0
    for process in session(leader):
        with suppress(OSError):
            handles += len(list(Path(f"/proc/{process}/fd").iterdir()))
            threads += len(list(Path(f"/proc/{process}/task").iterdir()))
            memory += pss(process)
    return {"mib": round(memory / 2**20), "handles": handles, "threads": threads}


def lines(journal: Path) -> int:
    """Results so far."""
    with suppress(OSError):
        return journal.read_bytes().count(b"\n")
    return 0


if __name__ == "__main__":
    main()

"""Peak memory of `descry predict` over large pictures, and what is refused.

    python benchmarks/limits.py             # some minutes on two cores

Memory is the proportional set size (PSS) of the command and its workers together, looked at every
50 ms. Pictures are RGB PNG files made here; the model is a micro ViT with random weights.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from machine import machine

from pipeline.atomic import write_json
from pipeline.data.images import MAX_PIXELS
from pipeline.models.build import build_detector
from pipeline.models.params import DetectorSpec
from pipeline.models.saved import SavedModel
from pipeline.predict.batches import BUDGET
from pipeline.predict.decode import DRAWN_PIXELS, WORKER_BYTES
from pipeline.versions import versions

CASES = {"one": (1, 12_000), "nine": (9, 10_000), "refused": (1, 18_000)}  # pictures, their side
WINDOWS = ("off", "1024")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/limits.json"))
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "model.safetensors")
        runs = []
        for case, (number, side) in CASES.items():
            make_pictures(folder / case, number, side)
            for window in WINDOWS:
                runs.append({"case": case, "pictures": number, "side": side, "window": window})
                runs[-1] |= measured(folder, case, window)
                print(runs[-1])
    limits = {
        "pixels of an image": MAX_PIXELS,
        "bytes of pictures held": BUDGET,
        "bytes of address space of a worker": WORKER_BYTES,
        "pixels of an overlay": DRAWN_PIXELS,
    }
    about = {"machine": machine(), "versions": versions(("numpy", "pillow", "torch"))}
    write_json(chosen.out, {**about, "limits": limits, "runs": runs})


def save_model(path: Path, least: float = 0.05) -> None:
    """A detector with random weights; with 0 as the least score it finds many things."""
    torch.manual_seed(0)
    spec = DetectorSpec(
        backbone="vit", size="micro", num_classes=1, fpn_channels=32, score_threshold=least
    )
    about = {
        "categories": [[1, "thing"]],
        "intensity": {"low_percentile": 0.5, "high_percentile": 99.5, "window": "first"},
        "image_size": 64,
        "score_threshold": 0.0,
        "dataset": "none",
    }
    SavedModel(build_detector(spec), spec, about).save(path)


def make_pictures(folder: Path, number: int, side: int) -> None:
    """Pictures of stripes: quick to write, and as large as any once they are decoded."""
    folder.mkdir()
    stripes = (np.arange(side) // 64 % 256).astype(np.uint8)
    for i in range(number):
        pixels = np.repeat(stripes[:, None] + np.uint8(i), side, axis=1)
        cv2.imwrite(str(folder / f"{i}.png"), np.repeat(pixels[..., None], 3, axis=2))


def measured(folder: Path, case: str, window: str) -> dict[str, Any]:
    """Peak memory in GiB, and what became of the pictures."""
    words = ["predict", folder / case, "-o", folder / f"{case}-{window}", "--workers", "2"]
    words += ["--checkpoint", folder / "model.safetensors", "--window", window, "--device", "cpu"]
    command = [sys.executable, "-m", "pipeline", *map(str, words), "--overlays", "all"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(map(pss, session(process.pid))))
        time.sleep(0.05)
    said = process.stdout.read().partition(";")[0] if process.stdout else ""
    return {"peak_gib": round(peak / 2**30, 2), "said": said, "status": process.returncode}


def session(leader: int) -> list[int]:
    """Processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if os.getsid(int(entry.name)) == leader:
                found.append(int(entry.name))
    return found


def pss(process: int) -> int:
    """Bytes that a process holds, of what it shares with others its part."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()

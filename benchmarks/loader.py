"""The training loader alone: images a second and core at 512 px, and memory over a long epoch.

    python benchmarks/loader.py                  # speed
    python benchmarks/loader.py --images 10000   # and memory over an epoch of so many images

The images are those of RSNA's sample, converted: real chest X-rays of 1024 x 1024 px, 8 bits grey,
as PNG. Copies of them differ in a number that is written behind the image's end: to the cache each
is a file of its own, and costs what a real file costs.

Speed is images per second of processor time of one process with one thread: reading, decoding,
augmenting with the recipe `xray`, fitting to 512 px and stacking batches of 16. It is taken
without a cache, while the cache fills, and from the full cache, in turns; the files are in the
system's page cache. Memory is that of the parent and of each worker at equal steps of an epoch:
anonymous pages, those that n processes share counted as 1/n. Its growth is counted from the first
quarter's end, when all has been loaded.
Run it on an idle machine.
"""

import argparse
import gc
import json
import multiprocessing
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import torch
from gpu_pieces.steps import spread
from machine import machine

from pipeline.atomic import write_json
from pipeline.convert import convert, open_source
from pipeline.data.cache import CachePlan
from pipeline.data.index import CocoIndex
from pipeline.data.intensity import Intensity
from pipeline.data.loader import LoaderPlan, training_loader
from pipeline.versions import versions

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks/results/loader.json"
PACKAGES = ("torch", "albumentations", "opencv-python-headless", "pillow", "numpy")
PLAN = LoaderPlan(512, Intensity(), "xray", seed=0, batch_size=16)
COPIES = 192  # pictures of the speed test: 48 MiB as the cache keeps them, more than caches hold
SAMPLES = 20  # how often memory is looked at


def dataset(folder: Path, images: int, *, linked: bool) -> CocoIndex:
    """RSNA's sample, all of it training, repeated to a number of images.

    `linked` copies are names of the same file, for epochs of which only the length matters.
    """
    convert(
        open_source("rsna", ROOT / "datasets/rsna/sample"),
        folder / "coco",
        seed=0,
        val_fraction=0.15,
        test_fraction=0.2,
        workers=1,
        png_level=1,
    )
    tree = json.loads((folder / "coco/annotations/train.json").read_text())
    originals, boxes = tree["images"], tree["annotations"]
    tree["images"], tree["annotations"] = [], []
    for number in range(images):
        image = originals[number % len(originals)]
        file, name = folder / "coco/images" / image["file_name"], f"{number:06d}.png"
        if linked:
            (folder / name).symlink_to(file)
        else:
            (folder / name).write_bytes(file.read_bytes() + number.to_bytes(4, "big"))
        tree["images"].append(image | {"id": number + 1, "file_name": name})
        for box in (b for b in boxes if b["image_id"] == image["id"]):
            tree["annotations"].append(
                box | {"id": len(tree["annotations"]) + 1, "image_id": number + 1}
            )
    (folder / "train.json").write_text(json.dumps(tree))
    return CocoIndex(folder / "train.json", folder)


def rate(index: CocoIndex, plan: LoaderPlan, epoch: int) -> float:
    """Images per second of processor time in one epoch."""
    loader = training_loader(index, plan)
    loader.batch_sampler.sampler.set_epoch(epoch)  # type: ignore[union-attr]
    start, images = time.process_time(), 0
    for batch in loader:
        images += len(batch)
    return images / (time.process_time() - start)


def speed(rounds: int) -> dict[str, Any]:
    """Spread of the rate without cache, with an empty one and with a full one."""
    with tempfile.TemporaryDirectory() as name:
        index = dataset(Path(name), COPIES, linked=False)
        rates: dict[str, list[float]] = {"no cache": [], "cache fills": [], "from cache": []}
        for number in range(rounds + 1):
            cached = replace(PLAN, cache=CachePlan(Path(name) / f"cache{number}", 1.0))
            plans = (PLAN, cached, cached)
            for arm, plan in zip(rates, plans, strict=True):
                rates[arm].append(rate(index, plan, number))
        size = index.file(0).stat().st_size
    # the first round warms up
    return {"images per second and core": {arm: spread(v[1:]) for arm, v in rates.items()}} | {
        "bytes of a file": size,
        "images": COPIES,
        "rounds": rounds,
    }


def anonymous_kib(process: int) -> int:
    """Anonymous memory of a process in KiB, pages shared by n processes counted as 1/n."""
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1])
    raise SystemExit("no Pss_Anon in smaps_rollup: memory is measured on Linux only, from 5.4 on")


def memory(images: int, workers: int) -> dict[str, Any]:
    """Memory of all processes over one epoch, and its growth per image."""
    with tempfile.TemporaryDirectory() as name:
        index = dataset(Path(name), images, linked=True)
        loader = training_loader(index, replace(PLAN, workers=workers))
        seen: list[dict[str, float]] = []
        every = max(1, len(loader) // SAMPLES)
        start = time.perf_counter()
        for number, _ in enumerate(loader, 1):
            if number % every == 0:
                gc.collect()  # gives the parent its own copy of shared objects, once and early
                children = [p.pid for p in multiprocessing.active_children() if p.pid]
                sizes = [anonymous_kib(p) / 1024 for p in (os.getpid(), *children)]
                seen.append(
                    {"images": number * PLAN.batch_size, "parent": round(sizes[0], 1)}
                    | {f"worker {i}": round(s, 1) for i, s in enumerate(sizes[1:], 1)}
                )
        seconds = time.perf_counter() - start
    warm, last = seen[len(seen) // 4], seen[-1]
    grown = sum(last[who] - warm[who] for who in last if who != "images") * 2**20
    return {
        "images": images,
        "workers": workers,
        "images per second": round(images / seconds, 1),
        "MiB": seen,
        "bytes of growth per image": round(grown / (last["images"] - warm["images"]), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--images", type=int, default=0, help="of the epoch that memory is taken in"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    result = {"speed": speed(given.rounds)}
    if given.images:
        result["memory"] = memory(given.images, given.workers)
    result |= {"machine": machine(), "versions": versions(PACKAGES)}
    write_json(given.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

"""Speed and memory of evaluation, beside pycocotools and faster-coco-eval.

    python benchmarks/evaluate.py --images 10000 --repeats 3
    python benchmarks/evaluate.py --images 100000 --peers none --full

The data is made by a seeded generator: --objects per image on average and --detections per
image, of --classes classes, four of ten detections near an object, the rest anywhere; sizes from
8 to 300 px. Each contender runs in a process of its own, which first loads the same two JSON files
into Python's lists and dictionaries (not timed) and then times the way from there to the twelve
COCO figures. The figures of the peers must equal ours to 1e-9 at every recall, IoU threshold,
class and area range, not only in the twelve means.

--full also times everything that `descry evaluate --gt --predictions` writes, from the files on
the disk to the files on the disk, with --resamples bootstrap resamples.
"""

import argparse
import contextlib
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine

from pipeline.atomic import write_json
from pipeline.data.coco import load_coco
from pipeline.data.results import load_results
from pipeline.versions import versions

ROOT = Path(__file__).resolve().parents[1]
PEERS = ("pycocotools", "faster-coco-eval")
PACKAGES = ("numpy", *PEERS)
SIDE = 1024  # px of an image
TOLERANCE = 1e-9
Arrays = tuple[np.ndarray, np.ndarray]  # precision (T, 101, K, A), recall (T, K, A, 3)


def generate(folder: Path, images: int, objects: float, detections: int, classes: int) -> None:
    """Write ``truth.json`` and ``results.json``."""
    rng = np.random.default_rng(0)
    count = rng.poisson(objects, images)
    owner = np.repeat(np.arange(images), count)
    label = rng.integers(0, classes, len(owner))
    box = boxes_of(rng, len(owner))
    crowd = rng.random(len(owner)) < 0.01
    with (folder / "truth.json").open("w") as stream:
        names = [{"id": k + 1, "name": f"class {k}"} for k in range(classes)]
        entry = {"width": SIDE, "height": SIDE}
        listed = [{"id": i + 1, "file_name": f"{i}.png", **entry} for i in range(images)]
        columns = (owner + 1, label + 1, box, crowd)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        annotations = [
            {"id": n, "image_id": i, "category_id": k, "bbox": b, "area": b[2] * b[3]}
            | {"iscrowd": int(c)}
            for n, (i, k, b, c) in enumerate(rows, start=1)
        ]
        tree = {"images": listed, "categories": names, "annotations": annotations}
        json.dump(tree, stream)
    write_detections(rng, folder / "results.json", (owner, label, box), images, detections, classes)


def boxes_of(rng: np.random.Generator, count: int) -> np.ndarray:
    """Boxes x, y, width, height, to a tenth of a pixel."""
    size = np.exp(rng.uniform(np.log(8), np.log(300), (count, 2)))
    place = rng.random((count, 2)) * (SIDE - size)
    return np.concatenate([place, size], axis=1).round(1)


def write_detections(
    rng: np.random.Generator,
    path: Path,
    truth: tuple[np.ndarray, np.ndarray, np.ndarray],
    images: int,
    detections: int,
    classes: int,
) -> None:
    """Near an object for four of ten, anywhere for the rest."""
    owner, label, box = truth
    total = images * detections
    near = rng.integers(0, len(owner), int(0.4 * total))
    jitter = rng.normal(0, 0.08, (len(near), 4)) * np.tile(box[near, 2:], 2)
    moved = np.maximum(box[near] + jitter, 1).round(1)
    image = np.concatenate([owner[near], rng.integers(0, images, total - len(near))])
    kind = np.concatenate([label[near], rng.integers(0, classes, total - len(near))])
    boxes = np.concatenate([moved, boxes_of(rng, total - len(near))])
    score = rng.beta(2, 4, total).round(4)
    score[: len(near)] = np.minimum(1, score[: len(near)] + 0.2).round(4)
    columns = ((image + 1).tolist(), (kind + 1).tolist(), boxes.tolist(), score.tolist())
    with path.open("w") as stream:
        keys = ("image_id", "category_id", "bbox", "score")
        rows = (dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True))
        json.dump(list(rows), stream)


def ours(folder: Path) -> tuple[Callable[[], Any], Callable[[Any], Arrays]]:
    """Our own evaluation: what to time, and how its result is read."""
    from pipeline.evaluate.coco_metrics import CocoMetrics

    coco, results = load_coco(folder / "truth.json"), load_results(folder / "results.json")

    def run() -> CocoMetrics:
        score = CocoMetrics.between(coco, results)
        score.summary()
        return score

    return run, lambda score: (score.averages.precision, score.averages.recall)


def peer(name: str, folder: Path) -> tuple[Callable[[], Any], Callable[[Any], Arrays]]:
    """Pycocotools or faster-coco-eval: the same."""
    if name == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    coco, results = load_coco(folder / "truth.json"), load_results(folder / "results.json")

    def run() -> Any:
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO()
            truth.dataset = coco
            truth.createIndex()
            evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return evaluation

    return run, lambda e: (np.asarray(e.eval["precision"])[..., 2], np.asarray(e.eval["recall"]))


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Run one contender in this process, which must be fresh."""
    run, read = ours(folder) if name == "ours" else peer(name, folder)
    before = peak()
    start = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - start
    precision, recall = read(result)
    np.savez(folder / f"{name}.npz", precision=precision, recall=recall)
    return {"seconds": seconds, "peak MiB before": before, "peak MiB": peak()}


def full(folder: Path, resamples: int) -> dict[str, Any]:
    """All that `descry evaluate --gt --predictions` does."""
    from pipeline.evaluate.intervals import Resampling
    from pipeline.evaluate.run import evaluate_files

    start = time.perf_counter()
    evaluate_files(
        folder / "truth.json",
        folder / "results.json",
        folder / "out",
        threshold=0.5,
        images=None,
        gallery=0,
        how=Resampling(resamples=resamples),
    )
    return {"seconds": time.perf_counter() - start, "peak MiB": peak(), "resamples": resamples}


def peak() -> float:
    """Largest memory of this process so far, in MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def child(folder: Path, *arguments: str) -> dict[str, Any]:
    """Run this file again in a fresh process."""
    command = [sys.executable, __file__, "--folder", str(folder), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def compared(folder: Path, peers: list[str], repeats: int) -> dict[str, Any]:
    """Times of all contenders in turn, and the largest difference of their figures from ours."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ("ours", *peers)}
    for _ in range(repeats):
        for name in runs:
            runs[name].append(child(folder, "--measure", name))
    best = np.load(folder / "ours.npz")
    table: dict[str, Any] = {}
    for name, measured in runs.items():
        seconds = [one["seconds"] for one in measured]
        table[name] = {
            "seconds": [round(s, 3) for s in seconds],
            "median": round(statistics.median(seconds), 3),
            "peak MiB": max(one["peak MiB"] for one in measured),
            "peak MiB after loading": max(one["peak MiB before"] for one in measured),
        }
        theirs = np.load(folder / f"{name}.npz")
        away = max(float(np.abs(theirs[key] - best[key]).max()) for key in best.files)
        table[name]["largest difference from ours"] = away
        ratio = statistics.median(seconds) / table["ours"]["median"]
        table[name]["times ours"] = round(ratio, 2)
        if not away <= TOLERANCE:
            raise SystemExit(f"not a measurement: the figures of {name} are {away} away from ours")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--objects", type=float, default=2.0)
    parser.add_argument("--detections", type=int, default=10)
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=[*PEERS, "none"])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder:
        folder = given.folder
        one = full(folder, given.resamples) if given.full else measure(given.measure, folder)
        print(json.dumps(one))
        return
    shape = (given.images, given.objects, given.detections, given.classes)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        generate(folder, *shape)
        peers = [name for name in given.peers if name != "none"]
        names = ("images", "objects per image", "detections per image", "classes")
        result: dict[str, Any] = {
            "what": "COCO figures of the same generated detections",
            "data": dict(zip(names, shape, strict=True)),
            "contenders": compared(folder, peers, given.repeats),
        }
        if given.full:
            extra = ("--full", "--resamples", str(given.resamples))
            result["everything, from files to files"] = child(folder, *extra)
    result |= {"machine": machine(), "versions": versions(PACKAGES)}
    out = given.out or ROOT / f"benchmarks/results/evaluate-{given.images}.json"
    write_json(out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

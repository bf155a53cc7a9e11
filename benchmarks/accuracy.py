"""Our default recipe against YOLO11n and torchvision's RetinaNet-R18, all from random weights.

Same split, same pixels, one thread each; every model has its own ordinary recipe and its own
number of epochs, so that CPU time can be made equal. Figures are our evaluation's on the test
split. Pieces (model, dataset, seed) that are done are left out; see `pieces`.

    python benchmarks/accuracy.py --coco ccellbio=FOLDER --peers ENVIRONMENT/bin/python
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pieces import ROOT, OutOfTime, Store, figures, ours, run

PEERS = Path(__file__).parent / "peers"
PEER_PACKAGES = ("ultralytics", "torch", "torchvision")
OURS = ("vit", "swin", "dat")
MODELS = (*OURS, "yolo11n", "retinanet_r18")


def peer(
    script: str, python: str, dataset: str, coco: Path, out: Path, given: argparse.Namespace
) -> dict[str, Any]:
    """Train somebody else's model, and evaluate its detections as ours are."""
    options = {"--coco": coco, "--out": out, "--epochs": given.epochs_of[script]}
    options |= {"--size": given.size, "--batch": given.batch, "--seed": given.seed}
    words = [str(word) for pair in options.items() for word in pair]
    name = {"yolo11n": "yolo.py", "retinanet_r18": "retinanet.py"}[script]
    spent = run([python, str(PEERS / name), *words], out / "train.log", given.time_limit)
    truth = ["--gt", str(coco / "annotations/test.json"), "--predictions"]
    command = [sys.executable, "-m", "pipeline", "evaluate", *truth, str(out / "results.json")]
    run([*command, "--out", str(out / "test")], out / "test.log")
    return {
        "command": ["python", f"benchmarks/peers/{name}", *words[4:]],
        "cpu seconds of training": round(spent, 1),
        "packages": packages(python),
        "test": figures(out / "test"),
    }


def packages(python: str) -> dict[str, str]:
    """Versions of what a peer is made of, in its own environment."""
    program = (
        "import importlib.metadata as m, json; "
        "found = {d.name: d.version for d in m.distributions()}; "
        f"print(json.dumps({{n: found[n] for n in {PEER_PACKAGES} if n in found}}))"
    )
    told = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(told.stdout)


def piece(model: str, dataset: str, coco: Path, out: Path, given: Any) -> dict[str, Any]:
    """One model on one dataset with one seed."""
    if model not in OURS:
        python = given.peers if model == "yolo11n" else sys.executable
        return peer(model, python, dataset, coco, out, given)
    epochs = given.epochs_of[model]
    sets = [f"model.backbone={model}", f"train.seed={given.seed}"]
    sets += [f"recipes.sample.image_size={given.size}"]
    sets += [f"recipes.sample.epochs.{dataset}={epochs}", *given.set]
    return ours(dataset, coco, out, sets, given.time_limit)


def read(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coco", action="append", required=True, metavar="DATASET=FOLDER")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--epochs", default="", metavar="MODEL=N,...", help="30 where not said")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=16, help="of the peers; ours is the recipe's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peers", default="", help="python of an environment with ultralytics")
    parser.add_argument("--set", "-S", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--time-limit", type=float, help="seconds of a training")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/accuracy")
    parser.add_argument("--work", type=Path, default=ROOT / ".descry/accuracy")
    given = parser.parse_args(arguments)
    chosen = dict(pair.split("=") for pair in given.epochs.split(",") if pair)
    given.epochs_of = {model: int(chosen.get(model, 30)) for model in MODELS}
    return given


def main() -> int:
    """Do what is left to do; 1 if something is still left."""
    given = read()
    store, left = Store(given.out, given.work.resolve()), 0
    for seed in range(given.seeds):
        for dataset, coco in (pair.split("=") for pair in given.coco):
            for model in given.models.split(","):
                epochs = given.epochs_of[model]
                name = f"{dataset}-{model}-{given.size}px-{epochs}-{seed}"
                if store.done(name) or (model == "yolo11n" and not given.peers):
                    continue
                given.seed = seed
                about = {"dataset": dataset, "model": model, "epochs": epochs, "seed": seed}
                about |= {"image_size": given.size}
                folder = Path(coco).resolve()
                try:
                    record = piece(model, dataset, folder, store.work / name, given)
                except OutOfTime:
                    left += 1
                    continue
                store.write(name, about | record)
                print(name, record["test"]["AP"], flush=True)
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main())

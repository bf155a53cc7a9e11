"""Whether ACP and CAT help: arms x datasets x backbones x seeds through the project's own command.

Arms are those of `pipeline.models.controls`; all else of params.yaml stays as it is. Seeds come
last in a round: every arm of the first seed is done before the second begins. Pieces that are done
are left out; `--time-limit 540` keeps each under ten minutes, and the next call goes on.

    python benchmarks/study.py --coco ccellbio=FOLDER --coco nih=FOLDER --backbones vit,swin
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pieces import ROOT, OutOfTime, Store, ours

from pipeline.config import load_params
from pipeline.models.controls import controls
from pipeline.stages.train import detector_spec

ARM_KEYS = ("pool_layers", "concepts", "copies", "width")


class Piece(NamedTuple):
    """One training of the study."""

    dataset: str
    coco: Path
    backbone: str
    arm: str
    seed: int
    given: list[str]

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.dataset}-{self.backbone}-{self.arm}-{self.seed}"


def pieces(given: argparse.Namespace) -> Iterator[Piece]:
    """All trainings, in the order of what decides most."""
    for seed in range(given.seeds):
        for dataset, coco in (pair.split("=") for pair in given.coco):
            for backbone in given.backbones.split(","):
                sets = [f"model.backbone={backbone}", *given.set]
                full = detector_spec(load_params(ROOT / "params.yaml", sets), Path(coco))
                arms = controls(replace(full, pool_layers=2, concepts=16))
                for arm in given.arms.split(","):
                    if arm in arms:  # a width-matched one there is for ViT alone
                        own = [f"model.{key}={getattr(arms[arm], key)}" for key in ARM_KEYS]
                        own = [*sets, *own, f"train.seed={seed}"]
                        yield Piece(dataset, Path(coco).resolve(), backbone, arm, seed, own)


def read() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coco", action="append", required=True, metavar="DATASET=FOLDER")
    parser.add_argument("--backbones", default="vit,swin,dat")
    parser.add_argument("--arms", default="baseline,full,wider,acp,cat,copies")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", "-S", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--time-limit", type=float, help="seconds of a training")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/study")
    parser.add_argument("--work", type=Path, default=ROOT / ".descry/study")
    return parser.parse_args()


def main() -> int:
    """Do what is left to do; 1 if something is still left."""
    given = read()
    store, left = Store(given.out, given.work.resolve()), 0
    for piece in pieces(given):
        if store.done(piece.name):
            continue
        named = ("dataset", "backbone", "arm", "seed")
        about: dict[str, Any] = {name: getattr(piece, name) for name in named}
        try:
            folder = store.work / piece.name
            record = ours(piece.dataset, piece.coco, folder, piece.given, given.time_limit)
        except OutOfTime:
            left += 1
            continue
        store.write(piece.name, about | record)
        print(piece.name, record["validation"]["AP"], record["test"]["AP"], flush=True)
    return int(left > 0)


if __name__ == "__main__":
    sys.exit(main())

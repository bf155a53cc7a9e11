"""Our training step against torchvision's own RetinaNet training, on the CPU.

    python benchmarks/step.py

Both arms have the same backbone, pyramid, anchors, head, weights and AdamW, and run strictly
deterministic. Ours is the step as `descry train` takes it: a batch of 8-bit images, our detector,
clipping, weight decay by group, AdamW as one kernel if `train.fused` of params.yaml says so. The
other is torchvision's `RetinaNet` with its own transform and loss, driven as its reference scripts
do: a list of float images, losses summed and checked to be finite, backward, step. It gets its
images as floats for nothing and does not clip.

Each arm has a process of its own, so that neither lives in what the other's allocator left behind.
Memory is the growth of the fresh process to its peak over its first two steps, weights and what
Python and torch hold left out. Then the arms take turns, every other round backwards; the ratio is
taken round by round, ours over torchvision's, of the time on the clock and of the processor's. All
of it is done with several pairs of processes: which freed blocks an allocator finds again, and so
its peak and its page faults, differs from process to process. Ratios of at most 1 are wanted.
Run it on an idle machine.

The cases "interaction" compare our step with ACP and CAT to the same without, in the form of the
detector that the sample recipe has.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gpu_pieces.steps import ratios, spread
from machine import machine
from torch.optim import AdamW
from torchvision.models.detection.retinanet import RetinaNet

from pipeline.atomic import write_json
from pipeline.config import load_params
from pipeline.data.sample import Batch
from pipeline.models.build import build_detector
from pipeline.models.params import DetectorSpec
from pipeline.profile.measure import peak_of
from pipeline.train.optimisation import parameter_groups
from pipeline.versions import versions

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks/results/step.json"
PACKAGES = ("torch", "torchvision")
# detector, image size and batch: params.yaml's sample recipe, and a step as large as the paper's
CASES = {
    "sample recipe": (
        DetectorSpec(
            backbone="vit",
            size="micro",
            num_classes=3,
            fpn_channels=64,
            anchor_scale=2.0,
            pool_layers=2,
            concepts=16,
        ),
        224,
        8,
    ),
    "swin-t": (
        DetectorSpec(
            backbone="swin",
            size="tiny",
            num_classes=3,
            fpn_channels=256,
            anchor_scale=4.0,
            pool_layers=2,
            concepts=16,
        ),
        512,
        2,
    ),
}
# what ACP and CAT add to a step: the sample recipe's own form, at its size and at a larger one
LEARNS_SOONER = DetectorSpec(
    backbone="vit",
    size="micro",
    num_classes=3,
    stem="convolutions",
    head="aligned",
    fpn_channels=64,
    pool_layers=2,
    concepts=16,
)
CASES |= {f"interaction {side}": (LEARNS_SOONER, side, n) for side, n in ((224, 4), (512, 2))}
OBJECTS = 8  # boxes per image
CLOCKS = ("seconds", "processor seconds")
Step = Callable[[], float]


def batch_of(side: int, images: int) -> Batch:
    """Noise with boxes of a sixteenth to a half of the side."""
    rng = torch.Generator().manual_seed(1)
    corners = torch.rand(images, OBJECTS, 2, generator=rng) * side / 2
    sizes = side / 16 + torch.rand(images, OBJECTS, 2, generator=rng) * side * 7 / 16
    boxes = torch.cat([corners, corners + sizes], dim=-1)
    labels = torch.randint(3, (images, OBJECTS), generator=rng)
    pixels = torch.randint(256, (images, 3, side, side), generator=rng, dtype=torch.uint8)
    return Batch(pixels, list(boxes), list(labels), list(range(images)))


def our_step(spec: DetectorSpec, side: int, images: int) -> Step:
    """As `pipeline.train` does it, without Lightning around it."""
    torch.manual_seed(0)
    detector = build_detector(spec).train()
    fused = load_params(ROOT / "params.yaml").train.fused or None
    optimizer = AdamW(parameter_groups(detector, 0.05), lr=1e-4, fused=fused)
    batch = batch_of(side, images)

    def step() -> float:
        losses = detector(batch.images, batch.targets)
        total = torch.stack(list(losses.values())).sum()
        value = float(total.detach())
        assert math.isfinite(value)
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        optimizer.step()
        return value

    return step


def their_step(spec: DetectorSpec, side: int, images: int) -> Step:
    """As torchvision's references/detection/engine.py does it."""
    torch.manual_seed(0)
    ours = build_detector(spec)
    model = RetinaNet(
        ours.backbone,
        spec.num_classes,
        min_size=side,
        max_size=side,
        anchor_generator=ours.head.generator,
        head=ours.head,
    ).train()
    optimizer = AdamW(model.parameters(), lr=1e-4, weight_decay=0.05)
    batch = batch_of(side, images)
    floats = [image.float() / 255 for image in batch.images]

    def step() -> float:
        targets = [dict(target) for target in batch.targets]
        losses = model(list(floats), targets)
        total = sum(losses.values())
        value = total.item()
        assert math.isfinite(value)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return value

    return step


def plain_step(spec: DetectorSpec, side: int, images: int) -> Step:
    """Ours without ACP and CAT."""
    return our_step(replace(spec, pool_layers=0, concepts=0), side, images)


MAKE = {
    "descry": our_step,
    "torchvision": their_step,
    "acp+cat": our_step,
    "baseline": plain_step,
}


def arms_of(case: str) -> tuple[str, str]:
    """Which two are compared; the ratio is the first one's share of the second."""
    return ("acp+cat", "baseline") if case.startswith("interaction") else ("descry", "torchvision")


class Arm:
    """A process that takes steps when asked to."""

    def __init__(self, case: str, arm: str, threads: int) -> None:
        command = [sys.executable, __file__, "--threads", str(threads), "--child", case, arm]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.first = self._answer()

    def step(self) -> dict[str, float]:
        """One step: its seconds on the clock and of the processor."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """Let go of its memory."""
        self.process.communicate()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout
        return dict(json.loads(self.process.stdout.readline()))


def serve(case: str, arm: str) -> None:
    """In the arm's process: the first two steps for their memory, then one per line of input."""
    step = MAKE[arm](*CASES[case])
    losses: list[float] = []
    peak = peak_of(lambda: losses.append(step()), "cpu")
    print(json.dumps({"loss": losses[0], "peak MiB": peak / 2**20}), flush=True)
    for _ in sys.stdin:
        clock, processor = time.perf_counter(), time.process_time()
        step()
        taken = time.perf_counter() - clock, time.process_time() - processor
        print(json.dumps(dict(zip(CLOCKS, taken, strict=True))), flush=True)


def compare(case: str, pairs: int, rounds: int, threads: int) -> dict[str, Any]:
    """Time and memory of both arms, and our share of theirs."""
    spec, side, images = CASES[case]
    names = arms_of(case)
    firsts: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(pairs):
        arms = {name: Arm(case, name, threads) for name in names}  # one after the other
        for turn in range(rounds):
            for name in names[:: 1 if turn % 2 == 0 else -1]:
                turns[name].append(arms[name].step())
        for name, arm in arms.items():
            arm.end()
            firsts[name].append(arm.first)
    times = {c: {name: [t[c] for t in turns[name]] for name in names} for c in CLOCKS}
    memory = {name: [first["peak MiB"] for first in firsts[name]] for name in names}
    ours, theirs = (statistics.median(memory[name]) for name in names)
    return {
        "what": f"{spec.backbone} {spec.size} with ACP+CAT, {side} px, batch {images}",
        "arms": list(names),
        "first loss": {name: round(firsts[name][0]["loss"], 6) for name in names},
        "pairs of processes": pairs,
        "rounds of each": rounds,
        **{c: {name: spread(values) for name, values in times[c].items()} for c in CLOCKS},
        **{f"ratio of {c}": ratios(*(times[c][name] for name in names)) for c in CLOCKS},
        "peak MiB": {name: spread(values) for name, values in memory.items()},
        "ratio of memory": round(ours / theirs, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--pairs", type=int, default=5, help="pairs of processes")
    parser.add_argument("--rounds", type=int, default=4, help="steps that each of them takes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--child", nargs=2, metavar=("CASE", "ARM"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if given.child:
        serve(*given.child)
        return
    result: dict[str, Any] = {
        case: compare(case, given.pairs, given.rounds, given.threads) for case in given.cases
    }
    result |= {"threads": given.threads, "machine": machine(), "versions": versions(PACKAGES)}
    write_json(given.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

"""Our training step against torchvision's own RetinaNet training, on the CPU.

    python benchmarks/step.py

Both arms have the same backbone, pyramid, anchors, head, weights and AdamW, and run strictly
deterministic. Ours is the step as `descry train` takes it: a batch of 8-bit images, our detector,
clipping, weight decay by group, AdamW as one kernel if `train.fused` of params.yaml says so. The
other is torchvision's `RetinaNet` with its own transform and loss, driven as its reference scripts
do: a list of float images, losses summed and checked to be finite, backward, step. It gets its
images as floats for nothing and does not clip.

The arms take turns, every other round backwards; the ratio is taken round by round, ours over
torchvision's. Memory is the growth of a fresh process to its peak over two steps, weights and what
Python and torch hold left out. Ratios of at most 1 are wanted. Run it on an idle machine.
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_pieces.steps import ratios, spread, take_turns
from machine import machine
from torch.optim import AdamW
from torchvision.models.detection.retinanet import RetinaNet

from pipeline.atomic import write_json
from pipeline.config import load_params
from pipeline.data.sample import Batch
from pipeline.models.build import DetectorSpec, build_detector
from pipeline.profile.memory import peak_of
from pipeline.train.module import parameter_groups
from pipeline.versions import versions

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks/results/step.json"
PACKAGES = ("torch", "torchvision")
# detector, image size and batch: params.yaml's sample recipe, and a step as large as the paper's
CASES = {
    "sample recipe": (DetectorSpec("vit", "micro", 3, 64, 2.0, 0.05, 0.5, 100, 2, 16), 224, 8),
    "swin-t": (DetectorSpec("swin", "tiny", 3, 256, 4.0, 0.05, 0.5, 100, 2, 16), 512, 2),
}
OBJECTS = 8  # boxes per image
ARMS = ("descry", "torchvision")
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
        anchor_generator=ours.anchor_generator,
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


MAKE = dict(zip(ARMS, (our_step, their_step), strict=True))


def peak_mib(case: str, arm: str) -> float:
    """Peak memory of two steps in a process of its own, in MiB."""
    threads = str(torch.get_num_threads())
    command = [sys.executable, __file__, "--threads", threads, "--child", case, arm]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return round(json.loads(done.stdout) / 2**20, 1)


def compare(case: str, rounds: int) -> dict[str, Any]:
    """Time and memory of both arms, and our share of theirs."""
    spec, side, images = CASES[case]
    steps = {arm: MAKE[arm](spec, side, images) for arm in ARMS}
    first = {arm: round(step(), 6) for arm, step in steps.items()}
    times = take_turns(steps, "cpu", rounds, 1)
    memory = {arm: peak_mib(case, arm) for arm in ARMS}
    return {
        "what": f"{spec.backbone} {spec.size} with ACP+CAT, {side} px, batch {images}",
        "first loss": first,
        "rounds": rounds,
        "seconds a step": {arm: spread(values) for arm, values in times.items()},
        "ratio of time": ratios(*(times[arm] for arm in ARMS)),
        "peak MiB": memory,
        "ratio of memory": round(memory["descry"] / memory["torchvision"], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--child", nargs=2, metavar=("CASE", "ARM"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if given.child:
        case, arm = given.child
        print(json.dumps(peak_of(MAKE[arm](*CASES[case]), "cpu")))
        return
    result: dict[str, Any] = {case: compare(case, given.rounds) for case in given.cases}
    result |= {"threads": given.threads, "machine": machine(), "versions": versions(PACKAGES)}
    write_json(given.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

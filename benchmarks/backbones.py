"""Our backbones against timm's and torchvision's, and what ACP+CAT add, on the CPU.

    python benchmarks/backbones.py

* trunks: Swin-T and ViT-S in their classifier forms, ours and both peers', the same function with
  the same number of parameters; forward, and forward with backward.
* detectors: a training step (forward, loss, backward, AdamW) of RetinaNet around ViT-S, Swin-T and
  DAT++-T, plain and with ACP (2 layers) and CAT (16 concepts).

All arms of a group take turns, every other round backwards; ratios are taken round by round and
given as median and quartiles. Memory is the growth of a fresh process to its peak over two steps,
weights and what Python and torch hold left out. Run it on an idle machine: about 6 minutes.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from classifier import Classifier, ViTClassifier
from gpu_pieces.arms import ENHANCED, move_interactions, ours, synthetic
from gpu_pieces.steps import Trainee, ratios, spread, take_turns
from machine import machine
from torch import nn
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

from pipeline.atomic import write_json
from pipeline.models.backbones.swin import Swin
from pipeline.models.backbones.vit import ViT
from pipeline.models.params import SwinOptions, ViTOptions
from pipeline.profile.measure import peak_of
from pipeline.versions import versions

RESULT = Path(__file__).resolve().parent / "results" / "backbones.json"
PACKAGES = ("torch", "torchvision", "timm")
DETECTORS = {"vit": "small", "swin": "tiny", "dat": "tiny"}
Step = Callable[[], object]


def trunks(family: str, side: int) -> dict[str, Callable[[], nn.Module]]:
    """Classifiers of 1000 classes by name, without stochastic depth."""
    if family == "swin-t":
        return {
            "descry": lambda: Classifier(
                Swin("tiny", drop_path=0.0, options=SwinOptions(output_norms=False))
            ),
            "timm": lambda: timm.create_model(
                "swin_tiny_patch4_window7_224", img_size=side, drop_path_rate=0.0
            ),
            "torchvision": lambda: SwinTransformer(
                [4, 4], 96, [2, 2, 6, 2], [3, 6, 12, 24], [7, 7], stochastic_depth_prob=0.0
            ),
        }
    return {
        "descry": lambda: ViTClassifier(ViT("small", options=ViTOptions(class_token=True))),
        "timm": lambda: timm.create_model("vit_small_patch16_224", img_size=side),
        "torchvision": lambda: VisionTransformer(side, 16, 12, 6, 384, 1536),
    }


def forward(model: nn.Module, images: torch.Tensor) -> None:
    """Compute and forget."""
    with torch.no_grad():
        model(images)


def backward(model: nn.Module, images: torch.Tensor) -> None:
    """Forward and backward."""
    model.zero_grad(set_to_none=True)
    model(images).square().mean().backward()


def trunk_step(family: str, name: str, side: int, batch: int, *, learn: bool) -> Step:
    """One pass of a trunk."""
    torch.manual_seed(0)
    model = trunks(family, side)[name]().train()
    images = torch.randn(batch, 3, side, side)
    return partial(backward if learn else forward, model, images)


def detector_step(name: str, side: int, batch: int) -> Step:
    """One training step of a detector, named family or family+acp+cat."""
    family = name.removesuffix(ENHANCED)
    torch.manual_seed(0)
    model = ours(family, DETECTORS[family], enhanced=name != family)
    move_interactions(model)
    return Trainee(model, *synthetic(side, batch, "cpu"), "fp32").step


def timed(steps: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of each step in each round, after one of each."""
    for step in steps.values():
        step()
    return take_turns(steps, "cpu", rounds, 1)


def compared(times: Mapping[str, list[float]], pairs: Mapping[str, tuple[str, str]]) -> Any:
    """Spread of the times, and of the ratio of each named pair."""
    return {
        "seconds": {name: spread(values) for name, values in times.items()},
        "ratios": {name: ratios(times[a], times[b]) for name, (a, b) in pairs.items()},
    }


def peak_mib(*child: str) -> float:
    """Peak memory of a step in a process of its own, in MiB."""
    threads = str(torch.get_num_threads())
    command = [sys.executable, __file__, "--threads", threads, "--child", *child]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return round(json.loads(done.stdout) / 2**20, 1)


def child(kind: str, name: str, side: int, batch: int) -> None:
    """Print the peak of one step in bytes."""
    family, _, arm = name.partition("/")
    step = (
        detector_step(name, side, batch)
        if kind == "detector"
        else trunk_step(family, arm, side, batch, learn=True)
    )
    print(json.dumps(peak_of(step, "cpu")))


def compare_trunks(side: int, batch: int, rounds: int) -> dict[str, Any]:
    """Both families at one image size."""
    found: dict[str, Any] = {}
    for family in ("swin-t", "vit-s"):
        names = list(trunks(family, side))
        pairs = {f"descry / {peer}": ("descry", peer) for peer in names[1:]}
        for title, learn in (("forward", False), ("forward and backward", True)):
            steps = {n: trunk_step(family, n, side, batch, learn=learn) for n in names}
            found[f"{family} {title}"] = compared(timed(steps, rounds), pairs)
        memory = {n: peak_mib("trunk", f"{family}/{n}", str(side), str(batch)) for n in names}
        found[f"{family} forward and backward"]["peak MiB"] = memory
    return found


def compare_detectors(side: int, batch: int, rounds: int) -> dict[str, Any]:
    """Plain and enhanced, and DAT++-T against Swin-T."""
    names = [family + end for family in DETECTORS for end in ("", ENHANCED)]
    pairs = {f"{f}{ENHANCED} / {f}": (f + ENHANCED, f) for f in DETECTORS}
    pairs["dat / swin"] = ("dat", "swin")
    found = compared(timed({n: detector_step(n, side, batch) for n in names}, rounds), pairs)
    found["peak MiB"] = {n: peak_mib("detector", n, str(side), str(batch)) for n in names}
    return found


def lines(result: Mapping[str, Any]) -> list[str]:
    """Ratios as text."""
    text = []
    for group in ("trunks", "detectors"):
        for setting, found in result[group].items():
            for title, part in found.items() if group == "trunks" else [("training step", found)]:
                for name, ratio in part["ratios"].items():
                    low, mid, high = (ratio[k] for k in ("low quartile", "median", "high quartile"))
                    text.append(
                        f"{setting}  {title:30} {name:24} {mid:.3f} [{low:.3f}, {high:.3f}]"
                    )
    return text


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--child", nargs=4, metavar=("KIND", "NAME", "SIDE", "BATCH"))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.child:
        kind, name, side, batch = chosen.child
        child(kind, name, int(side), int(batch))
        return
    start = time.monotonic()
    few = max(3, chosen.rounds // 2)
    result: dict[str, Any] = {
        "command": "python benchmarks/backbones.py",
        "machine": machine() | {"threads": chosen.threads},
        "versions": versions(PACKAGES),
        "rounds": {"224 px": chosen.rounds, "512 px": few},
        "trunks": {
            "224 px, batch 4": compare_trunks(224, 4, chosen.rounds),
            "512 px, batch 1": compare_trunks(512, 1, few),
        },
        "detectors": {"512 px, batch 1": compare_detectors(512, 1, few)},
    }
    result["minutes"] = round((time.monotonic() - start) / 60, 1)
    write_json(chosen.out, result)
    print("\n".join(lines(result)))


if __name__ == "__main__":
    main()

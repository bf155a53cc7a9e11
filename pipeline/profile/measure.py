"""Time and peak memory of one unit of work: an inference or a training step of a detector.

Weights and images are random and seeded. With untrained weights no score passes the threshold,
so that non-maximum suppression has next to nothing to do; a trained model adds that.

Time: steps are warmed up, taken in turn, and given as median and quartiles. Memory: the peak of a
step beyond what the process held before it. Each measurement of it has a fresh child process,
since an allocator keeps what earlier work freed. CPU: growth of the resident set to its peak, from
the operating system. CUDA: growth to PyTorch's peak of allocated bytes. Weights are there before;
activations, gradients and the optimiser's state (training: the second step is measured too) count.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.errors import DescryError
from pipeline.models.build import build_detector
from pipeline.models.params import DetectorSpec, checked

Step = Callable[[], object]
STEPS = 2  # the optimiser's state comes at the end of the first
_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True)
class Load:
    """What is run, and where.

    Attributes
    ----------
    image_size : int
        Side of the square images in pixels.
    batch_size : int
        Images of a step.
    training : bool
        Forward, loss, backward and an AdamW update; otherwise detection.
    device : {"cpu", "cuda"}
    precision : {"fp32", "bf16"}
        bf16: autocast, weights stay fp32.
    """

    image_size: int
    batch_size: int = 1
    training: bool = False
    device: str = "cpu"
    precision: str = "fp32"


def make_step(spec: DetectorSpec, load: Load) -> Step:
    """Build a detector and return its step, which waits for the device before it returns."""
    torch.manual_seed(0)
    detector = build_detector(spec).to(load.device).train(load.training)
    side = load.image_size
    images = list(torch.rand(load.batch_size, 3, side, side, device=load.device))
    box = torch.tensor([[side / 4, side / 4, side / 2, side / 2]], device=load.device)
    target = {"boxes": box, "labels": torch.zeros(1, dtype=torch.int64, device=load.device)}
    autocast = torch.autocast(load.device, torch.bfloat16, enabled=load.precision == "bf16")
    optimiser = torch.optim.AdamW(detector.parameters(), 1e-4) if load.training else None

    def detect() -> None:
        with torch.inference_mode(), autocast:
            detector(images)
        _wait(load.device)

    def learn() -> None:
        assert optimiser is not None
        with autocast:
            losses = detector(images, [target] * load.batch_size)
        optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        _wait(load.device)

    return learn if load.training else detect


def _wait(device: str) -> None:
    """CUDA returns before it has computed."""
    if device == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of repeated steps.

    Attributes
    ----------
    median_ms, q1_ms, q3_ms : float
        Milliseconds of one step: median, first and third quartile.
    images_per_s : float
        Batch size over the median.
    repeats : int
    """

    median_ms: float
    q1_ms: float
    q3_ms: float
    images_per_s: float
    repeats: int


def clock(steps: Sequence[Step], warmup: int, repeats: int) -> list[list[float]]:
    """Seconds of each step, `repeats` of them.

    The steps take turns, so that a machine that gets slower or busier meanwhile treats all of
    them alike: ratios are then steadier than the times themselves.
    """
    for step in steps:
        for _ in range(warmup):
            step()
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(repeats):
        for step, mine in zip(steps, times, strict=True):
            start = time.perf_counter()
            step()
            mine.append(time.perf_counter() - start)
    return times


def summarise(seconds: Sequence[float], batch_size: int) -> Timing:
    """Median, quartiles (linear between neighbours) and throughput."""
    q1, median, q3 = np.percentile(seconds, (25, 50, 75)).tolist()
    return Timing(
        median_ms=round(median * 1e3, 3),
        q1_ms=round(q1 * 1e3, 3),
        q3_ms=round(q3 * 1e3, 3),
        images_per_s=round(batch_size / median, 3),
        repeats=len(seconds),
    )


def peak_bytes(spec: DetectorSpec, load: Load, threads: int) -> int | None:
    """Bytes by which a step raises the peak of memory.

    Parameters
    ----------
    spec : DetectorSpec
    load : Load
    threads : int
        CPU threads of the child.

    Returns
    -------
    int or None
        None for the CPU where the operating system is not Linux: elsewhere a process cannot tell
        its peak since a given moment.

    Raises
    ------
    DescryError
        When the child fails, most likely for want of memory.
    """
    if load.device == "cpu" and not _STATUS.exists():
        return None
    asked = {"spec": asdict(spec), "load": asdict(load), "threads": threads}
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    child = subprocess.run(
        [sys.executable, "-m", "pipeline.profile.measure"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    )
    if child.returncode:
        last = child.stderr.strip().splitlines()[-1:] or [f"exit status {child.returncode}"]
        raise DescryError(
            f"memory of {spec.backbone} {spec.size} at {load.image_size} px, batch "
            f"{load.batch_size}: the measuring process failed ({last[0]}); try a smaller batch or "
            "image, or leave memory out"
        )
    return int(json.loads(child.stdout)["peak"])


def measure(spec: DetectorSpec, load: Load) -> int:
    """Peak of this process during the steps, less what it held before them, in bytes."""
    return peak_of(make_step(spec, load), load.device)


def peak_of(step: Step, device: str) -> int:
    """Bytes by which two steps raise the peak of this process, or of the GPU."""
    cuda = device == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    else:
        _RESET.write_text("5")  # the peak starts anew, see proc(5)
    before = torch.cuda.memory_allocated() if cuda else _status_bytes("VmRSS")
    for _ in range(STEPS):
        step()
    peak = torch.cuda.max_memory_allocated() if cuda else _status_bytes("VmHWM")
    return max(peak - before, 0)


def _status_bytes(field: str) -> int:
    """A field in kB of /proc/self/status, in bytes."""
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise DescryError(f"{_STATUS}: no field {field}; leave memory out on this system")


def main() -> None:
    """Child process: a JSON request on standard input, a JSON answer on standard output."""
    asked = json.load(sys.stdin)
    torch.set_num_threads(asked["threads"])
    peak = measure(checked(DetectorSpec, asked["spec"], "spec"), Load(**asked["load"]))
    sys.stdout.write(json.dumps({"peak": peak}))


if __name__ == "__main__":
    main()

"""Peak memory of a step, beyond what the process held before it.

Each measurement has a fresh child process, since an allocator keeps what earlier work freed.
CPU: growth of the resident set to its peak, from the operating system. CUDA: growth to PyTorch's
peak of allocated bytes. Weights are there before; activations, gradients and the optimiser's
state (training: the second step is measured too) count.
"""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from pipeline.errors import DescryError
from pipeline.models.params import DetectorSpec
from pipeline.profile.step import Load, Step, make_step

STEPS = 2  # the optimiser's state comes at the end of the first
_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


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
        [sys.executable, "-m", "pipeline.profile.memory"],
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
    peak = measure(DetectorSpec(**asked["spec"]), Load(**asked["load"]))
    sys.stdout.write(json.dumps({"peak": peak}))


if __name__ == "__main__":
    main()

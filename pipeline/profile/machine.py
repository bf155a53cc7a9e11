"""What kind of machine a measurement comes from: its make, not its name."""

import os
import platform
from pathlib import Path
from typing import Any

_CPUINFO = Path("/proc/cpuinfo")


def machine(device: str) -> dict[str, Any]:
    """Processor, cores, threads, accelerator and versions, as JSON values."""
    import torch  # here, because the processor's name is asked for where torch must not be
    import torchvision

    about: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "device": device,
    }
    if device == "cuda":
        about["gpu"] = torch.cuda.get_device_name()
        about["cuda"] = torch.version.cuda
    return about


def cpu_model() -> str:
    """The processor's model, as the system names it, or its architecture."""
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()

"""What device there is, asked in a process of its own so that none is held while measuring."""

from typing import Any

import torch

from gpu_pieces.missing import NotHere
from pipeline.models.build import BACKBONES


def run(device: str) -> dict[str, Any]:
    """Kind of device, without any name or number of its own, and the backbones there are."""
    if device != "cuda":
        return {"device": {"name": "cpu", "torch": torch.__version__}, "families": list(BACKBONES)}
    if not torch.cuda.is_available():
        raise NotHere("torch sees no GPU; `--device cpu --tiny` is the smoke test without one")
    found = torch.cuda.get_device_properties(0)
    kind = {
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "memory in GiB": round(found.total_memory / 2**30, 1),
        "multiprocessors": found.multi_processor_count,
        "CUDA": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),
        "torch": torch.__version__,
    }
    return {"device": kind, "families": list(BACKBONES)}

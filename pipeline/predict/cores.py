"""The cores of a machine, shared between decoding and the model."""

import os
from concurrent.futures import ThreadPoolExecutor

# Calls of the model at a time. Decoding and computing never take equally long, so that with one
# call the cores of one wait for the other; a second call fills them.
MODEL_THREADS = 2


def share_cores(device: str, workers: int) -> tuple[int, str]:
    """Divide the cores, and tell PyTorch of its share: else the two get in each other's way.

    Parameters
    ----------
    device : str
        "cpu" or "cuda".
    workers : int
        Decoding processes; -1: half of the cores beside a model on the CPU, all but one beside
        a GPU.

    Returns
    -------
    (int, str)
        Decoding processes, and the device with its number of threads, for run.json: on a CPU the
        last bit of a result may depend on it.
    """
    import torch

    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    there = there or 1
    if workers < 0:
        workers = max(1, there // 2 if device == "cpu" else there - 1)
    if device != "cpu":
        return workers, device
    threads = max(1, there - workers)
    torch.set_num_threads(threads)
    return workers, f"cpu, {threads} threads"


def model_threads() -> ThreadPoolExecutor:
    """Threads that call the model, each with PyTorch's present number of threads.

    A new thread would begin with as many as there are cores.
    """
    import torch

    return ThreadPoolExecutor(
        MODEL_THREADS, "model", torch.set_num_threads, (torch.get_num_threads(),)
    )

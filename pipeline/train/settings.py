"""What a training run is told: plain values, in two groups.

`Settings` decide the result; `Machine` says where and how comfortably it is computed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.cache import CachePlan
from pipeline.data.intensity import Intensity
from pipeline.models.thresholds import OperatingPoint
from pipeline.train.schedule import Optimisation


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides a run's result but the data, the detector and the device.

    Attributes
    ----------
    dataset : str
    modality : tuple of str
        DICOM modalities that the images resemble.
    image_size : int
        Side in pixels of the square that images are fitted into.
    intensity : Intensity
    epochs : int
    batch_size : int
        Images of one process's batch.
    optimisation : Optimisation
    augment : str
        Name of an augmentation recipe.
    seed : int
    train_sizes : tuple of int
        Sides of multi-scale training; empty: `image_size` alone.
    accumulate : int
        Batches of a step.
    ema : float
        Decay of the moving average of the weights; 0: none.
    keep : {"last", "best"}
        Which weights become ``model.pt``.
    precision : {"fp32", "bf16"}
        bf16 is autocast; weights and losses stay fp32.
    deterministic : bool
        Strict: an operation without a deterministic form raises.
    compiler : str
        Backend of torch.compile for backbone and heads; empty: not compiled.
    channels_last : bool
        Memory format of the convolutions.
    gradient_checkpointing : bool
        Recompute the backbone's blocks in the backward pass: less memory, more time.
    """

    dataset: str
    modality: tuple[str, ...]
    image_size: int
    intensity: Intensity
    epochs: int
    batch_size: int
    optimisation: Optimisation
    augment: str
    seed: int
    train_sizes: tuple[int, ...] = ()
    accumulate: int = 1
    ema: float = 0.0
    keep: str = "last"
    precision: str = "fp32"
    deterministic: bool = True
    compiler: str = ""
    channels_last: bool = False
    gradient_checkpointing: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a run is computed; only `device` and the number of processes touch its bits.

    Attributes
    ----------
    device : {"cpu", "cuda"}
    devices : int
        Training processes on this machine, each with its own device.
    workers : int
        Loader processes of each of them.
    cache : CachePlan or None
        Where decoded images are kept; None: they are decoded each time.
    scratch : Path
        Folder for what an interrupted run needs to go on.
    checkpoint_minutes : float
        Time between two checkpoints; 0: one after every step.
    track : bool
        Log with DVCLive.
    """

    device: str = "cpu"
    devices: int = 1
    workers: int = 0
    cache: CachePlan | None = None
    scratch: Path = Path(".descry")
    checkpoint_minutes: float = 5.0
    track: bool = False


@dataclass(frozen=True, slots=True)
class Judge:
    """How a run is judged on its validation split; the evaluation room provides it.

    Attributes
    ----------
    scores : callable
        (COCO file, results) -> {"AP": ..., "AP50": ...}.
    operating_point : callable
        (COCO file, results) -> the scores from which on detections count.
    """

    scores: Callable[[Path, list[dict]], dict[str, Any]]
    operating_point: Callable[[Path, list[dict]], OperatingPoint]

"""What a training run is told: plain values, in two groups.

`Settings` decide the result; `Machine` says where and how comfortably it is computed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Train
from pipeline.data.cache import CachePlan
from pipeline.data.intensity import Intensity
from pipeline.models.thresholds import OperatingPoint

# (COCO file, results) -> {"AP": ..., "AP50": ...}, and the scores from which on detections count;
# how a run is judged on its validation split, which the evaluation room provides
Evaluator = Callable[[Path, list[dict]], tuple[dict[str, Any], OperatingPoint]]


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
    augment : str
        Name of an augmentation recipe.
    train : Train
        Optimisation, precision and what else stands under `train` in params.yaml.
    train_sizes : tuple of int
        Sides of multi-scale training; empty: `image_size` alone.
    compiler : str
        Backend that ``train.compile`` takes for backbone and heads.
    data_terms : str
        Whose the images are and under which licence, for whoever gets the model.
    """

    dataset: str
    modality: tuple[str, ...]
    image_size: int
    intensity: Intensity
    epochs: int
    batch_size: int
    augment: str
    train: Train
    train_sizes: tuple[int, ...] = ()
    compiler: str = "inductor"
    data_terms: str = ""


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
    track : tuple of str
        Names of trackers that hear of every epoch (`pipeline.train.loggers.TRACKERS`).
    """

    device: str = "cpu"
    devices: int = 1
    workers: int = 0
    cache: CachePlan | None = None
    scratch: Path = Path(".descry")
    checkpoint_minutes: float = 5.0
    track: tuple[str, ...] = ()

"""A training run from a converted dataset to a saved model."""

import hashlib
import logging
import os
import platform
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import albumentations as A
import lightning as L
import torch
import torchvision
from torch.utils.data import DataLoader

import pipeline
from pipeline.atomic import write_json
from pipeline.data.dataset import DetectionDataset, EpochSampler, Sample, collate
from pipeline.data.index import CocoIndex
from pipeline.data.intensity import Intensity
from pipeline.errors import DescryError
from pipeline.models.build import DetectorSpec, build_detector
from pipeline.models.detector import Detector
from pipeline.models.inference import detect_split
from pipeline.models.saved import SavedModel
from pipeline.train.history import History
from pipeline.train.module import Optimisation, TrainingModule

INTENDED_USE = "Research only. Not a medical device; not for diagnosis or treatment."
VALIDATIONS = 5  # about so many times a run looks at the validation split


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything about a run but the data and the detector.

    `modality` are the DICOM modalities that the images resemble. `precision` is "fp32" or "bf16"
    (autocast; the losses stay fp32). `workers` are loader processes. `deterministic` is strict:
    an operation without a deterministic form raises.
    """

    dataset: str
    modality: tuple[str, ...]
    image_size: int
    intensity: Intensity
    epochs: int
    batch_size: int
    optimisation: Optimisation
    clip_norm: float
    flip: bool
    seed: int
    precision: str
    deterministic: bool
    device: str
    workers: int


@dataclass(frozen=True, slots=True)
class Judge:
    """How a run is judged on its validation split; the evaluation room provides it.

    Attributes
    ----------
    scores : callable
        (COCO file, results) -> {"AP": ..., "AP50": ...}.
    operating_point : callable
        (COCO file, results) -> (score threshold, how it was chosen).
    """

    scores: Callable[[Path, list[dict]], dict[str, Any]]
    operating_point: Callable[[Path, list[dict]], tuple[float, str]]


def train(coco: Path, out: Path, spec: DetectorSpec, settings: Settings, judge: Judge) -> None:
    """Train from scratch; write ``model.pt``, ``history.csv`` and ``about.json`` into `out`.

    Parameters
    ----------
    coco : Path
        A converted dataset: ``annotations/{train,val}.json`` and ``images/``.
    spec : DetectorSpec
        `num_classes` must fit the dataset's categories.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # must precede CUDA's start
    # Strict mode also fills every new tensor, to make reads of unset memory repeatable. Nothing
    # here reads unset memory, and the filling costs a fifth of a training step on a CPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    training = CocoIndex(coco / "annotations/train.json", coco / "images")
    validation = CocoIndex(coco / "annotations/val.json", coco / "images")
    if len(training) == 0:
        raise DescryError(f"{training.path}: no training images; see {coco / 'report.json'}")
    L.seed_everything(settings.seed, workers=True, verbose=False)
    detector = build_detector(spec)
    about = _about(settings, training)

    def found() -> list[dict]:
        model = SavedModel(detector, spec, about)
        return detect_split(model, validation, batch_size=settings.batch_size)

    history = History(
        out / "history.csv",
        lambda: judge.scores(validation.path, found()),
        max(1, settings.epochs // VALIDATIONS),
    )
    _fit(detector, training, settings, history)
    threshold, source = judge.operating_point(validation.path, found())
    about |= {"score_threshold": threshold, "score_threshold_source": source}
    SavedModel(detector, spec, about).save(out / "model.pt")
    write_json(out / "about.json", about | {"detector": asdict(spec)})


def _fit(detector: Detector, training: CocoIndex, settings: Settings, history: History) -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # importing it set INFO
    module = TrainingModule(detector, settings.optimisation)
    trainer = L.Trainer(
        max_epochs=settings.epochs,
        accelerator={"cuda": "gpu"}.get(settings.device, settings.device),
        devices=1,
        precision="bf16-mixed" if settings.precision == "bf16" else "32-true",
        gradient_clip_val=settings.clip_norm,
        deterministic=settings.deterministic,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=os.isatty(2),
        use_distributed_sampler=False,
        callbacks=[history],
    )
    with warnings.catch_warnings():
        # Lightning advises more loader processes than there are cores to run them.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own affair
        trainer.fit(module, loader(training, settings))


def loader(training: CocoIndex, settings: Settings) -> DataLoader[Sample]:
    """Training batches, shuffled and augmented by the seed and the epoch alone."""
    dataset = DetectionDataset(
        training,
        image_size=settings.image_size,
        intensity=settings.intensity,
        transforms=[A.HorizontalFlip(p=0.5)] if settings.flip else [],
        seed=settings.seed,
    )
    return DataLoader(
        dataset,
        batch_size=min(settings.batch_size, len(training)),
        sampler=EpochSampler(len(training), settings.seed),
        num_workers=settings.workers,
        collate_fn=collate,
        drop_last=True,  # every step has the same number of images
        persistent_workers=settings.workers > 0,
    )


def _about(settings: Settings, training: CocoIndex) -> dict[str, Any]:
    """What the model file says of itself."""
    return {
        "dataset": settings.dataset,
        "modality": list(settings.modality),
        "categories": [list(category) for category in training.categories],
        "intensity": asdict(settings.intensity),
        "image_size": settings.image_size,
        "score_threshold": 0.0,
        "intended_use": INTENDED_USE,
        "training_images": len(training),
        "training_annotations_sha256": hashlib.sha256(training.path.read_bytes()).hexdigest(),
        "seed": settings.seed,
        "epochs": settings.epochs,
        "versions": {
            "descry": pipeline.__version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "python": platform.python_version(),
        },
    }

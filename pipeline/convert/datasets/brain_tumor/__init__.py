"""Brain tumours in MRI: Cheng's MATLAB files, or YOLO folders."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.convert.registry import Dataset
from pipeline.schema import FROZEN


@dataclass(frozen=True, config=FROZEN)
class BrainTumorParams:
    """Which of the layouts in circulation.

    Attributes
    ----------
    layout : str
        ``cheng``, ``yolo``, or ``auto``: whichever of the two the files show.
    plane : str
        Of Kaggle's three folders only ``axial``, ``coronal`` or ``sagittal``; ``all``.
    fold : int
        Of Cheng's five official folds (cvind.mat) the one that is the test split; 0: none, the
        split is then by patient, as it is without cvind.mat.
    classes : tuple of str
        YOLO only: the wanted classes, in id order; for folders without a yaml, all class names
        in index order. Empty: as the yaml says.
    """

    layout: Literal["auto", "cheng", "yolo"] = "auto"
    plane: Literal["all", "axial", "coronal", "sagittal"] = "all"
    fold: Annotated[int, Field(ge=0, le=5)] = 1
    classes: tuple[str, ...] = ()


DATASET = Dataset(
    "brain_tumor",
    "pipeline.convert.datasets.brain_tumor.source:BrainTumor",
    BrainTumorParams,
    markers=(
        *(f"{nest}[0-9]*.mat" for nest in ("", "*/", "*/*/")),
        *(f"{nest}labels" for nest in ("", "*/", "*/*/")),
    ),
    download=(
        "Get one of: Cheng's four zips and cvind.mat from https://figshare.com/articles/dataset/"
        "brain_tumor_dataset/1512427 (CC BY 4.0); Ultralytics' brain-tumor.zip (AGPL-3.0); "
        "Kaggle's davidbroberts/brain-tumor-object-detection-datasets (licence not stated); a "
        "YOLO export of Roboflow. Unpack it into the raw folder."
    ),
    sample_terms=(
        "Brain tumor detection, version 1 "
        "(https://universe.roboflow.com/projettest/brain-tumor-detection-6n4sk/dataset/1), "
        "CC BY 4.0"
    ),
    raw_terms=(
        "one of: Cheng, figshare 1512427, CC BY 4.0; Ultralytics brain-tumor, AGPL-3.0; "
        "Kaggle davidbroberts/brain-tumor-object-detection-datasets, not stated; Roboflow, "
        "each its own"
    ),
    augment="mri",
    modality=("MR",),
)

"""RSNA Pneumonia Detection Challenge 2018: DICOM radiographs and two CSV files."""

from pydantic.dataclasses import dataclass

from pipeline.convert.registry import Dataset
from pipeline.schema import FROZEN

LABELS = "stage_2_train_labels.csv"
IMAGES = "stage_2_train_images"


@dataclass(frozen=True, config=FROZEN)
class RsnaParams:
    """`mapping`: path of RSNA's mapping to NIH patients; empty looks for it in the raw folder."""

    mapping: str = ""


_TERMS = (
    "RSNA Pneumonia Detection Challenge "
    "(https://www.kaggle.com/c/rsna-pneumonia-detection-challenge), any use with "
    "attribution: Shih et al. 2019, Wang et al. 2017"
)
DATASET = Dataset(
    "rsna",
    "pipeline.convert.datasets.rsna.source:Rsna",
    RsnaParams,
    markers=(LABELS, IMAGES),
    download=(
        "Get stage_2_train_labels.csv, stage_2_detailed_class_info.csv and stage_2_train_images "
        "from https://www.kaggle.com/c/rsna-pneumonia-detection-challenge (any use with "
        "attribution: Shih et al. 2019, Wang et al. 2017) and unpack them into one folder."
    ),
    sample_terms=_TERMS,
    raw_terms=_TERMS,
    augment="xray",
    modality=("CR", "DX"),
)

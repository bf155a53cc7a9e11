"""NIH ChestX-ray14: PNG radiographs and two CSV files."""

from pydantic.dataclasses import dataclass

from pipeline.convert.registry import Dataset
from pipeline.schema import FROZEN, NotNegative


@dataclass(frozen=True, config=FROZEN)
class NihParams:
    """`negatives`: `No Finding` images per boxed image."""

    negatives: NotNegative = 1.0


_TERMS = (
    "NIH ChestX-ray14 (https://nihcc.app.box.com/v/ChestXray-NIHCC), no restriction on "
    "use; cite Wang et al., CVPR 2017, and acknowledge the NIH Clinical Center"
)
DATASET = Dataset(
    "nih",
    "pipeline.convert.datasets.nih.source:Nih",
    NihParams,
    markers=("BBox_List_2017*.csv", "Data_Entry_2017*.csv"),
    download=(
        "Get BBox_List_2017.csv, Data_Entry_2017_v2020.csv and the unpacked images_*.tar.gz from "
        "https://nihcc.app.box.com/v/ChestXray-NIHCC (free use; cite Wang et al., CVPR 2017, and "
        "acknowledge the NIH Clinical Center) and put them into one folder."
    ),
    sample_terms=_TERMS,
    raw_terms=_TERMS,
    augment="xray",
    modality=("CR", "DX"),
)

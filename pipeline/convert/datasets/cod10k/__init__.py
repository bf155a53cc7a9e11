"""COD10K: camouflaged animals, with the official Train and Test splits."""

from typing import Literal

from pydantic.dataclasses import dataclass

from pipeline.convert.registry import Dataset
from pipeline.schema import FROZEN

Classes = Literal["single", "super", "sub"]


@dataclass(frozen=True, config=FROZEN)
class Cod10kParams:
    """Which annotation and which class system of COD10K.

    Attributes
    ----------
    annotations : str
        ``json``, ``instance`` (index masks), ``object`` (object masks, loses the instances), or
        ``auto``: the first of these that a split has.
    classes : str
        ``single`` (camouflaged or not), ``super`` (5) or ``sub`` (69).
    noncam : bool
        Keep the images without a camouflaged object as negatives.
    object_boxes : str
        For object masks: one box per ``image``, or per connected ``component``.
    """

    annotations: Literal["auto", "json", "instance", "object"] = "auto"
    classes: Classes = "single"
    noncam: bool = True
    object_boxes: Literal["image", "component"] = "image"


DATASET = Dataset(
    "cod10k",
    "pipeline.convert.datasets.cod10k.source:Cod10k",
    Cod10kParams,
    markers=tuple(
        f"{nest}{folder}"
        for nest in ("", "*/")
        for folder in ("Train/Image", "Test/Image", "*_Image_CAM", "TrainDataset", "TestDataset")
    ),
    download=(
        "Get COD10K-v3 from the links at https://github.com/DengPingFan/SINet (about 2.3 GB "
        "unpacked, non-commercial use only) and unpack it so that Train/ and Test/ lie in the raw "
        "folder."
    ),
    sample_terms="synthetic and not COD10K: drawn by this project, Apache-2.0",
    raw_terms="COD10K (https://github.com/DengPingFan/SINet), non-commercial use only",
    augment="natural",
)

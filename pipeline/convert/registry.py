"""What each dataset is to the pipeline before its files are opened, said once.

A built-in dataset says it once, as `DATASET` in ``pipeline/convert/datasets/<name>``, a module or a
folder, and is found there; a dataset of one's own is an annotated folder. params.yaml is checked
against this, so nothing here may import numpy or torch.
"""

import pkgutil
from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from dataclasses import fields
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from pipeline.convert import datasets
from pipeline.schema import FROZEN

if TYPE_CHECKING:
    from pipeline.convert.records import Source
    from pipeline.data.intensity import Intensity

LayoutName = Literal[
    "auto",
    "coco",
    "voc",
    "yolo",
    "masks",
    "datumaro",
    "labelme",
    "supervisely",
    "qupath",
    "csv",
    "volumes",
    "dicom",
]
PlaneName = Literal["axial", "coronal", "sagittal"]
AugmentName = Literal["none", "flip", "xray", "mri", "microscopy", "natural"]
SHAPES = (
    "COCO (annotations/*.json, *.json, train/*.json, with their images), VOC (Annotations/*.xml "
    "and JPEGImages/, or xml beside the images), YOLO (train/images and train/labels, images/train "
    "and labels/train, images and labels, or obj_train_data), masks (the same with masks for "
    "labels), the JSON files of datumaro, LabelMe, Supervisely or QuPath, CSV files with a row per "
    "box, NIfTI or NRRD volumes with label volumes (imagesTr and labelsTr, or x.nii.gz and "
    "x_seg.nii.gz), or DICOM images with the reports, structure sets or segmentations of them"
)
_NESTS = ("", "*/", "*/*/", "*/*/*/")
ANNOTATED = (
    *(f"{nest}*.{kind}" for nest in _NESTS for kind in ("json", "geojson", "xml")),
    *(f"{nest}{kind}" for nest in _NESTS[:3] for kind in ("labels", "masks", "obj_*_data")),
)
SIGNS = tuple(
    f"{nest}*.{kind}" for nest in _NESTS for kind in ("csv", "nii", "nii.gz", "nrrd", "dcm")
)


@plain_dataclass(frozen=True)
class Dataset:
    """One dataset.

    Attributes
    ----------
    name : str
    source : str
        Module and class of its converter, ``module:Class``.
    params : type
        Of its group in `convert` of params.yaml.
    markers : tuple of str
        Globs, any one of which says "this raw folder is mine".
    signs : tuple of str
        Globs that say so if the folder is no other dataset's.
    download : str
        One or two sentences: what to get, from where, under which terms.
    augment : str or None
        Its augmentation recipe; None: params.yaml has to name one.
    modality : tuple of str
        DICOM modalities like its images (PS3.3 C.7.3.1.1.1); none: not radiology.
    epochs : int
        Passes over the training split.
    supercategory : str
        Of the classes of an annotated folder.
    remark : callable or None
        A sentence for the report about an annotated folder.
    sample_terms, raw_terms : str
        Whose the images are and under which licence, of the sample and of the full data: what a
        model trained on them says. In full on the dataset's card.
    """

    name: str
    source: str
    params: type
    markers: tuple[str, ...]
    download: str
    augment: AugmentName | None = None
    modality: tuple[str, ...] = ()
    epochs: int = 30
    supercategory: str = "object"
    signs: tuple[str, ...] = ()
    remark: Callable[[Path], str] | None = None
    sample_terms: str = ""
    raw_terms: str = ""

    def open(
        self, raw: Path, params: Any = None, *, seed: int = 0, intensity: "Intensity | None" = None
    ) -> "Source":
        """The converter on a raw folder.

        Parameters
        ----------
        raw : Path
        params : Any
            Of the type `params`; None for the defaults.
        seed : int
            Of what the converter draws, if it does.
        intensity : Intensity or None
            From stored values to 8 bits, if it reads DICOM.
        """
        module, _, name = self.source.partition(":")
        kind = getattr(import_module(module), name)
        known = {field.name for field in fields(kind)}
        more = {"dataset": self, "seed": seed, "intensity": intensity}
        wanted = {key: value for key, value in more.items() if key in known and value is not None}
        return kind(raw, self.params() if params is None else params, **wanted)


@dataclass(frozen=True, config=FROZEN)
class FolderParams:
    """Of an annotated folder, with tiling of large slides (pixels).

    Attributes
    ----------
    layout : str
        Which of the layouts; ``auto``: the one that the files show.
    classes : tuple of str
        The wanted classes, in id order; others are dropped and counted. Empty: all, in the order
        that the dataset declares (YOLO, COCO) or sorted (VOC). YOLO folders without a yaml need
        them, in index order. Of masks see `formats.mask_folders.MaskMeaning`.
    masks : str
        ``instances``: a value of a mask is an object; ``classes``: it is a class.
    group : str
        Regular expression that finds in a file's path below the raw folder what may not be
        divided between splits: its first group, else all that it matches. Empty: what the COCO
        file says (``group`` or ``patient_id`` of its images), Roboflow's original name, or the
        Patient ID of a DICOM file; else every image stands for itself.
    voc_origin : int
        Number of the first pixel in VOC files: 1, or 0 as some exporters count.
    plane : str
        Of the slices of volumes.
    channel : str
        How the name of the volume ends that is taken of several of a case; empty: the first.
    tile : int
        Side of the tiles in pixels; 0: none, every image stays whole.
    tile_overlap : int
        Pixels that neighbouring tiles share.
    tile_keep : float
        A box cut by a tile's edge is kept when at least this share of its area is inside.
    """

    layout: LayoutName = "auto"
    classes: tuple[str, ...] = ()
    masks: Literal["instances", "classes"] = "instances"
    group: str = ""
    voc_origin: Literal[0, 1] = 1
    plane: PlaneName = "axial"
    channel: str = ""
    tile: Annotated[int, Field(ge=0)] = 0
    tile_overlap: Annotated[int, Field(ge=0)] = 0
    tile_keep: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5


def annotated(name: str, **more: Any) -> Dataset:
    """A dataset that is an annotated folder, such as one's own."""
    download = f"Put images and annotations there as one of: {SHAPES}."
    told: dict[str, Any] = {"markers": ANNOTATED, "signs": SIGNS, "download": download, **more}
    return Dataset(name, "pipeline.convert.annotated:AnnotatedFolder", FolderParams, **told)


@cache
def built_in() -> dict[str, Dataset]:
    """The datasets of `pipeline.convert.datasets`, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(datasets.__path__))
    return {name: import_module(f"{datasets.__name__}.{name}").DATASET for name in names}


def find(name: str) -> Dataset:
    """The built-in dataset of that name, else one's own."""
    return built_in().get(name) or annotated(name)

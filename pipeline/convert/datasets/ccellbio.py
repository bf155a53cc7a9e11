"""CCellBio (chimeric cell clusters): an adapter, because no release of the dataset is known.

The dataset is announced in T. Nguyen, C. D. Heldermon, C. Toler-Franklin, "Unified Local and
Global Attention Interaction Modeling for Vision Transformers", arXiv 2412.18778 (2024). Its
format is not known to us, so any annotated folder is read. The committed sample is BCCD, a
stand-in.
"""

from pathlib import Path

from pipeline.convert.registry import SHAPES, annotated

STAND_IN = (
    "Stand-in: these are the blood cell images of BCCD (MIT licence, Shenggan/BCCD_Dataset), not "
    "CCellBio. CCellBio has no public release known to us; no figure from them says anything "
    "about it."
)
NOT_PUBLIC = (
    "CCellBio has no public release known to us: this folder was read as the generic layout that "
    "it shows. The committed sample is BCCD, a stand-in."
)


def remark(raw: Path) -> str:
    """What the images are: BCCD's, by the name of the first, or unknown ones."""
    first = "Annotations/BloodImage_00000.xml"
    here = (raw / first).is_file() or any(raw.glob(f"[!.]*/{first}"))
    return STAND_IN if here else NOT_PUBLIC


DATASET = annotated(
    "ccellbio",
    augment="microscopy",
    supercategory="cell",
    remark=remark,
    download=(
        "CCellBio has no public release known to us. Whoever holds it (or any cell images with "
        f"boxes) can put it into the raw folder as one of: {SHAPES}."
    ),
    sample_terms=(
        "BCCD (https://github.com/Shenggan/BCCD_Dataset), MIT, Copyright (c) 2017 shenggan"
    ),
)

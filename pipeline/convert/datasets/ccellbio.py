"""CCellBio (chimeric cell clusters): an adapter, because no release of the dataset is known.

The dataset is announced in T. Nguyen, C. D. Heldermon, C. Toler-Franklin, "Unified Local and
Global Attention Interaction Modeling for Vision Transformers", arXiv 2412.18778 (2024). Its
format is not known to us, so any annotated folder is read. The committed sample is BCCD, a
stand-in.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pipeline.convert.annotated import SHAPES, AnnotatedFolder
from pipeline.convert.formats.folders import bases
from pipeline.convert.records import Ledger, Record

STAND_IN = (
    "Stand-in: these are the blood cell images of BCCD (MIT licence, Shenggan/BCCD_Dataset), not "
    "CCellBio. CCellBio has no public release known to us; no figure from them says anything "
    "about it."
)
NOT_PUBLIC = (
    "CCellBio has no public release known to us: this folder was read as the generic layout that "
    "it shows. The committed sample is BCCD, a stand-in."
)


@dataclass(frozen=True)
class CCellBio(AnnotatedFolder):
    """Cell images in an annotated folder."""

    name: str = field(default="ccellbio", kw_only=True)
    supercategory: ClassVar[str] = "cell"
    download: ClassVar[str] = (
        "CCellBio has no public release known to us. Whoever holds it (or any cell images with "
        f"boxes) can put it into the raw folder as one of: {SHAPES}."
    )

    def scan(self, ledger: Ledger) -> Iterator[Record]:
        """Yield images (or tiles); see `AnnotatedFolder.scan`."""
        ledger.note(STAND_IN if _is_bccd(self.raw) else NOT_PUBLIC)
        yield from super().scan(ledger)


def _is_bccd(raw: Path) -> bool:
    """Whether the images are BCCD's, by the name of the first."""
    return any((base / "Annotations" / "BloodImage_00000.xml").is_file() for base in bases(raw))

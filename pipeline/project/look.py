"""What a folder of annotated images holds: its layout, images, boxes and classes."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pipeline.convert.annotated import LAYOUTS, AnnotatedFolder
from pipeline.convert.records import Ledger
from pipeline.convert.registry import FolderParams
from pipeline.errors import DescryError


@dataclass(frozen=True, slots=True)
class LookedAt:
    """What a conversion would read.

    Attributes
    ----------
    layout : str
        One of `pipeline.convert.annotated.LAYOUTS`.
    images : int
    boxes : Counter
        Class -> number; empty for masks, whose objects are found when they are decoded.
    dropped : int
        Files, images and rows that would be left out.
    """

    layout: str
    images: int
    boxes: Counter[str]
    dropped: int

    def __str__(self) -> str:
        classes = ", ".join(f"{name} {count}" for name, count in self.boxes.items())
        text = f"{self.layout} layout, {self.images} images, {self.boxes.total()} boxes"
        text += f" ({classes})" if classes else ""
        return text + (f"; {self.dropped} entries would be dropped" if self.dropped else "")


def look(folder: Path, layout: str = "auto") -> LookedAt:
    """Read a folder's annotations, and no pixels, as its conversion will.

    Raises
    ------
    DescryError
        When the folder is missing, or shows no layout or more than one.
    """
    if not folder.is_dir():
        raise DescryError(f"--data {folder}: no such folder")
    if layout not in ("auto", *LAYOUTS):
        raise DescryError(f"--layout {layout}: must be one of auto, {', '.join(LAYOUTS)}")
    source = AnnotatedFolder(folder, FolderParams(layout=layout))  # type: ignore[arg-type]
    ledger = Ledger()
    images, boxes = 0, Counter[str]()
    for record in source.scan(ledger):
        images += 1
        boxes.update(box.label for box in record.boxes)
    counts = Counter(dict(sorted(boxes.items())))
    return LookedAt(source.layout(), images, counts, len(ledger.drops))

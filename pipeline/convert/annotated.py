"""Images with COCO, VOC or YOLO files or masks: datasets of one's own, and what is kept so.

PNG, JPEG, TIFF, BMP, WebP and single-frame DICOM are read alike. What must not be divided between
splits (a patient, a slide) is told by the file names, by the COCO file or by the DICOM headers.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pipeline.convert.formats.coco import find_coco
from pipeline.convert.formats.folders import Groups, Layout, Selection, bases
from pipeline.convert.formats.mask_folders import MaskLayout, Meaning, find_masks, with_boxes
from pipeline.convert.formats.pictures import read_picture
from pipeline.convert.formats.slides import read_tile
from pipeline.convert.formats.tiles import Tiler, Tiling
from pipeline.convert.formats.voc import open_voc
from pipeline.convert.formats.yolo import find_folders, open_yolo
from pipeline.convert.records import Ledger, Picture, Record, require
from pipeline.data.intensity import Intensity
from pipeline.errors import DescryError

LAYOUTS = ("auto", "coco", "voc", "yolo", "masks")
SHAPES = (
    "COCO (annotations/*.json, *.json, or train/_annotations.coco.json, with their images), "
    "VOC (Annotations/*.xml and JPEGImages/), YOLO (train/images and train/labels, images/train "
    "and labels/train, or images and labels), or masks (the same with masks for labels)"
)


@dataclass(frozen=True)
class AnnotatedFolder:
    """Images with boxes or masks in a folder, cut into tiles on request.

    Attributes
    ----------
    raw : Path
        The folder with the annotated images (or one folder above them).
    layout : str
        ``coco``, ``voc``, ``yolo``, ``masks``, or ``auto``: the one that the files show.
    classes : tuple of str
        The wanted classes, in id order; others are dropped and counted. Empty: all, in the order
        that the dataset declares (YOLO, COCO) or sorted (VOC). YOLO folders without a yaml need
        them, in index order. Of masks see `formats.mask_folders.Meaning`.
    masks : str
        ``instances``: a value of a mask is an object; ``classes``: it is a class.
    group : str
        Regular expression that finds in a file's path below `raw` what may not be divided between
        splits: its first group, else all that it matches. Empty: what the COCO file says
        (``group`` or ``patient_id`` of its images), Roboflow's original name, or the Patient ID
        of a DICOM file; else every image stands for itself.
    tile : int
        Side of the tiles in pixels; 0: none, every image stays whole.
    tile_overlap : int
        Pixels that neighbouring tiles share.
    tile_keep : float
        A box cut by a tile's edge is kept when at least this share of its area is inside.
    intensity : Intensity
        From the stored values of DICOM files to 8 bits.
    name : str
        What the dataset is called.
    """

    raw: Path
    layout: str = "auto"
    classes: tuple[str, ...] = ()
    masks: str = "instances"
    group: str = ""
    tile: int = 0
    tile_overlap: int = 0
    tile_keep: float = 0.5
    intensity: Intensity = field(default_factory=Intensity)
    name: str = field(default="own", kw_only=True)

    supercategory: ClassVar[str] = "object"
    markers: ClassVar[tuple[str, ...]] = (
        "*.json",
        *(f"{nest}_annotations.coco.json" for nest in ("*/", "*/*/")),
        *(f"{nest}{folder}" for nest in ("", "*/") for folder in ("Annotations", "annotations")),
        *(f"{nest}{kind}" for nest in ("", "*/", "*/*/") for kind in ("labels", "masks")),
    )
    download: ClassVar[str] = f"Put images and annotations there as one of: {SHAPES}."

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            allowed = ", ".join(LAYOUTS)
            raise DescryError(f"{self.name}: layout={self.layout!r}: allowed are {allowed}")
        self._tiling()
        self._selection()
        self._groups()

    def _tiling(self) -> Tiling:
        return Tiling(self.tile, self.tile_overlap, self.tile_keep)

    @cached_property
    def _names(self) -> list[str]:
        """Class names by id, as the last scan found them; no field, hence no parameter."""
        return []

    def _selection(self) -> Selection:
        return Selection(tuple(self.classes))

    def _meaning(self) -> Meaning:
        return Meaning(self.masks, tuple(self.classes))

    def _groups(self) -> Groups:
        return Groups(self.raw, self.group)

    def scan(self, ledger: Ledger) -> Iterator[Record]:
        """Yield images (or tiles) by split folder and name.

        Raises
        ------
        DescryError
            When no layout (or more than one) is there, its class names are unusable, or `group`
            finds nothing in a path.
        """
        self._names.clear()
        layout = self._open()
        records = self._groups().records(layout.records(ledger), ledger)
        if self.tile and isinstance(layout, MaskLayout):
            raise DescryError(
                f"{self.name}: tile={self.tile}: images with masks are not cut; cut both before"
            )
        if self.tile:
            yield from Tiler(self.raw, self._tiling()).records(records, ledger)
        else:
            yield from records
        self._names.extend(layout.names())

    def categories(self) -> list[tuple[str, str]]:
        """The classes wanted, or those of the dataset."""
        return [(name, self.supercategory) for name in self._names]

    def read(self, record: Record) -> Picture:
        """Decode one image or tile; see `Source.read`."""
        if "mask" in record.attributes:
            picture = read_picture(self.raw, record, self.intensity)
            return with_boxes(picture, self.raw, record, self._meaning())
        return read_tile(self.raw, record, self.intensity)

    def _open(self) -> Layout:
        """Open the one layout that the files show (or that was asked for)."""
        require(self.raw, "the raw folder", self.download)
        found = {}
        for base in bases(self.raw):
            here = self._open_at(base)
            found.update({f"{name} in {base}": layout for name, layout in here.items()})
            if found and base == self.raw:
                break
        if len(found) == 1:
            return next(iter(found.values()))
        if found:
            raise DescryError(
                f"{self.raw}: holds more than one dataset ({'; '.join(found)}). Set layout, or "
                "keep one of them."
            )
        raise DescryError(
            f"{self.raw}: layout={self.layout}, and no folder is as expected for "
            f"it. Known are {SHAPES}."
        )

    def _open_at(self, base: Path) -> dict[str, Layout]:
        """Layouts that begin at `base`, among those asked for."""
        selection = self._selection()
        wanted = LAYOUTS[1:] if self.layout == "auto" else (self.layout,)
        found: dict[str, Layout | None] = {}
        if "coco" in wanted:
            found["coco"] = find_coco(self.raw, base, selection)
        if "voc" in wanted:
            found["voc"] = open_voc(self.raw, base, selection)
        labels, masks = find_folders(base), find_masks(base)
        if masks and not any(pair.truth.is_dir() for pair in labels):
            labels = []  # else images by themselves count as YOLO's, which says what is missing
        if "yolo" in wanted and labels:
            found["yolo"] = open_yolo(self.raw, [base], selection)
        if "masks" in wanted and masks:
            found["masks"] = MaskLayout(self.raw, masks, self._meaning())
        return {name: layout for name, layout in found.items() if layout is not None}

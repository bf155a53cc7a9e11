"""Images with boxes or masks as tools write them: datasets of one's own, and what is kept so.

PNG, JPEG, TIFF, BMP, WebP and single-frame DICOM are read alike. What must not be divided between
splits (a patient, a slide) is told by the file names, by the COCO file or by the DICOM headers.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import get_args

from pipeline.convert.formats.box_tables import find_tables
from pipeline.convert.formats.coco import find_coco
from pipeline.convert.formats.folders import Groups, Layout, Selection, bases
from pipeline.convert.formats.mask_folders import MaskLayout, MaskMeaning, find_masks, with_boxes
from pipeline.convert.formats.pictures import files_below
from pipeline.convert.formats.slides import read_tile
from pipeline.convert.formats.tiles import Tiler, Tiling
from pipeline.convert.formats.tools import TOOLS, find_tools
from pipeline.convert.formats.voc import open_voc
from pipeline.convert.formats.volumes import VolumeLayout, find_volumes, read_slice
from pipeline.convert.formats.yolo import find_folders, open_yolo
from pipeline.convert.records import Ledger, Picture, Record
from pipeline.convert.registry import SHAPES, Dataset, FolderParams, LayoutName, annotated
from pipeline.data.intensity import Intensity
from pipeline.errors import DescryError

LAYOUTS = get_args(LayoutName)[1:]  # "auto" is none of them


@dataclass(frozen=True)
class AnnotatedFolder:
    """Images with boxes or masks in a folder, cut into tiles on request.

    Attributes
    ----------
    raw : Path
        The folder with the annotated images (or one folder above them).
    params : FolderParams
    intensity : Intensity
        From the stored values of DICOM files to 8 bits.
    dataset : Dataset
        Which it is.
    """

    raw: Path
    params: FolderParams = field(default_factory=FolderParams)
    intensity: Intensity = field(default_factory=Intensity)
    dataset: Dataset = field(default_factory=lambda: annotated("own"))

    def __post_init__(self) -> None:
        self._tiling()
        self._selection()
        self._groups()

    @property
    def name(self) -> str:
        """What the dataset is called."""
        return self.dataset.name

    def _tiling(self) -> Tiling:
        return Tiling(self.params.tile, self.params.tile_overlap, self.params.tile_keep)

    @cached_property
    def _names(self) -> list[str]:
        """Class names by id, as the last scan found them; no field, hence no parameter."""
        return []

    @cached_property
    def _volumes(self) -> VolumeLayout:
        """The layout, whose files say what their values mean."""
        layout = self._open()[1]
        assert isinstance(layout, VolumeLayout)
        return layout

    def _selection(self) -> Selection:
        return Selection(self.params.classes)

    def _meaning(self) -> MaskMeaning:
        return MaskMeaning(self.params.masks, self.params.classes)

    def _groups(self) -> Groups:
        return Groups(self.raw, self.params.group)

    def scan(self, ledger: Ledger) -> Iterator[Record]:
        """Yield images (or tiles) by split folder and name.

        Raises
        ------
        DescryError
            When no layout (or more than one) is there, its class names are unusable, or `group`
            finds nothing in a path.
        """
        self._names.clear()
        if self.dataset.remark is not None:
            ledger.note(self.dataset.remark(self.raw))
        _, layout = self._open()
        records = self._groups().records(layout.records(ledger), ledger)
        if self.params.tile and isinstance(layout, VolumeLayout):
            raise DescryError(
                f"{self.name}: tile={self.params.tile}: slices of volumes are not cut into tiles"
            )
        if self.params.tile:
            yield from Tiler(self.raw, self._tiling()).records(records, ledger)
        else:
            yield from records
        self._names.extend(layout.names())

    def categories(self) -> list[tuple[str, str]]:
        """The classes wanted, or those of the dataset."""
        return [(name, self.dataset.supercategory) for name in self._names]

    def read(self, record: Record) -> Picture:
        """Decode one image or tile; see `Source.read`."""
        if "slice" in record.attributes:
            return read_slice(self.raw, record, self.intensity, self._volumes.meaning)
        if "instance" in record.attributes:
            from pipeline.convert.formats.dicom import read_dicom

            return read_dicom(self.raw, record, self.intensity)
        if "mask" in record.attributes:
            picture = read_tile(self.raw, record, self.intensity)
            return with_boxes(picture, self.raw, record, self._meaning(), self.params.tile_keep)
        return read_tile(self.raw, record, self.intensity)

    def layout(self) -> str:
        """Which of `LAYOUTS` it is.

        Raises
        ------
        DescryError
            When there is none, or more than one.
        """
        return self._open()[0]

    def _open(self) -> tuple[str, Layout]:
        """Open the one layout that the files show (or that was asked for)."""
        outer = bases(self.raw)
        deeper = [base for folder in outer[1:] for base in bases(folder)[1:]]
        found: dict[Path, dict[str, Layout]] = {}
        for level in (outer[:1], outer[1:], deeper):
            found = {base: here for base in level if (here := self._open_at(base))}
            if found:
                break
        several = [f"{name} in {base}" for base, here in found.items() for name in here]
        if len(several) == 1:
            return next(iter(next(iter(found.values())).items()))
        if found:
            raise DescryError(
                f"{self.raw}: holds more than one dataset ({'; '.join(several)}). Set layout, or "
                "keep one of them."
            )
        if self.params.layout in ("auto", "dicom"):
            from pipeline.convert.formats.dicom_objects import find_dicom

            objects = find_dicom(self.raw, self.raw, self._selection())
            if objects is not None:
                return "dicom", objects
        alone = find_coco(self.raw, self.raw, self._selection(), alone=True)
        if alone is not None and self.params.layout in ("auto", "coco"):
            return "coco", alone
        raise DescryError(
            f"{self.raw}: layout={self.params.layout}, and no folder is as expected for "
            f"it. Known are {SHAPES}."
        )

    def _open_at(self, base: Path) -> dict[str, Layout]:
        """Layouts that begin at `base`, among those asked for."""
        selection, asked = self._selection(), self.params.layout
        wanted = LAYOUTS if asked == "auto" else (asked,)
        found: dict[str, Layout | None] = {}
        if "coco" in wanted:
            found["coco"] = find_coco(self.raw, base, selection)
        if "voc" in wanted:
            found["voc"] = open_voc(self.raw, base, selection, self.params.voc_origin)
        if set(TOOLS) & set(wanted):
            tools = find_tools(self.raw, base, selection)
            found |= {tool: layout for tool, layout in tools.items() if tool in wanted}
        if "volumes" in wanted:
            plane, channel = self.params.plane, self.params.channel
            found["volumes"] = find_volumes(self.raw, base, self._meaning, plane, channel)
        labels, masks = find_folders(base), find_masks(base)
        if found.get("volumes"):
            masks = []
        labelled = any(files_below(pair.truth, {".txt"}) for pair in labels)
        others = bool(masks) or any(layout is not None for layout in found.values())
        if "csv" in wanted and not labelled and not others:
            found["csv"] = find_tables(self.raw, base, selection)
            others = found["csv"] is not None
        # Images by themselves count as YOLO's, which says what is missing.
        if "yolo" in wanted and labels and (labelled or not others):
            found["yolo"] = open_yolo(self.raw, [base], selection)
        if "masks" in wanted and masks:
            found["masks"] = MaskLayout(self.raw, masks, self._meaning())
        return {name: layout for name, layout in found.items() if layout is not None}

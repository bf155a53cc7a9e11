"""COD10K: camouflaged animals, from the JSON, the index masks or the object masks of a release.

Source: Fan, Ji, Sun, Cheng, Shen, Shao, "Camouflaged Object Detection", CVPR 2020, and Fan, Ji,
Cheng, Shao, "Concealed Object Detection", TPAMI 2022. The layouts are in `cod10k_layout`, the
file names, which alone state the class, in `cod10k_names`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from pipeline.convert.datasets.cod10k import DATASET, Cod10kParams
from pipeline.convert.datasets.cod10k.json import ImageAnnotations
from pipeline.convert.datasets.cod10k.layout import SplitPaths, find_layout
from pipeline.convert.datasets.cod10k.names import (
    ParsedName,
    category_list,
    label_of,
    parse_name,
)
from pipeline.convert.datasets.cod10k.truth import (
    SplitAnnotations,
    compare_with_listing,
    drop_image,
    drop_unseen,
    drop_unused_masks,
    load_truth,
    measure,
)
from pipeline.convert.formats.folders import images_in, relative
from pipeline.convert.formats.pictures import read_ordinary
from pipeline.convert.records import Box, Ledger, Picture, Record, Unreadable
from pipeline.errors import DescryError

_NONCAM_OBJECTS = "objects annotated in a NonCAM image"


@dataclass(frozen=True)
class Cod10k:
    """COD10K in any known packing, with the official Train and Test splits.

    Attributes
    ----------
    raw : Path
        The folder that holds ``Train/`` and ``Test/`` (or a folder that does).
    params : Cod10kParams
    """

    raw: Path
    params: Cod10kParams = field(default_factory=Cod10kParams)

    name: ClassVar[str] = DATASET.name

    def scan(self, ledger: Ledger) -> Iterator[Record]:
        """Yield the records of Train, then of Test, each in the order of the file names.

        Raises
        ------
        DescryError
            When the layout is not recognised, a split or its annotations are missing, or a JSON
            is malformed.
        """
        layout = find_layout(self.raw)
        ledger.note(f"layout: {layout.name}")
        for places in layout.splits:
            yield from self._scan_split(places, ledger)

    def categories(self) -> list[tuple[str, str]]:
        """One class, the 5 super-classes or the 69 sub-classes, present or not."""
        return category_list(self.params.classes)

    def _scan_split(self, places: SplitPaths, ledger: Ledger) -> Iterator[Record]:
        """Records of one split; what has no image or no annotation is dropped."""
        truth = load_truth(places, self.params.annotations, self.raw, ledger)
        images = images_in(places.images, self.raw, ledger)
        if not images:
            raise DescryError(f"{places.images}: holds no images. {DATASET.download}")
        contradictions = 0
        for stem, file in images.items():
            path, entry = (
                relative(self.raw, file),
                truth.entries.get(stem, ImageAnnotations(file.name)),
            )
            try:
                name = self._usable(stem, entry)
            except Unreadable as problem:
                drop_image(path, entry, problem, ledger)
                continue
            contradictions += not name.agrees
            if entry.mask:
                ledger.claim(entry.mask)
            yield self._record(path, places.split, name, entry, truth)
        if contradictions:
            ledger.note(
                f"{places.split}: in {contradictions} file names the number of the class "
                "contradicts its name; the name was taken"
            )
        drop_unseen(truth, images.keys(), relative(self.raw, places.images), ledger)
        drop_unused_masks(places, self.raw, ledger)
        compare_with_listing(truth, images.keys(), places, ledger)

    def _usable(self, stem: str, entry: ImageAnnotations) -> ParsedName:
        """The parsed name of an image that can be used; else `Unreadable` says why not."""
        name = parse_name(stem)
        if name is None:
            if stem.lower().startswith(("camourflage", "camouflage")):
                raise Unreadable("CAMO image, not of COD10K")
            raise Unreadable("file name is not of the COD10K pattern")
        if not name.camouflaged:
            if not self.params.noncam:
                raise Unreadable("NonCAM image left out", "noncam=False")
            if entry.boxes:
                raise Unreadable(_NONCAM_OBJECTS)
        elif not entry.boxes and not entry.mask:
            raise Unreadable("image without annotation", "a CAM image must have an object")
        elif label_of(name, self.params.classes) is None:
            told = "-".join(name.stated)
            raise Unreadable(
                "unknown class", f"{told!r} is not one of the {self.params.classes}-classes"
            )
        return name

    def _record(
        self,
        path: str,
        split: str,
        name: ParsedName,
        entry: ImageAnnotations,
        truth: SplitAnnotations,
    ) -> Record:
        """The record of a usable image."""
        stem = Path(path).stem
        optional = {
            "camouflaged": name.camouflaged,
            "boxes_from": truth.route if entry.boxes or entry.mask else None,
            "super_class": name.super_class,
            "sub_class": name.sub_class or name.stated[1] or None,
            "mask": entry.mask or None,
            "listed_objects": truth.listed.get(stem),
        }
        attributes = {key: value for key, value in optional.items() if value is not None}
        label = label_of(name, self.params.classes) or ""
        boxes = tuple(replace(box, label=label) for box in entry.boxes)
        return Record(f"{split}/{stem}", path, boxes, "", split, entry.size, None, attributes)

    def read(self, record: Record) -> Picture:
        """Decode an image and, on the mask routes, measure its boxes.

        Raises
        ------
        Unreadable
            When the image or its mask is missing, corrupt or empty, or their sizes differ.
        """
        picture = read_ordinary(self.raw, record)
        height, width = picture.pixels.shape[:2]
        if "mask" not in record.attributes:
            if record.boxes and not any(_touches(box, width, height) for box in picture.boxes):
                raise Unreadable("no box lies inside the image", f"{width} x {height}")
            return picture
        boxes, notes = self._boxes_of_mask(record, (width, height))
        if bool(boxes) != record.attributes["camouflaged"]:
            reason = _NONCAM_OBJECTS if boxes else "empty mask"
            raise Unreadable(reason, str(record.attributes["mask"]))
        return replace(picture, boxes=boxes, notes=picture.notes + notes)

    def _boxes_of_mask(
        self, record: Record, size: tuple[int, int]
    ) -> tuple[tuple[Box, ...], tuple[str, ...]]:
        """Boxes and notes of a record whose annotation is a mask."""
        mask, route = str(record.attributes["mask"]), str(record.attributes["boxes_from"])
        apart = self.params.object_boxes == "component"
        found, notes = measure(self.raw, mask, route, size, apart)
        listed = record.attributes.get("listed_objects")
        if route == "instance" and listed not in (None, len(found)):
            notes = (*notes, "the text list gives another number of objects than the mask")
        name = parse_name(Path(record.path).stem)
        label = label_of(name, self.params.classes) if name else None
        boxes = (Box(*e, label or "", f"{mask}:{n}", mask=shape) for n, (e, shape) in found)
        return tuple(boxes), notes


def _touches(box: Box, width: int, height: int) -> bool:
    """Whether any of the box is inside the image; a CAM image without a box is no negative."""
    return box.x < width and box.y < height and box.x + box.width > 0 and box.y + box.height > 0

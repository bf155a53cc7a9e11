"""Folders of images with a mask each: a value per object, or a value per class.

A mask has the name of its image, or that and ``_mask`` or ``_masks``. An empty mask makes a
negative; an image without a mask may be anything and is dropped.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from pipeline.convert.formats.folders import (
    FolderPair,
    find_pairs,
    images_in,
    match_names,
    name_of,
    original_name,
    relative,
)
from pipeline.convert.formats.masks import (
    Found,
    Mask,
    component_objects,
    foreground,
    has_soft_edges,
    index_objects,
    mask_of,
    without_void,
)
from pipeline.convert.formats.pictures import displayed_size, files_below
from pipeline.convert.formats.tiles import clip
from pipeline.convert.records import Box, Ledger, Picture, Record, Unreadable
from pipeline.data.images import EXTENSIONS
from pipeline.errors import DescryError

_ENDINGS = ("_masks", "_mask", "")
CUT = "tile with less of an object than tile_keep, which has no box there"
VOID = "pixels of value 255 count as not labelled"
_OBJECT = "object"  # the class of instances that were given no name


@dataclass(frozen=True, slots=True)
class MaskMeaning:
    """What the values of masks say; 0 is background.

    Attributes
    ----------
    kind : str
        ``instances``: a value is an object. ``classes``: value n is the nth class, whose objects
        are its 8-connected parts; with a single class all that is not background is of it.
    classes : tuple of str
        ClassNames; for instances one, or none.

    Raises
    ------
    DescryError
        When the names do not go with the kind.
    """

    kind: str
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.kind == "classes" and not self.classes:
            raise DescryError("masks=classes: classes must name them, in the order of their values")
        if self.kind == "instances" and len(self.classes) > 1:
            raise DescryError(
                f"masks=instances: objects are of one class, not of {len(self.classes)}; give one "
                "name in classes, or masks=classes"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in id order."""
        return self.classes or (_OBJECT,)

    def objects(self, mask: Mask, file: str) -> tuple[list[tuple[str, int, Found]], bool]:
        """Class, number, extent and mask of every object; whether there are void pixels.

        Raises
        ------
        Unreadable
            When a value is of no class, or the values are not exact and mean more than inside and
            outside.
        """
        if self.kind == "classes" and len(self.classes) == 1:
            return _parts(self.classes[0], foreground(mask.values)), False
        if not mask.exact or has_soft_edges(mask.values):
            why = "saved with soft edges" if mask.exact else "a JPEG"
            raise Unreadable(
                "mask values are not exact", f"{file}: {why}; save it as PNG, unscaled"
            )
        values, void = without_void(mask)
        if self.kind == "instances":
            objects = [(self.names[0], value, found) for value, found in index_objects(values)]
            return objects, void
        top = int(values.max())
        if top > len(self.classes):
            detail = f"{file}: {top}, and there are {len(self.classes)} classes"
            raise Unreadable("mask value without a class", detail)
        by_class = enumerate(self.classes, start=1)
        return [part for v, name in by_class for part in _parts(name, values == v)], void


def _parts(name: str, pixels: np.ndarray) -> list[tuple[str, int, Found]]:
    """The 8-connected parts of the pixels (H, W, bool) of a class, as its objects."""
    found, _ = component_objects(pixels, 1)
    return [(name, number, one) for number, one in enumerate(found, start=1)]


@dataclass(slots=True)
class MaskLayout:
    """One dataset of images and masks; boxes are measured where pixels are read (`with_boxes`)."""

    raw: Path
    pairs: list[FolderPair]
    meaning: MaskMeaning

    def names(self) -> list[str]:
        """Class names in id order, used or not."""
        return list(self.meaning.names)

    def records(self, ledger: Ledger) -> Iterator[Record]:
        """Yield one record per image with a mask (see `formats.folders.Layout`)."""
        for pair in self.pairs:
            masks, images = (
                _by_image(pair, self.raw, ledger),
                images_in(pair.images, self.raw, ledger),
            )
            match = match_names(images, masks)
            for stem, image in images.items():
                path, mask = relative(self.raw, image), masks.pop(match.pairs.get(stem, ""), None)
                if mask is None:
                    ledger.drop("image", path, "image without annotation")
                    continue
                ledger.claim(mask)
                key, group = f"{pair.key}/{stem}".lstrip("/"), original_name(image.stem) or ""
                yield Record(key, path, (), group, pair.split, attributes={"mask": mask})
            for mask in masks.values():
                ledger.drop("file", mask, "mask without image")


def find_masks(base: Path) -> list[FolderPair]:
    """Image and mask folders below `base`; see `find_pairs`."""
    pairs = find_pairs(base, "masks")
    return pairs if any(pair.truth.is_dir() for pair in pairs) else []


def with_boxes(
    picture: Picture, raw: Path, record: Record, meaning: MaskMeaning, keep: float
) -> Picture:
    """The picture of a record with the boxes that its mask gives, of a tile by the tiles' rule.

    Raises
    ------
    Unreadable
        When the mask cannot be used.
    """
    mask = str(record.attributes["mask"])
    height, width = picture.pixels.shape[:2]
    size = (width, height) if record.crop is None else displayed_size(raw / record.path)
    objects, void = _objects(raw, mask, size or (width, height), meaning)
    boxes = tuple(
        Box(*extent, name, f"{mask}:{name} {n}", mask=shape) for name, n, (extent, shape) in objects
    )
    notes = (*picture.notes, *([VOID] if void else []))
    if record.crop is not None:
        boxes, cut = _in_tile(boxes, record.crop, keep)
        notes += (CUT,) if cut else ()
    return replace(picture, boxes=boxes, notes=notes)


@lru_cache(maxsize=1)
def _objects(
    raw: Path, mask: str, size: tuple[int, int], meaning: MaskMeaning
) -> tuple[list[tuple[str, int, Found]], bool]:
    """The objects of a whole mask, once for all tiles that a worker gets in a row."""
    return meaning.objects(mask_of(raw, mask, size), mask)


def _in_tile(
    boxes: tuple[Box, ...], tile: tuple[int, int, int, int], keep: float
) -> tuple[tuple[Box, ...], bool]:
    """Boxes in the frame of a tile, cut to it if `keep` of them is inside; whether one is less."""
    pieces = [(box, piece) for box in boxes if (piece := clip(box, tile)) is not None]
    kept = tuple(
        replace(piece, x=piece.x - tile[0], y=piece.y - tile[1])
        for box, piece in pieces
        if piece.width * piece.height >= keep * box.width * box.height
    )
    return kept, len(kept) < len(pieces)


def _by_image(pair: FolderPair, raw: Path, ledger: Ledger) -> dict[str, str]:
    """Path of the mask by the stem of its image, sorted."""
    found: dict[str, str] = {}
    for file in files_below(pair.truth, EXTENSIONS) if pair.truth.is_dir() else ():
        name = name_of(file, pair.truth)
        stem = name.removesuffix(next(e for e in _ENDINGS if name.endswith(e)))
        if stem in found:
            ledger.drop("file", relative(raw, file), "another mask of the same image", found[stem])
        else:
            found[stem] = relative(raw, file)
    return found

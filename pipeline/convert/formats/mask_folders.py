"""Folders of images with a mask each: a value per object, or a value per class.

A mask has the name of its image, or that and ``_mask`` or ``_masks``. An empty mask makes a
negative; an image without a mask may be anything and is dropped.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.convert.formats.folders import (
    FolderPair,
    find_pairs,
    images_in,
    original_name,
    relative,
)
from pipeline.convert.formats.masks import (
    Extent,
    component_extents,
    foreground,
    index_extents,
    mask_of,
)
from pipeline.convert.records import Box, Ledger, Picture, Record, Unreadable
from pipeline.data.images import EXTENSIONS
from pipeline.errors import DescryError

_ENDINGS = ("_masks", "_mask", "")
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

    def objects(self, values: np.ndarray, mask: str) -> list[tuple[str, int, Extent]]:
        """Class, number within it and extent of every object in a mask (H, W).

        Raises
        ------
        Unreadable
            When a value is of no class.
        """
        if self.kind == "instances":
            return [(self.names[0], value, extent) for value, extent in index_extents(values)]
        if len(self.classes) == 1:
            by_class = [(self.classes[0], foreground(values))]
        else:
            top = int(values.max())
            if top > len(self.classes):
                detail = f"{mask}: {top}, and there are {len(self.classes)} classes"
                raise Unreadable("mask value without a class", detail)
            by_class = [(name, values == v) for v, name in enumerate(self.classes, start=1)]
        return [
            (name, number, extent)
            for name, pixels in by_class
            for number, extent in enumerate(component_extents(pixels, 1)[0], start=1)
        ]


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
            masks = _by_image(pair, self.raw, ledger)
            for stem, image in images_in(pair.images, self.raw, ledger).items():
                path, mask = relative(self.raw, image), masks.pop(stem, None)
                if mask is None:
                    ledger.drop("image", path, "image without annotation")
                    continue
                ledger.claim(mask)
                key, group = f"{pair.key}/{stem}".lstrip("/"), original_name(stem) or ""
                yield Record(key, path, (), group, pair.split, attributes={"mask": mask})
            for mask in masks.values():
                ledger.drop("file", mask, "mask without image")


def find_masks(base: Path) -> list[FolderPair]:
    """Image and mask folders below `base`; see `find_pairs`."""
    pairs = find_pairs(base, "masks")
    return pairs if any(pair.truth.is_dir() for pair in pairs) else []


def with_boxes(picture: Picture, raw: Path, record: Record, meaning: MaskMeaning) -> Picture:
    """The picture of a record with the boxes that its mask gives.

    Raises
    ------
    Unreadable
        When the mask cannot be used.
    """
    mask = str(record.attributes["mask"])
    height, width = picture.pixels.shape[:2]
    objects = meaning.objects(mask_of(raw, mask, (width, height)), mask)
    boxes = tuple(Box(*extent, name, f"{mask}:{name} {n}") for name, n, extent in objects)
    return replace(picture, boxes=boxes)


def _by_image(pair: FolderPair, raw: Path, ledger: Ledger) -> dict[str, str]:
    """Path of the mask by the stem of its image, sorted."""
    found: dict[str, str] = {}
    files = sorted(pair.truth.iterdir()) if pair.truth.is_dir() else []
    for file in files:
        if file.suffix.lower() not in EXTENSIONS or file.name.startswith("."):
            continue
        ending = next(ending for ending in _ENDINGS if file.stem.endswith(ending))
        stem = file.stem.removesuffix(ending)
        if stem in found:
            ledger.drop("file", relative(raw, file), "another mask of the same image", found[stem])
        else:
            found[stem] = relative(raw, file)
    return found

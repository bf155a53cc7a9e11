"""Boxes of one COD10K image from its index mask or its object mask."""

from pathlib import Path

from pipeline.convert.formats.masks import (
    Extent,
    component_extents,
    foreground,
    index_extents,
    mask_of,
    whole_extent,
)
from pipeline.convert.records import Unreadable

# A soft-edged object mask read as an index image would turn into an object per grey level.
MAX_INSTANCES = 100
SMALLEST_COMPONENT = 16  # pixels; less is a speck of a careless outline
SPECKS = "specks in an object mask gave no box"


def measure(
    raw: Path, mask: str, route: str, size: tuple[int, int], apart: bool
) -> tuple[list[tuple[int, Extent]], tuple[str, ...]]:
    """Extent of every object of a mask, numbered, and notes for the report.

    Parameters
    ----------
    raw : Path
    mask : str
        Path relative to the raw folder.
    route : str
        ``instance``: one object per value; ``object``: all that is not background.
    size : (int, int)
        Width and height in pixels of the image as displayed; the mask must have the same.
    apart : bool
        For object masks: one box per connected component of at least `SMALLEST_COMPONENT` pixels,
        else one around everything.

    Raises
    ------
    Unreadable
        When the mask is missing, corrupt, of another size or not of the kind that `route` says.
    """
    values = mask_of(raw, mask, size)
    if route == "instance":
        extents = index_extents(values)
        if len(extents) > MAX_INSTANCES:
            detail = f"{mask}: {len(extents)} different values: not one value per object"
            raise Unreadable("corrupt mask", detail)
        return extents, ()
    objects = foreground(values)
    if not apart:
        whole = whole_extent(objects)
        return ([(1, whole)] if whole else []), ()
    parts, specks = component_extents(objects, SMALLEST_COMPONENT)
    return list(enumerate(parts, start=1)), (SPECKS,) if specks else ()

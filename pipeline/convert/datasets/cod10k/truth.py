"""What is known of each image of a COD10K split, by one of three routes.

``json`` gives the boxes of the release, ``instance`` one box per value of an index mask,
``object`` loses the instances: a mask of all object pixels cannot tell two animals apart.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pipeline.convert.datasets.cod10k.json import ImageAnnotations, read_annotations, read_listing
from pipeline.convert.datasets.cod10k.layout import SplitPaths
from pipeline.convert.formats.folders import relative
from pipeline.convert.formats.masks import (
    Found,
    component_objects,
    foreground,
    index_objects,
    mask_of,
    whole_object,
)
from pipeline.convert.records import Ledger, Unreadable
from pipeline.data.images import EXTENSIONS
from pipeline.errors import DescryError

Route = Literal["json", "instance", "object"]
ROUTES: tuple[Route, ...] = get_args(Route)
_MASK_FOLDERS = ("GT", "GT_Edge", "GT_Instance", "GT_Object", "Edge")
_MISSING = {
    "json": "CAM_Instance_{S}.json (v3) or annotations/ (OSFormer/DCNet)",
    "instance": "the folder GT_Instance (v3)",
    "object": "the folder GT_Object (v3) or GT (SINet)",
}


@dataclass(slots=True)
class SplitAnnotations:
    """The annotations of one split.

    Attributes
    ----------
    route : str
        Where the boxes come from.
    entries : dict
        What is annotated, by image name without extension.
    listed : dict
        Object counts of the text list, by the same names; empty without one.
    """

    route: Route
    entries: dict[str, ImageAnnotations]
    listed: dict[str, int]


def load_truth(places: SplitPaths, wanted: str, raw: Path, ledger: Ledger) -> SplitAnnotations:
    """Read the annotations of a split by the route that `wanted` names, or the best there is.

    Raises
    ------
    DescryError
        When the annotations are not there.
    """
    available = {"json": places.json, "instance": places.instance, "object": places.objects}
    tried = [r for r in ROUTES if wanted in ("auto", r)]
    route = next((r for r in tried if available[r] is not None), None)
    path = available[route] if route else None
    if route is None or path is None:
        names = " or ".join(_MISSING[r].format(S=places.split.capitalize()) for r in tried)
        there = ", ".join(r for r in ROUTES if available[r] is not None) or "none"
        raise DescryError(
            f"{places.images}: the {places.split} images have no annotations for "
            f"annotations={wanted!r}: {names} is missing (available: {there}). "
            "Unpack the whole release."
        )
    where = relative(raw, path)
    entries = read_annotations(path, where, ledger) if route == "json" else _masks(path, raw)
    lossy = "; an object mask cannot tell animals apart" if route == "object" else ""
    ledger.note(f"{places.split}: boxes from {where} (route {route!r}){lossy}")
    return SplitAnnotations(route, entries, _listed(places, raw, ledger))


def _masks(folder: Path, raw: Path) -> dict[str, ImageAnnotations]:
    """An entry per mask file."""
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS)
    if not files:
        raise DescryError(f"{folder}: holds no masks. Unpack the release again.")
    paths = {p.stem: relative(raw, p) for p in files}
    return {stem: ImageAnnotations(path, mask=path) for stem, path in paths.items()}


def _listed(places: SplitPaths, raw: Path, ledger: Ledger) -> dict[str, int]:
    """The text list of object counts, if it is there."""
    if places.listing is None:
        return {}
    ledger.claim(relative(raw, places.listing))
    return read_listing(places.listing)


def drop_image(path: str, entry: ImageAnnotations, problem: Unreadable, ledger: Ledger) -> None:
    """Drop an image and the annotation rows that belong to it."""
    ledger.drop("image", path, problem.reason, problem.detail)
    for box in entry.boxes:
        ledger.drop("row", box.where, f"its image was dropped: {problem.reason}", path)


def drop_unseen(
    truth: SplitAnnotations, seen: AbstractSet[str], folder: str, ledger: Ledger
) -> None:
    """Drop the annotations whose image is not on disk.

    Parameters
    ----------
    truth : SplitAnnotations
    seen : set of str
        The images on disk, without extension.
    folder : str
        The image folder relative to the raw folder.
    ledger : Ledger
    """
    for stem in sorted(truth.entries.keys() - seen):
        entry = truth.entries[stem]
        if entry.mask:
            ledger.drop("file", entry.mask, "mask without image")
            continue
        ledger.drop("image", f"{folder}/{entry.file_name}", "annotation without image")
        for box in entry.boxes:
            ledger.drop("row", box.where, "annotation without image", entry.file_name)


def drop_unused_masks(places: SplitPaths, raw: Path, ledger: Ledger) -> None:
    """Enter the masks that gave no boxes: another route was taken, or their image was dropped."""
    taken = ledger.annotation_files | {drop.where for drop in ledger.drops if drop.kind == "file"}
    for name in _MASK_FOLDERS:
        folder = places.images.parent / name
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            where = relative(raw, path)
            if path.suffix.lower() in EXTENSIONS and where not in taken:
                ledger.drop("file", where, "mask not used")


def compare_with_listing(
    truth: SplitAnnotations, seen: AbstractSet[str], places: SplitPaths, ledger: Ledger
) -> None:
    """Note where the text list and the annotations or the images disagree."""
    if not truth.listed or places.listing is None:
        return
    absent = sorted(truth.listed.keys() - seen)
    if absent:
        ledger.note(
            f"{places.listing.name}: {len(absent)} listed images are not in the folder, "
            f"the first is {absent[0]}"
        )
    if truth.route != "json":
        return  # the number of objects is known only when the masks are read
    counts = {stem: len(truth.entries[stem].boxes) for stem in truth.entries}
    differ = sorted(s for s, n in truth.listed.items() if s in seen and counts.get(s, 0) != n)
    if differ:
        first = differ[0]
        ledger.note(
            f"{places.listing.name}: {len(differ)} images have another number of objects than in "
            f"the annotations, the first is {first} ({truth.listed[first]} listed, "
            f"{counts.get(first, 0)} annotated)"
        )


# A soft-edged object mask read as an index image would turn into an object per grey level.
MAX_INSTANCES = 100
SMALLEST_COMPONENT = 16  # pixels; less is a speck of a careless outline
SPECKS = "specks in an object mask gave no box"


def measure(
    raw: Path, mask: str, route: str, size: tuple[int, int], apart: bool
) -> tuple[list[tuple[int, Found]], tuple[str, ...]]:
    """Every object of a mask, numbered, and notes for the report.

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
    values = mask_of(raw, mask, size).values
    if route == "instance":
        found = index_objects(values)
        if len(found) > MAX_INSTANCES:
            detail = f"{mask}: {len(found)} different values: not one value per object"
            raise Unreadable("corrupt mask", detail)
        return found, ()
    objects = foreground(values)
    if not apart:
        whole = whole_object(objects)
        return ([(1, whole)] if whole else []), ()
    parts, specks = component_objects(objects, SMALLEST_COMPONENT)
    return list(enumerate(parts, start=1)), (SPECKS,) if specks else ()

"""JSON files of annotation tools: LabelMe, Supervisely, QuPath (a file per image), datumaro.

What a file is shows in its first and last bytes. Formats: LabelMe 5 (``shapes``), Supervisely's
image projects (``objects`` in ``ann/<image>.json``, images in ``img/``), GeoJSON as QuPath exports
it (RFC 7946, in pixels of the full resolution), datumaro 1.0 (``items``).
"""

import json
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.convert.formats.folders import (
    ROTATED,
    SPLIT_NAMES,
    InvalidRow,
    Selection,
    angle_of,
    enclosing,
    relative,
)
from pipeline.convert.formats.listed import ListedImages, Listing
from pipeline.convert.formats.masks import segmentation_extent
from pipeline.convert.formats.pictures import files_below
from pipeline.convert.records import Box, Ledger, Record
from pipeline.convert.segmentation import as_text, segmentation_text
from pipeline.errors import DescryError

Extent = tuple[float, float, float, float]
NO_AREA = "shape without an area"
_MALFORMED = "malformed row"
_PEEK = 2**16  # bytes
_SIGNS = {  # of the tool's files, all of which stand at the beginning or the end
    "datumaro": (b'"items"', b'"categories"'),
    "labelme": (b'"shapes"', b'"imagePath"'),
    "supervisely": (b'"objects"', b'"size"'),
    "qupath": (b'"Feature',),
}
TOOLS = tuple(_SIGNS)


@dataclass(frozen=True, slots=True)
class Told:
    """What a file says of one image.

    Attributes
    ----------
    name : str
        Of the image.
    size : (int, int) or None
        Width and height.
    shapes : list
        Its objects, as the tool writes them.
    also : str
        Where the image is looked for if no image has the name of the file.
    """

    name: str
    size: tuple[int, int] | None
    shapes: list[Any]
    also: str = ""


def ends_of(path: Path) -> bytes:
    """The first and the last bytes of a file."""
    with path.open("rb") as stream:
        text = stream.read(_PEEK)
        stream.seek(max(path.stat().st_size - _PEEK, 0))
        return text + stream.read(_PEEK)


def tool_of(path: Path) -> str | None:
    """The tool whose file this is; None for any other."""
    return tool_in(ends_of(path))


def tool_in(text: bytes) -> str | None:
    """The tool whose file has these ends; None for any other."""
    if b'"images"' in text and b'"annotations"' in text:
        return None  # COCO
    return next((tool for tool, signs in _SIGNS.items() if all(s in text for s in signs)), None)


def find_tools(raw: Path, base: Path, selection: Selection) -> "dict[str, ToolLayout]":
    """The tools that have files below `base`, each with its layout."""
    files: dict[str, list[Path]] = {}
    for path in files_below(base, {".json", ".geojson"}):
        tool = tool_of(path)
        if tool is not None:
            files.setdefault(tool, []).append(path)
    return {tool: ToolLayout(raw, base, tool, found, selection) for tool, found in files.items()}


@dataclass
class ToolLayout:
    """The files of one tool below `base`; paths in records are relative to `raw`."""

    raw: Path
    base: Path
    tool: str
    files: list[Path]
    selection: Selection = field(default_factory=Selection)
    declared: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.images = ListedImages(self.raw, self.base, by_path=self.tool != "datumaro")

    def names(self) -> list[str]:
        """Classes that objects use: in the order that the tool declares, else sorted."""
        order = self.declared or sorted(self.used)
        return self.selection.order([name for name in order if name in self.used])

    def records(self, ledger: Ledger) -> Iterator[Record]:
        """Yield one record per image (see `formats.folders.Layout`)."""
        self._declare_supervisely(ledger)
        for listing in sorted(self._listings(ledger), key=self._is_stray):
            path = self.images.find(listing)
            if self.images.by_path and path in self.images.found:  # a stale copy of its file
                self._orphan(listing, ledger)
            else:
                self.images.enter(listing, ledger)
        yield from self.images.account(ledger)

    def _listings(self, ledger: Ledger) -> Iterator[Listing]:
        """What the files say, an image at a time."""
        for file in self.files:
            place = relative(self.raw, file)
            try:
                content = json.loads(file.read_text("utf-8-sig"))
                told = _READERS[self.tool].images(content, file)
                if self.tool == "datumaro":
                    self._declare([str(one["name"]) for one in _labels(content)])
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                ledger.drop("file", place, "malformed json", f"{type(error).__name__}: {error}")
                continue
            ledger.claim(place)
            for image in told:
                yield self._listing(file, image, ledger)

    def _listing(self, file: Path, told: Told, ledger: Ledger) -> Listing:
        place, boxes, malformed = relative(self.raw, file), [], 0
        within = f"{told.name} " if self.tool == "datumaro" else ""
        ledger.read(place, len(told.shapes))
        for number, shape in enumerate(told.shapes, 1):
            where = f"{place}:{within}object {number}"
            try:
                boxes.append(self._box(shape, where))
            except InvalidRow as bad:
                malformed += bad.reason == _MALFORMED
                ledger.drop("row", where, bad.reason, bad.detail)
        broken = "annotation unusable" if malformed and malformed == len(told.shapes) else ""
        name = told.also if told.also and not self._has_own(file, told.name) else told.name
        split = _split_of(file, self.base, self.tool)
        return Listing(file, name, tuple(boxes), split, told.size, unusable=broken)

    def _has_own(self, file: Path, name: str) -> bool:
        return self.images.find(Listing(file, name)) is not None

    def _is_stray(self, listing: Listing) -> bool:
        """Whether a file names its image only inside; the others go first."""
        return self.tool == "labelme" and listing.name != listing.file.stem

    def _box(self, shape: Any, where: str) -> Box:
        try:
            label, extent, angle, mask = _READERS[self.tool].shape(shape, self.declared)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise InvalidRow(_MALFORMED, f"{type(error).__name__}: {error}") from error
        if not label:
            raise InvalidRow("object without a class")
        self.selection.check(label)
        self.used.add(label)
        if angle:
            self.images.notes[ROTATED] += 1
            extent = enclosing(*extent, angle)
        return Box(*extent, label, where, mask=mask)

    def _declare(self, names: list[str]) -> None:
        """Enter the classes of a file; ids stand for names, so all files must agree."""
        if self.declared and names != self.declared:
            raise DescryError(f"{self.base}: its files declare {names} and {self.declared}.")
        self.declared = names

    def _declare_supervisely(self, ledger: Ledger) -> None:
        """The classes in meta.json above the annotations, if it is there."""
        if self.tool != "supervisely":
            return
        for folder in (self.files[0].parents[2], self.files[0].parents[1], self.base):
            meta = folder / "meta.json"
            if meta.is_file() and meta.is_relative_to(self.raw):
                content = json.loads(meta.read_text("utf-8-sig"))
                self.declared = [str(one["title"]) for one in content.get("classes", [])]
                ledger.claim(relative(self.raw, meta))
                return

    def _orphan(self, listing: Listing, ledger: Ledger) -> None:
        place = relative(self.raw, listing.file)
        ledger.drop("file", place, "annotation without image", listing.name)
        for box in listing.boxes if isinstance(listing.boxes, tuple) else ():
            ledger.drop("row", box.where, "annotation without image", listing.name)


def _split_of(file: Path, base: Path, tool: str) -> str | None:
    """Split by the name of a datumaro file, else by a folder between it and the base."""
    names = [file.stem] if tool == "datumaro" else [*file.relative_to(base).parts[:-1]]
    return next((SPLIT_NAMES[n.lower()] for n in names if n.lower() in SPLIT_NAMES), None)


# Class, extent, degrees by which it is turned, and its mask as a `Box` holds it.
Reading = tuple[str, Extent, float, str]


@dataclass(frozen=True, slots=True)
class _Reader:
    """How a tool's file is read: its images, and one of its shapes given the declared classes."""

    images: Callable[[Any, Path], list[Told]]
    shape: Callable[[Any, list[str]], Reading]


def _size(width: Any, height: Any) -> tuple[int, int] | None:
    return (int(width), int(height)) if width and height else None


def _extent(points: Any, pixels: int = 0) -> Extent:
    """Extent of corners; with `pixels` 1 they are pixels, which belong to the object."""
    xs, ys = [float(x) for x, *_ in points], [float(y) for _, y, *_ in points]
    left, top = min(xs), min(ys)
    return left, top, max(xs) - left + pixels, max(ys) - top + pixels


def _labelme_images(content: Any, file: Path) -> list[Told]:
    size = _size(content.get("imageWidth"), content.get("imageHeight"))
    return [Told(file.stem, size, list(content["shapes"]), str(content["imagePath"]))]


def _labelme_shape(shape: Mapping[str, Any], _: list[str]) -> Reading:
    kind, points = shape.get("shape_type") or "polygon", shape["points"]
    label = str(shape["label"])
    if kind == "circle":
        (x, y), (across, down) = points
        radius = ((across - x) ** 2 + (down - y) ** 2) ** 0.5
        return label, (x - radius, y - radius, 2 * radius, 2 * radius), 0.0, ""
    if kind == "rectangle":
        return label, _extent(points), 0.0, ""
    if kind in ("polygon", "rotation"):
        return label, *_polygons([points])
    if kind == "mask":  # its first and last row and column
        extent = _extent(points, pixels=1)
        inside = _png(b64decode(shape["mask"])) if shape.get("mask") else None
        return label, extent, 0.0, "" if inside is None else _placed(inside, extent)
    raise InvalidRow(NO_AREA, str(kind))


def _supervisely_images(content: Any, file: Path) -> list[Told]:
    size = _size(content["size"]["width"], content["size"]["height"])
    return [Told(f"../img/{file.stem}", size, list(content["objects"]))]


def _supervisely_shape(shape: Mapping[str, Any], _: list[str]) -> Reading:
    """Corners are pixels that belong to the object (``Rectangle.width`` of its SDK)."""
    kind, label = shape["geometryType"], str(shape["classTitle"])
    if kind in ("rectangle", "polygon"):
        return label, _extent(shape["points"]["exterior"], pixels=1), 0.0, ""
    if kind == "bitmap":
        return label, *_bitmap(shape["bitmap"])
    raise InvalidRow(NO_AREA, str(kind))


def _bitmap(bitmap: Mapping[str, Any]) -> tuple[Extent, float, str]:
    """Extent and mask of a PNG, deflated, in base 64, and where its first pixel lies."""
    try:
        inside = _png(zlib.decompress(b64decode(bitmap["data"])))
    except zlib.error as error:
        raise InvalidRow(_MALFORMED, f"bitmap: {error}") from error
    if not inside.any():
        raise InvalidRow(NO_AREA, "empty bitmap")
    rows, columns = np.nonzero(inside)
    x, y = (int(v) for v in bitmap["origin"])
    corners = ((columns.min() + x, rows.min() + y), (columns.max() + x, rows.max() + y))
    return _extent(corners, pixels=1), 0.0, as_text(inside, x, y)


def _png(content: bytes) -> NDArray[np.bool_]:
    """Pixels of an object mask (H, W): what is not clear or, without transparency, not black."""
    try:
        with Image.open(BytesIO(content)) as image:
            clear = "A" in image.mode or "transparency" in image.info
            return np.asarray(image.convert("RGBA").getchannel("A" if clear else "R")) > 0
    except (OSError, SyntaxError) as error:
        raise InvalidRow(_MALFORMED, f"bitmap: {error}") from error


def _placed(inside: NDArray[np.bool_], extent: Extent) -> str:
    """The mask of an object that fills its extent; none where the two do not agree."""
    agree = inside.any() and inside.shape == (extent[3], extent[2])
    return as_text(inside, int(extent[0]), int(extent[1])) if agree else ""


def _polygons(rings: Sequence[Any]) -> tuple[Extent, float, str]:
    """Extent and mask of outlines, as COCO has them."""
    extent = _extent([point for ring in rings for point in ring])
    flat = [[float(v) for point in ring for v in point[:2]] for ring in rings]
    return extent, 0.0, segmentation_text(flat, extent)


def _qupath_images(content: Any, file: Path) -> list[Told]:
    features = content if isinstance(content, list) else content.get("features", [content])
    return [Told(file.stem, None, list(features))]


def _qupath_shape(shape: Mapping[str, Any], _: list[str]) -> Reading:
    geometry, told = shape["geometry"], shape.get("properties") or {}
    classified = told.get("classification") or {}
    label = str(classified.get("name") or ": ".join(classified.get("names", ())) or "object")
    rings = {"Polygon": [geometry["coordinates"]], "MultiPolygon": geometry["coordinates"]}
    if geometry["type"] not in rings:
        raise InvalidRow(NO_AREA, str(geometry["type"]))
    return label, *_polygons([polygon[0] for polygon in rings[geometry["type"]]])


def _labels(content: Any) -> list[Mapping[str, Any]]:
    return content["categories"]["label"]["labels"]


def _datumaro_images(content: Any, file: Path) -> list[Told]:
    found = []
    for item in content["items"]:
        image = item.get("image") or {}
        height, width = image.get("size") or (0, 0)
        name = str(image.get("path") or item["id"])
        found.append(Told(name, _size(width, height), list(item.get("annotations") or [])))
    return found


def _datumaro_shape(shape: Mapping[str, Any], names: list[str]) -> Reading:
    number = shape.get("label_id")
    label = names[number] if isinstance(number, int) and 0 <= number < len(names) else ""
    kind = shape["type"]
    if kind == "bbox":
        x, y, width, height = (float(value) for value in shape["bbox"])
        turned = (shape.get("attributes") or {}).get("rotation")
        return label, (x, y, width, height), angle_of(turned) if turned is not None else 0.0, ""
    told = {"polygon": [shape.get("points")], "mask": shape.get("rle")}.get(kind)
    extent = segmentation_extent(told)
    if extent is None:
        raise InvalidRow(NO_AREA, str(kind))
    return label, extent, 0.0, segmentation_text(told, extent)


_READERS = {
    "labelme": _Reader(_labelme_images, _labelme_shape),
    "supervisely": _Reader(_supervisely_images, _supervisely_shape),
    "qupath": _Reader(_qupath_images, _qupath_shape),
    "datumaro": _Reader(_datumaro_images, _datumaro_shape),
}

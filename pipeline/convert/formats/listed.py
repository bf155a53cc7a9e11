"""Images that annotation files list by name: where each lies, its record, and who is left over.

COCO, datumaro, LabelMe, Supervisely, QuPath and CSV files say which image they mean. One image may
be listed several times (a file per class): its boxes are joined.
"""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote

from pipeline.convert.formats.folders import original_name, relative
from pipeline.convert.formats.pictures import SUFFIXES, files_below
from pipeline.convert.records import Box, Ledger, Record

JOINED = "image(s) are listed again: their boxes are joined."


@dataclass(frozen=True, slots=True)
class Listing:
    """What an annotation file says of one image.

    Attributes
    ----------
    file : Path
        The annotation file.
    name : str
        Of the image, as it stands there; may be a path of another machine or a URL.
    boxes : tuple of Box, or callable
        What is called makes them, once: the boxes of a large file need not be held all at a time.
    split : str or None
    size : (int, int) or None
        Width and height.
    group : str
    unusable : str
        Why the image cannot be used although it is listed; empty if it can.
    """

    file: Path
    name: str
    boxes: tuple[Box, ...] | Callable[[], tuple[Box, ...]] = ()
    split: str | None = None
    size: tuple[int, int] | None = None
    group: str = ""
    unusable: str = ""


@dataclass
class ListedImages:
    """The images below `base` that files list; paths in records are relative to `raw`.

    Attributes
    ----------
    by_path : bool
        Keys are the images' places below `base`, not the names by which they are listed.
    """

    raw: Path
    base: Path
    by_path: bool = False
    found: dict[Path, Record] = field(default_factory=dict)
    listings: dict[Path, list[Listing]] = field(default_factory=lambda: defaultdict(list))
    keys: set[str] = field(default_factory=set)
    notes: Counter[str] = field(default_factory=Counter)
    refused: set[Path] = field(default_factory=set)

    def enter(self, listing: Listing, ledger: Ledger) -> None:
        """Enter a listed image, or drop it when it is not there or is in another split, too."""
        listing = replace(listing, name=listing.name.replace("\\", "/"))  # as written on Windows
        path = self.find(listing)
        known = self.found.get(path) if path else None
        if path is None:
            self._drop(listing, "image missing", ledger)
        elif listing.unusable:
            self.refused.add(path)
            ledger.drop("image", relative(self.raw, path), listing.unusable, str(listing.file.name))
        elif known is None:
            self._add(listing, path, ledger)
        elif known.split != listing.split:
            self._drop(listing, "image listed twice", ledger)
        else:
            self.notes[JOINED] += 1
            self.listings[path].append(listing)

    def _add(self, listing: Listing, path: Path, ledger: Ledger) -> None:
        """Enter an image for the first time."""
        plain = self._key(listing, path)
        key = plain if plain not in self.keys else f"{plain}_{path.suffix[1:].lower()}"
        if key in self.keys:
            self._drop(listing, "another image has the same name", ledger)
            return
        self.keys.add(key)
        group, place = listing.group or original_name(path.stem) or "", relative(self.raw, path)
        self.found[path] = Record(key, place, (), group, listing.split, listing.size)
        self.listings[path].append(listing)

    def _key(self, listing: Listing, path: Path) -> str:
        if self.by_path:
            return path.relative_to(self.base).with_suffix("").as_posix()
        parts = [part for part in PurePosixPath(listing.name).parts if part.strip("./")]
        if not parts or _is_foreign(listing.name):
            parts = [path.name]
        stem = "/".join([listing.split, *parts] if listing.split else parts)
        return str(PurePosixPath(stem).with_suffix("")) if has_suffix(stem) else stem

    def _drop(self, listing: Listing, reason: str, ledger: Ledger) -> None:
        name, file = listing.name, relative(self.raw, listing.file)
        ledger.drop("image", name, reason, f"in {file}")
        for box in _boxes(listing):
            ledger.drop("row", box.where, reason, name)

    def find(self, listing: Listing) -> Path | None:
        """Where the image lies: beside the file, in one of the usual folders, or by its name."""
        plain, beside = listing.file.stem.removeprefix("instances_"), listing.file.parent
        for folder in (
            beside,
            self.base / "images" / plain,
            self.base / plain,
            self.base / "images",
            self.base,
            beside / "data",
            beside / "images",
        ):
            inside = os.path.relpath(
                folder / listing.name, self.raw
            )  # may climb: "../images/a.jpg"
            path = self.raw / inside
            if _is_file(path) and not inside.startswith("..") and path != listing.file:
                return path
        alike = self._by_name.get(_alike(listing.name), [])
        near = [path for path in alike if path.parent == beside] or alike
        return near[0] if len(near) == 1 else None

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """Images below `base` by what is left of a name on another machine, and by its stem."""
        found = defaultdict(list)
        for path in files_below(self.base, SUFFIXES):
            found[_alike(path.name)].append(path)
            found[_alike(path.stem)].append(path)
        return found

    def account(self, ledger: Ledger) -> Iterator[Record]:
        """Yield the records, then note what happened, and drop images that nothing lists."""
        for path, record in self.found.items():
            first, *more = self.listings.pop(path)
            boxes = _boxes(first)
            for listing in more:
                boxes = _join(boxes, _boxes(listing), ledger)
            yield replace(record, boxes=boxes)
        for path in files_below(self.base, SUFFIXES):
            if path not in self.found and path not in self.refused:
                ledger.drop("image", relative(self.raw, path), "image without annotation")
        for text, count in sorted(self.notes.items()):
            ledger.note(f"{count} {text}")


def _boxes(listing: Listing) -> tuple[Box, ...]:
    return listing.boxes() if callable(listing.boxes) else listing.boxes


def _is_file(path: Path) -> bool:
    """Whether there is a file; a name may be too long for one, or hold a 0."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def has_suffix(name: str) -> bool:
    """Whether a name ends like an image's."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _is_foreign(name: str) -> bool:
    """Whether a file name is a place on another machine: absolute, or a URL."""
    return "://" in name or bool(PureWindowsPath(name).root)


def _join(known: tuple[Box, ...], more: tuple[Box, ...], ledger: Ledger) -> tuple[Box, ...]:
    """Boxes of an image that is listed again; the same box again is dropped."""
    joined = {replace(box, where=""): box for box in known}
    for box in more:
        if joined.setdefault(replace(box, where=""), box) is not box:
            ledger.drop("row", box.where, "repeated row", box.label)
    new = set(map(id, joined.values()))
    return (*known, *(box for box in more if id(box) in new))


def _alike(name: str) -> str:
    """The base name of a path or URL, without what differs between machines and exports."""
    base = name.partition("?")[0].replace("\\", "/").rsplit("/", 1)[-1]
    return unicodedata.normalize("NFC", unquote(base)).casefold()

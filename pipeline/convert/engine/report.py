"""What became of every row, box, image and file of the input, counted."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pipeline
from pipeline.convert.engine.boxes import RULES
from pipeline.convert.engine.scan import Scan, describe
from pipeline.convert.engine.split import Fractions
from pipeline.convert.engine.worker import box_of_dropped, place
from pipeline.convert.formats.pictures import SUFFIXES
from pipeline.convert.records import SPLITS, Source
from pipeline.work.workspace import Kind

CONVERSION = Kind("a conversion", "report.json", "descry conversion")
IMAGE, ANNOTATION, DROPPED, UNUSED = "images", "annotations", "dropped", "unused"
_NOT_READ = "not an input of this converter"
_NOT_NAMED = "image that no annotation names"
_HIDDEN = "hidden or system file"
DUPLICATE = "duplicate of an image in another split"
_FILES_APART = 5  # annotation files of one folder and type that are listed one by one


@dataclass(frozen=True, slots=True)
class ConversionSettings:
    """Parameters of the conversion itself, beside those of its source."""

    seed: int
    fractions: Fractions
    png_level: int


@dataclass(slots=True)
class SplitCount:
    """What one split holds."""

    images: int = 0
    negatives: int = 0
    boxes: int = 0
    classes: Counter[str] = field(default_factory=Counter)


class ConversionCounts:
    """Counts of one conversion; the sums are checked before they are reported."""

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        self.drops: list[tuple[str, ...]] = [
            (drop.kind, drop.where, drop.reason, drop.detail) for drop in scan.ledger.drops
        ]
        self.images_in = self._scanned("image")
        self.boxes_in = self._scanned("box")
        self.clipped = 0
        self.splits = {split: SplitCount() for split in SPLITS}
        self.notes: Counter[str] = Counter()
        self.resized: list[str] = []
        self.files: dict[str, Counter[str]] = {
            kind: Counter() for kind in (IMAGE, ANNOTATION, DROPPED, UNUSED)
        }

    def _scanned(self, kind: str) -> int:
        """Things of one kind that the scan dropped."""
        return sum(drop[0] == kind for drop in self.drops)

    def _enter(self, entry: Mapping[str, Any]) -> None:
        """What is counted of every record."""
        self.images_in += 1
        self.boxes_in += entry["boxes_in"]
        self.drops.extend(tuple(drop) for drop in entry["drops"])

    def kept(self, entry: Mapping[str, Any], split: str) -> None:
        """Enter an image of the output."""
        self._enter(entry)
        count = self.splits[split]
        count.images += 1
        count.boxes += len(entry["boxes"])
        count.negatives += not entry["boxes"]
        count.classes.update(box[4] for box in entry["boxes"])
        self.clipped += entry["clipped"]
        self.notes.update(entry["notes"])
        if entry["size"] and not entry["crop"]:
            self._check_size(entry)

    def _check_size(self, entry: Mapping[str, Any]) -> None:
        """Note an image whose size is not what its annotation declares, even turned."""
        if sorted(entry["size"]) != sorted((entry["width"], entry["height"])):
            declared = "{} x {}".format(*entry["size"])
            self.resized.append(
                f"{entry['path']}: {entry['width']} x {entry['height']}, declared {declared}"
            )

    def lost(self, entry: Mapping[str, Any]) -> None:
        """Enter a record whose image could not be used; its drops say why."""
        self._enter(entry)

    def duplicate(self, entry: Mapping[str, Any], twin: str) -> None:
        """Enter an image that is left out for `twin` in another split."""
        self._enter(entry)
        where = place(entry["path"], entry["crop"])
        self.drops.append(("image", where, DUPLICATE, f"same pixels as {twin}"))
        self.drops.extend(
            tuple(box_of_dropped(box[6] or where, DUPLICATE)) for box in entry["boxes"]
        )

    def file(self, path: str, kind: str) -> None:
        """Enter one file of the raw folder; an unused one is listed with its reason."""
        reason = ""
        if kind == UNUSED:
            reason = reason_unused(path)
            self.drops.append(("file", path, reason, ""))
        self.files[kind][reason] += 1

    def reasons(self, kind: str) -> dict[str, int]:
        """Drops of one kind, counted by reason."""
        return dict(sorted(Counter(drop[2] for drop in self.drops if drop[0] == kind).items()))

    def lines(self) -> list[tuple[str, ...]]:
        """All drops, sorted: the rows of dropped.csv."""
        return sorted(self.drops)

    def sections(self) -> dict[str, Any]:
        """Counts of files, rows, boxes and images, balanced."""
        return {
            "files": self._files(),
            "rows": self._rows(),
            "boxes": self._boxes(),
            "images": self._images(),
        }

    def _files(self) -> dict[str, Any]:
        found = sum(sum(reasons.values()) for reasons in self.files.values())
        return {
            "found": found,
            "used as images": sum(self.files[IMAGE].values()),
            "used as annotations": sum(self.files[ANNOTATION].values()),
            "dropped": sum(self.files[DROPPED].values()),
            "unused": dict(sorted(self.files[UNUSED].items())),
        }

    def _rows(self) -> dict[str, Any]:
        ledger, dropped = self.scan.ledger, self.reasons("row")
        read = sum(ledger.rows_read.values())
        without_box = sum(ledger.rows_without_box.values())
        _balance("annotation rows", read, self.scan.box_rows + without_box, dropped)
        return {
            "read": read,
            "read by file": _by_file(ledger.rows_read),
            "used for boxes": self.scan.box_rows,
            "used without a box": without_box,
            "dropped": dropped,
        }

    def _boxes(self) -> dict[str, Any]:
        dropped = self.reasons("box")
        out = sum(count.boxes for count in self.splits.values())
        _balance("boxes", self.boxes_in, out, dropped)
        return {"in": self.boxes_in, "out": out, "clipped": self.clipped, "dropped": dropped}

    def _images(self) -> dict[str, Any]:
        dropped = self.reasons("image")
        out = sum(count.images for count in self.splits.values())
        _balance("images", self.images_in, out, dropped)
        return {"in": self.images_in, "out": out, "dropped": dropped}

    def split_section(self, classes: list[str]) -> dict[str, Any]:
        """Images, negatives, boxes and the histogram of `classes` per split."""
        return {
            split: {
                "images": count.images,
                "negatives": count.negatives,
                "boxes": count.boxes,
                "classes": {name: count.classes[name] for name in classes},
            }
            for split, count in self.splits.items()
        }


def _balance(what: str, into: int, out: int, dropped: Mapping[str, int]) -> None:
    """Raise if something of the input is neither in the output nor listed as dropped."""
    if into != out + sum(dropped.values()):
        raise RuntimeError(f"bug: {into} {what} in, {out} out, dropped {dict(dropped)}")


def _by_file(rows: Mapping[str, int]) -> dict[str, int]:
    """Rows by file; where a folder has a file per image, by folder and type."""
    patterns = {file: _pattern(file) for file in rows}
    files = Counter(patterns.values())
    result: Counter[str] = Counter()
    for file, count in rows.items():
        apart = files[patterns[file]] <= _FILES_APART
        result[file if apart else patterns[file]] += count
    return dict(sorted(result.items()))


def _pattern(file: str) -> str:
    path = PurePosixPath(file)
    return (path.parent / f"*{path.suffix}").as_posix()


def header(source: Source, settings: ConversionSettings) -> dict[str, Any]:
    """Dataset, parameters and rules: what the counts depend on."""
    return {
        "format": CONVERSION.format,
        "made by": f"descry {pipeline.__version__}",
        "dataset": source.name,
        "parameters": _plain(describe(source))
        | {
            "split seed": settings.seed,
            "val_fraction": settings.fractions.val,
            "test_fraction": settings.fractions.test,
            "png_level": settings.png_level,
        },
        "box rules": list(RULES),
    }


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as JSON values; of a path only the name, so that no folder of a user shows."""
    return {
        key: Path(value).name
        if isinstance(value, str | Path) and Path(value).is_absolute()
        else value
        for key, value in parameters.items()
    }


def summary_line(report: Mapping[str, Any]) -> str:
    """One line for the console: what came in, what went out, what was dropped."""
    images, boxes, splits = report["images"], report["boxes"], report["splits"]
    held = ", ".join(f"{split} {splits[split]['images']}" for split in SPLITS)
    negatives = sum(splits[split]["negatives"] for split in SPLITS)
    empty = " and ".join(split for split in SPLITS if not splits[split]["images"])
    warning = f"; nothing is in {empty}: too few groups (patients, slides) to divide"
    return (
        f"{report['dataset']}: {images['in']} images in, {images['out']} out ({held}; "
        f"{negatives} without boxes), {boxes['in']} boxes in, {boxes['out']} out "
        f"({boxes['clipped']} clipped); dropped {_total(images)} images, {_total(boxes)} boxes, "
        f"{_total(report['rows'])} rows{_unused(report)}{_alike(report)}{warning if empty else ''}"
    )


def _unused(report: Mapping[str, Any]) -> str:
    """Images that no annotation names: they are in no other count."""
    count = report["files"]["unused"].get(_NOT_NAMED, 0)
    return f"; {count} image files not used, since no annotation names them" if count else ""


def _alike(report: Mapping[str, Any]) -> str:
    """Held-out images that training may have seen in another form."""
    count = report["near duplicates"]["across splits"]
    return f"; {count} held-out images look like one nearer to training" if count else ""


def _total(section: Mapping[str, Any]) -> int:
    return sum(section["dropped"].values())


def most_frequent(drops: Iterable[tuple[str, ...]]) -> str:
    """The commonest reason among image drops and an example, for the error when none is left."""
    images = sorted(drop for drop in drops if drop[0] == "image")
    if not images:
        return "no image was found"
    reason, count = Counter(drop[2] for drop in images).most_common(1)[0]
    where, detail = next((drop[1], drop[3]) for drop in images if drop[2] == reason)
    return f"{reason} ({count} times, such as {where}{': ' + detail if detail else ''})"


def reason_unused(path: str) -> str:
    """Why a file that no one claimed is not used."""
    parts = path.split("/")
    if any(part.startswith(".") for part in parts) or "__MACOSX" in parts:
        return _HIDDEN
    return _NOT_NAMED if Path(path).suffix.lower() in SUFFIXES else _NOT_READ

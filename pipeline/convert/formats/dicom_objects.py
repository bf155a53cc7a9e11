"""Folders of DICOM: images, and the reports, structure sets and segmentations that refer to them.

Files are known by what is in them, whatever their names. An image counts as looked at if an object
refers to it; of a series with contours or segments all images do, so that a slice without any is
one without objects. What nobody looked at is dropped. All images of a patient are of one group.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.convert.formats.dicom import patient_of
from pipeline.convert.formats.folders import SPLIT_NAMES, InvalidRow, Selection, relative
from pipeline.convert.formats.masks import component_objects
from pipeline.convert.formats.pictures import files_below
from pipeline.convert.records import Box, Ledger, Record
from pipeline.convert.segmentation import segmentation_text
from pipeline.dicom import EXTENSIONS
from pipeline.dicom.errors import DicomError
from pipeline.dicom.read.annotations import Annotation, read_annotations, references
from pipeline.dicom.read.header import Header, read_header
from pipeline.dicom.read.parse import looks_like_dicom
from pipeline.errors import DescryError

NO_AREA = "shape without an area"
_OBJECT = "object"  # the class of a region that names none


@dataclass(slots=True)
class DicomLayout:
    """The images below `base` and what refers to them; paths in records are relative to `raw`.

    Attributes
    ----------
    images : dict
        SOP Instance UID -> header.
    objects : list of Path
    """

    raw: Path
    base: Path
    selection: Selection = field(default_factory=Selection)
    images: dict[str, Header] = field(default_factory=dict)
    objects: list[Path] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    boxes: dict[tuple[str, int], list[Box]] = field(default_factory=lambda: defaultdict(list))

    def names(self) -> list[str]:
        """Class names, sorted unless given."""
        return self.selection.order(sorted(self.used))

    def records(self, ledger: Ledger) -> Iterator[Record]:
        """Yield one record per frame that was looked at (see `formats.folders.Layout`)."""
        self._sort(ledger)
        seen: set[str] = set()
        for path in self.objects:
            seen |= self._object(path, ledger)
        if not self.boxes:
            raise DescryError(
                f"{self.base}: no report, structure set or segmentation has a region on one of "
                f"its {len(self.images)} DICOM images. Put them into one folder."
            )
        for instance, header in self.images.items():
            path = Path(str(header.source))
            if instance in seen:
                yield from self._frames(instance, header, path)
            else:
                ledger.drop("image", relative(self.raw, path), "image without annotation")

    def _sort(self, ledger: Ledger) -> None:
        """Tell images from objects; what is neither is no input."""
        for path in files_below(self.base):
            with path.open("rb") as stream:
                if not looks_like_dicom(stream.read(2048)):
                    continue
            place = relative(self.raw, path)
            try:
                header = read_header(path)
            except (DicomError, OSError) as error:
                kind = error.kind if isinstance(error, DicomError) else "corrupt image"
                if kind == "not an image object":
                    self.objects.append(path)
                else:
                    ledger.drop("image", place, "corrupt image", str(error))
                continue
            instance = header.text("SOPInstanceUID")
            if instance in self.images:
                other = relative(self.raw, Path(str(self.images[instance].source)))
                ledger.drop("image", place, "another file has the same SOP Instance UID", other)
            else:
                self.images[instance] = header

    def _object(self, path: Path, ledger: Ledger) -> set[str]:
        """Enter the regions of an object; return the images that were looked at for it."""
        place = relative(self.raw, path)
        try:
            regions = list(read_annotations(path, self.images))
            seen, whole_series = references(path)
        except (DicomError, OSError) as error:
            kind = error.kind if isinstance(error, DicomError) else "cannot decode"
            ledger.drop("file", place, kind, getattr(error, "detail", str(error)))
            return set()
        ledger.claim(place)
        for number, region in enumerate(regions, 1):
            self._region(region, f"{place}:region {number}", place, ledger)
        if not whole_series:
            return seen
        series = {self._series(instance) for instance in seen & self.images.keys()}
        return {one for one in self.images if self._series(one) in series}

    def _series(self, instance: str) -> str:
        return self.images[instance].text("SeriesInstanceUID")

    def _region(self, region: Annotation, where: str, place: str, ledger: Ledger) -> None:
        """Enter the box of a region; of a mask one for each part that hangs together."""
        objects = [(region.box, _outline(region))]
        if region.mask is not None:
            objects = component_objects(region.mask, 1)[0]
        ledger.read(place, len(objects))
        for part, (extent, mask) in enumerate(objects, 1):
            here = where if len(objects) == 1 else f"{where} part {part}"
            try:
                if region.instance not in self.images:
                    raise InvalidRow("image missing", region.instance)
                if not (extent[2] and extent[3]):
                    raise InvalidRow(NO_AREA, region.label)
                label = self.selection.check(region.label or _OBJECT)
            except InvalidRow as bad:
                ledger.drop("row", here, bad.reason, bad.detail)
                continue
            self.used.add(label)
            self.boxes[region.instance, region.frame].append(Box(*extent, label, here, mask=mask))

    def _frames(self, instance: str, header: Header, path: Path) -> Iterator[Record]:
        place, count = path.relative_to(self.base), header.frame_count
        plain = place.with_suffix("") if place.suffix.lower() in EXTENSIONS else place
        split = next((SPLIT_NAMES[p] for p in place.parts[:-1] if p in SPLIT_NAMES), None)
        for frame in range(count):
            key = plain.as_posix() + (f"/frame_{frame + 1:04d}" if count > 1 else "")
            about = {"instance": instance} | ({"frame": frame + 1} if count > 1 else {})
            boxes = tuple(self.boxes.get((instance, frame), ()))
            path_below = relative(self.raw, path)
            yield Record(key, path_below, boxes, patient_of(path), split, attributes=about)


def _outline(region: Annotation) -> str:
    """The polygon of a region as the mask of its box; empty where it is the box."""
    if region.points is None:
        return ""
    return segmentation_text([region.points.ravel().tolist()], region.box)


def find_dicom(raw: Path, base: Path, selection: Selection) -> DicomLayout | None:
    """The DICOM files below `base`, or None when the first of its files are none."""
    for path in files_below(base)[:8]:
        with path.open("rb") as stream:
            if looks_like_dicom(stream.read(2048)):
                return DicomLayout(raw, base, selection)
    return None

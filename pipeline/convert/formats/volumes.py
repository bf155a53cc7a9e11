"""NIfTI and NRRD volumes with label volumes, slice by slice, each as a radiologist sees it.

A slice is turned by the volume's own geometry: axial with the patient's left on the right and the
front on top, coronal with the head on top, sagittal with the head on top and the face to the left
(as in DICOM, which counts to the left, to the back and to the head). All slices of a case are of
one group. Needs ``descry[volumes]``.
"""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.convert.formats.folders import child, relative
from pipeline.convert.formats.mask_folders import MaskMeaning
from pipeline.convert.formats.masks import Mask
from pipeline.convert.formats.pictures import files_below
from pipeline.convert.records import Box, Ledger, Picture, Record, Unreadable
from pipeline.data.intensity import Intensity, to_uint8
from pipeline.errors import DescryError

_AXIS = {"sagittal": 0, "coronal": 1, "axial": 2}  # of an array that counts to L, P and S
PLANES = tuple(_AXIS)
_ENDS = (".nii.gz", ".nii", ".nrrd", ".nhdr")
_LABEL = re.compile(r"(?:^|[-_. ])(?:seg|segmentation|labels?|masks?)$", re.I)
_FOLDER = re.compile(r"(?:labels|masks|segmentations)(tr|ts|val)?", re.I)
_SPLIT = {"tr": "train", "ts": "test", "val": "val", "train": "train", "test": "test"}
_SETTINGS = "dataset.json"  # of nnU-Net and the Medical Segmentation Decathlon
FIRST = "first of several volumes in one file taken"
FILLED = "values that are no numbers shown as the lowest"
EMPTY = "slice of one value, without objects"


@dataclass(slots=True)
class VolumeLayout:
    """Volumes with label volumes below `base`; paths in records are relative to `raw`.

    Attributes
    ----------
    plane : str
        Of the slices: one of `PLANES`.
    channel : str
        How the name of the volume ends that is taken of several of a case; empty: the first.
    """

    raw: Path
    base: Path
    meaning: MaskMeaning
    plane: str = "axial"
    channel: str = ""

    def names(self) -> list[str]:
        """Class names in id order, used or not."""
        return list(self.meaning.names)

    def records(self, ledger: Ledger) -> Iterator[Record]:
        """Yield one record per slice (see `formats.folders.Layout`)."""
        if (self.base / _SETTINGS).is_file():
            ledger.claim(relative(self.raw, self.base / _SETTINGS))
        for image, labels in self._cases(ledger):
            path, mask = relative(self.raw, image), relative(self.raw, labels)
            ledger.claim(mask)
            try:
                shape, other = open_volume(image).shape, open_volume(labels).shape
                if shape != other:
                    told = f"{mask}: {other}, image {shape}"
                    raise Unreadable("mask size differs from image size", told)
            except Unreadable as bad:
                ledger.drop("image", path, bad.reason, bad.detail)
                continue
            name = _key(image, self.base)
            for number in range(shape[_AXIS[self.plane]]):
                about = {"mask": mask, "plane": self.plane, "slice": number}
                key = f"{name}/{self.plane}_{number:04d}"
                yield Record(key, path, (), f"volume {name}", _split(labels), attributes=about)

    def _cases(self, ledger: Ledger) -> Iterator[tuple[Path, Path]]:
        """Volumes, each with its labels."""
        labels, images = _sorted_out(self.base)
        found = pair(images, labels)
        for path in images:
            if not any(path in channels for channels in found.values()):
                ledger.drop("image", relative(self.raw, path), "image without annotation")
        for mask in labels:
            channels = found.get(mask, [])
            wanted = [path for path in channels if _stem(path).endswith(self.channel)]
            if not wanted:
                ledger.drop("file", relative(self.raw, mask), "mask without image")
            for path in channels:
                if path not in wanted[:1]:
                    ledger.drop("file", relative(self.raw, path), "another channel of the case")
            if wanted:
                yield wanted[0], mask


def find_volumes(
    raw: Path, base: Path, told: Callable[[], MaskMeaning], plane: str, channel: str
) -> VolumeLayout | None:
    """The volumes with labels below `base`, or None when there are none.

    Parameters
    ----------
    told : callable
        What the parameters say of the values; asked only where there are labels.
    """
    labels, images = _sorted_out(base)
    if not labels or not images:
        return None
    meaning = told()
    if not meaning.classes:
        names = _declared(base) or _named(labels[0])
        meaning = MaskMeaning("classes", names) if names else meaning
    return VolumeLayout(raw, base, meaning, plane, channel)


def _sorted_out(base: Path) -> tuple[list[Path], list[Path]]:
    """Label volumes, by their names or folders, and the other volumes below `base`."""
    found = files_below(base, {".gz", ".nii", ".nrrd", ".nhdr"})
    volumes = [path for path in found if path.name.lower().endswith(_ENDS)]
    labels = [path for path in volumes if _folder(path) or _LABEL.search(_stem(path))]
    return labels, [path for path in volumes if path not in labels]


def _stem(path: Path) -> str:
    end = next(end for end in _ENDS if path.name.lower().endswith(end))
    return path.name[: -len(end)]


def _key(path: Path, base: Path) -> str:
    return (path.relative_to(base).parent / _stem(path)).as_posix()


def _folder(path: Path) -> re.Match[str] | None:
    """Whether the folder of a file is one of labels."""
    return _FOLDER.fullmatch(path.parent.name)


def _split(labels: Path) -> str | None:
    """Split that a folder of labels says: labelsTr, labelsTs, train/labels, labels/train."""
    folder = _folder(labels)
    names = [folder[1] or "" if folder else "", labels.parent.name, labels.parent.parent.name]
    return next((_SPLIT[name.lower()] for name in names if name.lower() in _SPLIT), None)


def pair(images: list[Path], labels: list[Path]) -> dict[Path, list[Path]]:
    """The volumes that each label volume is of: those whose names begin with its own.

    They lie beside it or, of labelsTr, in imagesTr. A volume goes to the longest name that fits.
    """
    beside = defaultdict(list)
    for image in images:
        beside[image.parent].append(image)
    best: dict[Path, tuple[int, Path]] = {}
    for path in labels:
        begin, folder = _LABEL.sub("", _stem(path)), _folder(path)
        kind = f"images{folder[1] or ''}" if folder else ""
        place = child(path.parent.parent, kind) if folder else path.parent
        for image in beside[place]:
            rest = _stem(image)[len(begin) :]
            fits = _stem(image).startswith(begin) and (not begin or not rest or rest[0] in "-_. ")
            if fits and len(begin) >= best.get(image, (-1, path))[0]:
                best[image] = (len(begin), path)
    found = defaultdict(list)
    for image in images:
        if image in best:
            found[best[image][1]].append(image)
    return found


def _declared(base: Path) -> tuple[str, ...]:
    """Class names of nnU-Net's dataset.json: ``{"1": "tumour"}`` or ``{"tumour": 1}``."""
    file = base / _SETTINGS
    if not file.is_file():
        return ()
    try:
        told = json.loads(file.read_text("utf-8-sig"))["labels"]
        pairs = [(k, v) if isinstance(v, int) else (v, int(k)) for k, v in told.items()]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DescryError(f"{file}: no labels as numbers and names ({error!r}).") from None
    return by_value({number: str(name) for name, number in pairs})


def _named(labels: Path) -> tuple[str, ...]:
    """Class names in the header of a label volume; none if it cannot be read."""
    try:
        return open_volume(labels).names
    except Unreadable:
        return ()


def by_value(names: Mapping[int, str]) -> tuple[str, ...]:
    """Names of the values 1, 2, 3, ...; one without a name is called by its number."""
    return tuple(
        names.get(value, f"value {value}") for value in range(1, max(names, default=0) + 1)
    )


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume whose axes count to the patient's left, back and head.

    Attributes
    ----------
    shape : (int, int, int)
    spacing : (float, float, float)
        mm per voxel.
    names : tuple of str
        Of the values 1, 2, 3, ..., where the file tells them (segmentations of 3D Slicer).
    several : bool
        The file holds more than this one, which is its first.
    values : array of that shape, or None
        None: not read yet.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    names: tuple[str, ...] = ()
    several: bool = False
    values: NDArray[Any] | None = None


def open_volume(path: Path, pixels: bool = False) -> Volume:
    """Read the header of a volume and, if wanted, its values.

    Raises
    ------
    Unreadable
        When it is damaged, or no volume of numbers.
    DescryError
        When what reads it is not installed.
    """
    try:
        opened = _nifti(path, pixels) if ".nii" in path.name.lower() else _nrrd(path, pixels)
    except (ImportError, DescryError, Unreadable):
        raise
    except Exception as error:  # neither package has a common base for what damaged files raise
        raise Unreadable("corrupt image", f"{type(error).__name__}: {error}") from error
    return opened


@lru_cache(maxsize=2)
def _values(path: Path) -> Volume:
    """A volume and its labels, once for all of their slices that a worker gets in a row."""
    return open_volume(path, pixels=True)


def _package(name: str) -> ModuleType:
    try:
        return __import__(name, fromlist=["orientations"])
    except ImportError:
        raise DescryError(f"volumes need {name}: pip install 'descry[volumes]'") from None


def _nifti(path: Path, pixels: bool) -> Volume:
    image = _package("nibabel").load(path)
    shape = tuple(image.shape)
    values = np.asanyarray(image.dataobj) if pixels else None
    if len(shape) > 3 and values is not None:
        values = values[(slice(None),) * 3 + (0,) * (len(shape) - 3)]
    several = int(np.prod(shape[3:])) > 1
    return _turned(values, shape[:3], image.affine, several=several)


def _nrrd(path: Path, pixels: bool) -> Volume:
    package = _package("nrrd")
    values, header = package.read(str(path)) if pixels else (None, package.read_header(str(path)))
    shape = tuple(int(size) for size in header["sizes"])
    directions = np.array(header.get("space directions", np.eye(len(shape))), np.float64)
    spatial = [axis for axis in range(len(shape)) if np.isfinite(directions[axis]).all()]
    if len(spatial) != 3:
        raise Unreadable("not a volume", f"{len(spatial)} axes in space")
    if values is not None:
        values = values[tuple(slice(None) if a in spatial else 0 for a in range(len(shape)))]
    affine = np.eye(4)
    affine[:3, :3] = directions[spatial].T
    across, along = _counts_to(str(header.get("space", "")).lower())
    affine[:2] *= [[-1 if across == "l" else 1], [-1 if along == "p" else 1]]
    numbers = {key[:-10] for key in header if re.fullmatch(r"Segment\d+_LabelValue", key)}
    names = {int(header[f"{n}LabelValue"]): str(header.get(f"{n}Name", "")) for n in numbers}
    several = len(shape) > 3 and max(np.delete(shape, spatial)) > 1
    size = tuple(shape[axis] for axis in spatial)
    return _turned(values, size, affine, by_value(names), bool(several))


def _counts_to(space: str) -> tuple[str, str]:
    """First letters of where the first two axes of a NRRD's space count to; else as in DICOM."""
    words = space.split("-") if "-" in space else list(space)
    letters = [word[:1] for word in words[:2]]
    return ("r" if letters[:1] == ["r"] else "l", "a" if letters[1:] == ["a"] else "p")


def _turned(
    values: NDArray[Any] | None,
    shape: tuple[int, ...],
    affine: NDArray[np.float64],
    names: tuple[str, ...] = (),
    several: bool = False,
) -> Volume:
    """The volume with its axes in the order of the patient's, to L, P and S.

    Parameters
    ----------
    affine : array (4, 4)
        From voxels to mm, to the patient's right, front and head (as NIfTI counts).
    """
    turn = _package("nibabel.orientations")
    now = turn.io_orientation(affine)
    if len(shape) != 3 or np.isnan(now).any():
        raise Unreadable("not a volume", f"shape {shape}, or axes that coincide")
    change = turn.ornt_transform(now, turn.axcodes2ornt("LPS"))
    order = np.argsort(change[:, 0])
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    if values is not None:
        values = turn.apply_orientation(values, change)
        if values.dtype.kind not in "iufb":
            raise Unreadable("not a volume", f"values of type {values.dtype}")
    return Volume(
        (shape[order[0]], shape[order[1]], shape[order[2]]),
        (float(sides[order[0]]), float(sides[order[1]]), float(sides[order[2]])),
        names,
        several,
        values,
    )


def slice_of(values: NDArray[Any], plane: str, number: int) -> NDArray[Any]:
    """A slice (H, W) of an array that counts to L, P and S, top row first."""
    if plane == "axial":
        return values[:, :, number].T
    cut = values[number] if plane == "sagittal" else values[:, number]
    return cut.T[::-1]  # the head on top


def read_slice(raw: Path, record: Record, intensity: Intensity, meaning: MaskMeaning) -> Picture:
    """Decode a slice and measure the objects that its labels show.

    Raises
    ------
    Unreadable
        When volume or labels cannot be used, or the slice is empty.
    """
    mask, plane = str(record.attributes["mask"]), str(record.attributes["plane"])
    number = int(str(record.attributes["slice"]))
    volume, labels = _values(raw / record.path), _values(raw / mask)
    assert volume.values is not None and labels.values is not None
    pixels = slice_of(volume.values, plane, number)
    values = slice_of(labels.values, plane, number)
    if not np.array_equal(values, np.round(values)):
        raise Unreadable("mask values are not exact", f"{mask}: not whole numbers")
    found, _ = meaning.objects(Mask(np.asarray(values, np.int64)), mask)
    if not found and pixels.min() == pixels.max():
        raise Unreadable(EMPTY)
    boxes = tuple(
        Box(*extent, name, f"{mask}:{plane} {number} {name} {n}", mask=shape)
        for name, n, (extent, shape) in found
    )
    notes: tuple[str, ...] = (FIRST,) if volume.several else ()
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        finite = pixels[np.isfinite(pixels)]
        pixels = np.where(np.isfinite(pixels), pixels, finite.min() if finite.size else 0)
        notes += (FILLED,)
    shown = to_uint8(np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("=")), intensity)
    down, across = [s for axis, s in reversed([*enumerate(volume.spacing)]) if axis != _AXIS[plane]]
    spacing = {"pixel_spacing_mm": [round(across, 6), round(down, 6)]}
    return Picture(shown, boxes, notes=notes, attributes=spacing)

"""Where the parts of COD10K lie: the official v3 tree and the re-packed trees of detection code.

Three packings are known: the release itself (``Train/Image``, ``Train/GT_Instance``, ...), the one
of instance-segmentation code such as OSFormer and DCNet (``Train_Image_CAM``, ``annotations/``),
and the one of camouflage segmentation code since SINet (``TrainDataset/Imgs``, ``GT``), which
mixes images of the CAMO dataset into the training folder.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.convert.formats.folders import bases
from pipeline.errors import DescryError

SPLIT_NAMES = ("train", "test")
# "{S}" stands for Train or Test. Of several candidates the first that exists is taken.
_JSON = {
    "train": ("Train/CAM_Instance_Train.json", "annotations/CAM_Instance_Train.json",
              "annotations/train_instance.json"),
    "test": ("Test/CAM_Instance_Test.json", "annotations/CAM_Instance_Test.json",
             "annotations/test2026.json", "annotations/test_instance.json"),
}  # fmt: skip
_IMAGES = {
    "COD10K v3": ("{S}/Image",),
    "OSFormer/DCNet": ("{S}_Image_CAM",),
    "SINet": ("{S}Dataset/COD10K/Imgs", "{S}Dataset/COD10K/Image",
              "{S}Dataset/Imgs", "{S}Dataset/Image"),
}  # fmt: skip
# What a folder that is not COD10K may be, by the names in it, for the error message.
_STRANGERS = {
    "NC4K": "NC4K", "CAMO": "CAMO", "CAMO-V.1.0-CVIU2019": "CAMO", "CHAMELEON": "CHAMELEON",
    "GT_Detection": "COD10K v1 or v2, which are not supported: get v3",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SplitPaths:
    """The parts of one split; None for what is not there.

    Attributes
    ----------
    split : str
        ``train`` or ``test``.
    images : Path
    json, instance, objects, listing : Path or None
        The COCO-like JSON, the folders of index masks and of object masks, and the
        ``CAM-NonCAM_Instance_*.txt``.
    """

    split: str
    images: Path
    json: Path | None
    instance: Path | None
    objects: Path | None
    listing: Path | None


@dataclass(frozen=True, slots=True)
class ReleaseLayout:
    """A recognised packing and its two splits."""

    name: str
    splits: tuple[SplitPaths, ...]


def find_layout(raw: Path) -> ReleaseLayout:
    """Recognise how COD10K is packed in `raw` or in one of its direct subfolders.

    Raises
    ------
    DescryError
        When the folder is missing or empty, holds only one of the two splits, or something else.
    """
    for base in bases(raw):
        for name, candidates in _IMAGES.items():
            images = {s: _first(base, candidates, s, Path.is_dir) for s in SPLIT_NAMES}
            if any(images.values()):
                return ReleaseLayout(
                    name, tuple(_places(base, name, s, images) for s in SPLIT_NAMES)
                )
    raise DescryError(_not_found(raw))


def _first(
    base: Path,
    candidates: Sequence[str],
    split: str,
    is_wanted: Callable[[Path], bool] = Path.is_file,
) -> Path | None:
    """The first of the candidate paths that is there."""
    paths = (base / candidate.format(S=split.capitalize()) for candidate in candidates)
    return next((path for path in paths if is_wanted(path)), None)


def _places(base: Path, name: str, split: str, found: dict[str, Path | None]) -> SplitPaths:
    """The parts of one split of a recognised packing."""
    images = found[split]
    if images is None:
        there = next(path for path in found.values() if path)
        raise DescryError(
            f"{base}: the {split} images are missing: {there.relative_to(base)} is there, its "
            f"{split} counterpart is not (layout {name}). Unpack both official splits."
        )
    objects = images.parent / "GT" if name == "SINet" else _in_split(base, split, "GT_Object")
    return SplitPaths(
        split,
        images,
        None if name == "SINet" else _first(base, _JSON[split], split),
        _filled(_in_split(base, split, "GT_Instance")),
        _filled(objects),
        _first(base, ("{S}/CAM-NonCAM_Instance_{S}.txt",), split),
    )


def _in_split(base: Path, split: str, folder: str) -> Path:
    return base / split.capitalize() / folder


def _filled(path: Path) -> Path | None:
    """`path` if it is a folder with something in it."""
    return path if path.is_dir() and any(path.iterdir()) else None


def _not_found(raw: Path) -> str:
    """Say what is in a folder that is not COD10K, and what should be."""
    names = sorted(path.name for path in raw.iterdir())
    shown = ", ".join(names[:6]) + (f", ... ({len(names)} entries)" if len(names) > 6 else "")
    inside = {path.name for base in bases(raw) for path in base.iterdir()}
    stranger = next((f" (is it {_STRANGERS[n]}?)" for n in sorted(inside & _STRANGERS.keys())), "")
    known = "; ".join(f"{name}: {images[0].format(S='Train')}" for name, images in _IMAGES.items())
    return (
        f"{raw}: no known COD10K layout: it holds {shown or 'nothing'}{stranger}. Known layouts "
        f"and the folder each is recognised by: {known}. Unpack COD10K-v3 so that Train/ and "
        "Test/ lie here."
    )

"""Class names of a YOLO dataset, and the image folders that its yaml claims."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.convert.formats.folders import SPLIT_NAMES, relative
from pipeline.convert.records import Ledger
from pipeline.errors import DescryError

_LISTINGS = ("classes.txt", "labels/classes.txt", "obj.names", "data/obj.names")


@dataclass(frozen=True, slots=True)
class ClassNames:
    """Class names by index.

    Attributes
    ----------
    names : tuple of str
    file : Path or None
        The yaml or classes.txt that they were read from; None: given by the caller.
    keypoints : int
        Numbers behind the box in a row of a pose dataset (``kpt_shape``); 0: no poses.
    beside : tuple of Path
        Further files that belong to it: Darknet's settings and lists of images.
    notes : tuple of str
        What the reader of the report should know about that file.
    """

    names: tuple[str, ...]
    file: Path | None = None
    notes: tuple[str, ...] = ()
    keypoints: int = 0
    beside: tuple[Path, ...] = ()

    def account(self, raw: Path, ledger: Ledger) -> None:
        """Claim the files and hand the notes over."""
        for file in (self.file, *self.beside):
            if file is not None and file.is_relative_to(raw):
                ledger.claim(relative(raw, file))
        for text in self.notes:
            ledger.note(text)


def find_names(base: Path, raw: Path, images: list[Path], given: tuple[str, ...]) -> ClassNames:
    """Class names from a file in `base` or `raw`, else those `given`.

    The file is a yaml, classes.txt, Darknet's obj.names or Label Studio's notes.json.

    Parameters
    ----------
    base, raw : Path
        Where the layout begins, and the raw folder around it.
    images : list of Path
        The image folders that are used, to compare the yaml's paths with.
    given : tuple of str
        ClassNames in index order for a dataset without such a file.

    Raises
    ------
    DescryError
        When there are none, or the file does not hold usable ones.
    """
    for folder in dict.fromkeys((base, raw)):
        file = _yaml_in(folder)
        if file is not None:
            return _from_yaml(file, images)
        notes = folder / "notes.json"
        for name in _LISTINGS:
            if (listing := folder / name).is_file():
                names = _checked(listing.read_text("utf-8-sig").rstrip().split("\n"), listing)
                lists = (path for path in folder.glob("*.txt") if path.stem in SPLIT_NAMES)
                beside = (*sorted(folder.glob("*.data")), *sorted(lists), notes)
                return ClassNames(names, listing, beside=tuple(p for p in beside if p.is_file()))
        if notes.is_file():
            return ClassNames(_from_notes(notes), notes)
    if given:
        return ClassNames(given)
    raise DescryError(
        f"{base}: no yaml with class names (key `names`) stands beside the YOLO folders. Put the "
        'dataset\'s data.yaml there, or set `classes`, in index order (e.g. ["negative", '
        '"positive"]).'
    )


def _from_notes(file: Path) -> tuple[str, ...]:
    """Class names of Label Studio's notes: its categories by id, from 0."""
    try:
        entries = json.loads(file.read_text("utf-8-sig"))["categories"]
        names = {str(entry["id"]): str(entry["name"]) for entry in entries}
    except (ValueError, LookupError, TypeError) as error:
        raise DescryError(f"{file}: no categories with id and name ({error!r}).") from None
    return _checked(_as_list(names, file), file)


def _yaml_in(folder: Path) -> Path | None:
    """The dataset's yaml: data.yaml, or the only one there is."""
    found = sorted(p for pattern in ("*.yaml", "*.yml") for p in folder.glob(pattern))
    preferred = [p for p in found if p.stem == "data"]
    if len(preferred or found) > 1:
        shown = ", ".join(p.name for p in found)
        raise DescryError(f"{folder}: several yaml files ({shown}). Keep one, named data.yaml.")
    return next(iter(preferred or found), None)


def _from_yaml(file: Path, images: list[Path]) -> ClassNames:
    try:
        # All values as they are written: YAML would make 8 of the class name 010, and True of yes.
        content = yaml.load(file.read_text("utf-8-sig"), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DescryError(f"{file}: not a readable yaml file ({error}). Repair it.") from error
    if not isinstance(content, dict) or "names" not in content:
        raise DescryError(f"{file}: key `names` is missing. Add the class names in index order.")
    names = _checked(_as_list(content["names"], file), file)
    count = content.get("nc", str(len(names)))
    if count != str(len(names)):
        raise DescryError(f"{file}: nc is {count!r} but `names` has {len(names)}. Make them agree.")
    return ClassNames(names, file, _path_notes(content, file, images), _keypoints(content, file))


def _keypoints(content: dict[str, Any], file: Path) -> int:
    """Numbers that follow the box in a row of a pose: of [points, 2 or 3], the product."""
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    if isinstance(shape, list) and len(shape) == 2 and all(str(v).isdecimal() for v in shape):
        points, numbers = map(int, shape)
        if points > 0 and numbers in (2, 3):
            return points * numbers
    raise DescryError(f"{file}: kpt_shape is {shape!r}; it must be [number of keypoints, 2 or 3].")


def _as_list(value: Any, file: Path) -> list[Any]:
    """ClassNames as a list; the mapping {0: a, 1: b} must count from 0 without gaps."""
    if isinstance(value, dict):
        if set(value) != {str(index) for index in range(len(value))}:
            raise DescryError(
                f"{file}: `names` has the keys {list(value)}; they must be 0 to {len(value) - 1}."
            )
        return [value[str(index)] for index in range(len(value))]
    if isinstance(value, list) and value:
        return value
    raise DescryError(f"{file}: `names` is {value!r}; it must be a list or a mapping from 0.")


def _checked(values: list[Any], file: Path) -> tuple[str, ...]:
    """Class names by index; a blank one would shift all that follow."""
    if not all(isinstance(value, str) for value in values):
        raise DescryError(f"{file}: `names` {values!r} are not all text. Put them in quotes.")
    names = tuple(value.strip() for value in values)
    if not names or not all(names) or len(set(names)) != len(names):
        raise DescryError(f"{file}: class names {names} must be present and different.")
    return names


def _path_notes(content: dict[str, Any], file: Path, images: list[Path]) -> tuple[str, ...]:
    """A note when the yaml's own paths do not lead to `images`, the folders that are used.

    Roboflow writes paths relative to where its notebook ran (``../test/images``).
    """
    root = file.parent / str(content.get("path") or ".")
    used = {p.resolve() for folder in images for p in (folder, folder.parent)}
    claimed = {key: content[key] for key in SPLIT_NAMES if isinstance(content.get(key), str)}
    wrong = [f"{k}: {v}" for k, v in claimed.items() if (root / v).resolve() not in used]
    if not wrong:
        return ()
    return (
        f"{file.name}: paths that do not lead to the image folders of this copy are ignored "
        f"({'; '.join(wrong)}); the folders found beside the file are used.",
    )

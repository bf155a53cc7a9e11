"""Raw files of one dataset to COCO JSON, images and a report that accounts for all of it.

`open_source` finds the converter of a dataset and checks its raw folder, `convert` runs it.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import DescryError

if TYPE_CHECKING:
    from pipeline.convert.records import Source

_MODULES = {
    "ccellbio": ("datasets.ccellbio", "CCellBio"),
    "cod10k": ("datasets.cod10k.source", "Cod10k"),
    "brain_tumor": ("datasets.brain_tumor.source", "BrainTumor"),
    "nih": ("datasets.nih.source", "Nih"),
    "rsna": ("datasets.rsna.source", "Rsna"),
}


class _Sources(Mapping[str, "type[Source]"]):
    """The converters by dataset name; a module is imported when its converter is asked for."""

    def __getitem__(self, name: str) -> "type[Source]":
        module, title = _MODULES[name]
        return getattr(import_module(f"pipeline.convert.{module}"), title)

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


SOURCES = _Sources()


def open_source(name: str, raw: Path, **parameters: Any) -> "Source":
    """Converter of dataset `name` on its raw folder.

    Parameters
    ----------
    name : str
        One of `SOURCES`, or the name of a dataset of one's own, which is an annotated folder.
    raw : Path
        Where the dataset was unpacked.
    **parameters
        Those of the converter's class.

    Raises
    ------
    DescryError
        When the folder is missing, empty or another dataset's, or a parameter is not one of the
        converter's.
    """
    kind = _kind(name)
    _check_raw(name, kind, raw)
    fields = kind.__dataclass_fields__  # type: ignore[attr-defined]
    allowed = [key for key in fields if key not in ("raw", "name")]
    for key in parameters:
        if key not in allowed:
            raise DescryError(
                f"{name}: parameter {key!r} is not known; there are {', '.join(allowed) or 'none'}"
            )
    own = {} if name in SOURCES else {"name": name}
    return kind(raw, **parameters, **own)  # type: ignore[call-arg]


def _kind(name: str) -> "type[Source]":
    if name in SOURCES:
        return SOURCES[name]
    from pipeline.convert.annotated import AnnotatedFolder

    return AnnotatedFolder


def _check_raw(name: str, kind: "type[Source]", raw: Path) -> None:
    """Refuse a raw folder that is missing, empty or of another dataset."""
    way_out = f"{kind.download} Then give its folder ({raw})."
    if not raw.is_dir():
        what = "is a file, not a folder" if raw.exists() else "does not exist"
        raise DescryError(f"{raw}: the raw folder of {name} {what}. {way_out}")
    if not any(path.name[0] != "." for path in raw.iterdir()):
        raise DescryError(f"{raw}: the raw folder of {name} is empty. {way_out}")
    if _looks_like(kind, raw):
        return
    others = [other for other in SOURCES if other != name and _looks_like(SOURCES[other], raw)]
    if others:
        raise DescryError(
            f"{raw}: this looks like {' or '.join(others)}, not like {name}: use "
            f"`descry convert {others[0]}`"
        )
    raise DescryError(
        f"{raw}: holds none of {', '.join(kind.markers)}, so it is not {name}. {way_out}"
    )


def _looks_like(kind: "type[Source]", raw: Path) -> bool:
    return any(next(raw.glob(marker), None) is not None for marker in kind.markers)


def convert(source: "Source", out: Path, **options: Any) -> dict[str, Any]:
    """Convert `source` into the folder `out`; see `pipeline.convert.engine.writer.convert`."""
    from pipeline.convert.engine.writer import convert as run  # numpy and all the rest, only now

    return run(source, out, **options)

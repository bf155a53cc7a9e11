"""Raw files of one dataset to COCO JSON, images and a report that accounts for all of it.

`open_source` finds the converter of a dataset and checks its raw folder, `convert` runs it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import DescryError

if TYPE_CHECKING:
    from pipeline.convert.records import Source
    from pipeline.convert.registry import Dataset


def open_source(name: str, raw: Path, params: Any = None, **more: Any) -> "Source":
    """Converter of dataset `name` on its raw folder.

    Parameters
    ----------
    name : str
        Of a built-in dataset, or of one's own, which is an annotated folder.
    raw : Path
        Where the dataset was unpacked.
    params, **more
        See `pipeline.convert.registry.Dataset.open`.

    Raises
    ------
    DescryError
        When the folder is missing, empty or another dataset's.
    """
    from pipeline.convert.registry import built_in, find

    dataset, others = find(name), [one for one in built_in().values() if one.name != name]
    _check_raw(dataset, raw, others, chosen=getattr(params, "layout", "auto") != "auto")
    return dataset.open(raw, params, **more)


def _check_raw(dataset: "Dataset", raw: Path, others: "list[Dataset]", chosen: bool) -> None:
    """Refuse a raw folder that is missing, empty or of another dataset.

    With `chosen`, somebody said what an annotated folder holds: reading it shows whether it does.
    """
    name, way_out = dataset.name, f"{dataset.download} Then give its folder ({raw})."
    if not raw.is_dir():
        what = "is a file, not a folder" if raw.exists() else "does not exist"
        raise DescryError(f"{raw}: the raw folder of {name} {what}. {way_out}")
    if not any(path.name[0] != "." for path in raw.iterdir()):
        raise DescryError(f"{raw}: the raw folder of {name} is empty. {way_out}")
    if _looks_like(dataset.markers, raw) or (chosen and dataset.signs):
        return
    alike = [other.name for other in others if _looks_like(other.markers, raw)]
    if alike:
        raise DescryError(
            f"{raw}: this looks like {' or '.join(alike)}, not like {name}: use "
            f"`descry convert {alike[0]}`"
        )
    if _looks_like(dataset.signs, raw):
        return
    raise DescryError(
        f"{raw}: holds none of {', '.join(dataset.markers)}, so it is not {name}. {way_out}"
    )


def _looks_like(markers: tuple[str, ...], raw: Path) -> bool:
    return any(next(raw.glob(marker), None) is not None for marker in markers)


def convert(source: "Source", out: Path, **options: Any) -> dict[str, Any]:
    """Convert `source` into the folder `out`; see `pipeline.convert.engine.writer.convert`."""
    from pipeline.convert.engine.writer import convert as run  # numpy and all the rest, only now

    return run(source, out, **options)

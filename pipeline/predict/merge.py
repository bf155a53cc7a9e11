"""The shards of a run as one: the bytes that a run without shards would have written.

Files are put into the order of a single run, what is named by a file's number gets its number
there, and tables, account and pages are written anew.
"""

import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.atomic import write_json
from pipeline.errors import DescryError
from pipeline.predict.formats import DICOM
from pipeline.predict.formats.format import of_objects
from pipeline.predict.formats.pixels import trim
from pipeline.predict.records import FileResult
from pipeline.predict.results import PREDICTION, Results
from pipeline.predict.run import Progress, RunSummary, write_results
from pipeline.predict.select import in_order
from pipeline.predict.shards import Shard, described, names_digest, read_shards
from pipeline.predict.sources import find_files, root_of
from pipeline.predict.twins import TWIN, Twins
from pipeline.work.journal import Journal, entry_at
from pipeline.work.workspace import open_workspace

_CHUNK = 64  # files that are committed together
_OF_OBJECTS = tuple(f"{kind.name}/" for kind in DICOM)


@dataclass(frozen=True, slots=True)
class _File:
    """A file of the run: its number among the sorted paths, and where its account is.

    Attributes
    ----------
    rank : int
        From 0.
    shard : Shard
    place : int
        Of its line in the shard's journal.
    number : int
        In the shard's run, from 1.
    """

    rank: int
    shard: Shard
    place: int
    number: int

    def result(self) -> FileResult:
        """Read its account."""
        return FileResult.from_dict(entry_at(self.shard.journal, self.place))


def merge(
    folder: Path,
    out: Path,
    source: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> RunSummary:
    """Write the finished shards in `folder` as one run would have written them.

    Parameters
    ----------
    folder : Path
        The output folder of the shards; it is left as it is.
    out : Path
        Output folder, complete or absent as with `predict_folder`. Pictures and DICOM objects are
        hard links to the shards' where the disk allows it.
    source : Path, optional
        What the shards have read. Needed where files of one SOP Instance UID are in several
        shards: their pixels are compared.
    progress : callable
        Called with (files done, files in all).

    Raises
    ------
    DescryError
        When shards are missing or of different runs; when `source` is needed or not what the
        shards have read; when a shard has left out DICOM objects that one run would have written.
    """
    shards = read_shards(folder)
    files = _in_run_order(shards)
    twins = _twins(shards, files, folder, source)
    categories = tuple((int(c["id"]), str(c["name"])) for c in shards[0].about["categories"])
    with open_workspace(out, PREDICTION) as space, Journal(space.state / "journal") as journal:
        results = Results(space, journal)
        identity = {"shards": [shard.stamp() for shard in shards], "of": str(folder.resolve())}
        done = results.resume(identity, _CHUNK, len(files))
        grown = {shard.number: shard.grown() for shard in shards}
        for start in range(done, len(files), _CHUNK):
            chunk = enumerate(files[start : start + _CHUNK], start + 1)
            results.commit(
                _renumbered(file, number, grown[file.shard.number], space.partial, twins)
                for number, file in chunk
            )
            progress(min(start + _CHUNK, len(files)), len(files))
        about = _described(shards)
        trim(space.partial, results, about["options"]["pixels"])
        counts = write_results(results, categories, about)
        write_json(space.partial / "timing.json", _timing(shards))
        space.publish()
    return RunSummary(counts, exit_code=1 if counts["failed"] else 0)


def _in_run_order(shards: Sequence[Shard]) -> list[_File]:
    """All files, as a single run takes them."""
    found = {
        rank: _File(rank, shard, place, number)
        for shard in shards
        for number, (rank, place) in enumerate(shard.entries(), 1)
    }
    places = sorted(ranked for shard in shards for ranked in shard.ranks())
    return [found[rank] for rank in in_order(places)]


def _renumbered(
    file: _File,
    number: int,
    grown: Mapping[int, Sequence[str]],
    out: Path,
    twins: Mapping[int, bool],
) -> FileResult:
    """A file's account under its number in the whole run; what was written for it goes along."""

    def name(old: str) -> str:
        folder, _, rest = old.rpartition("/")
        return f"{folder}/{number:06d}-{rest.partition('-')[2]}"

    twin = twins.get(file.rank)
    for old in grown.get(file.number, ()):
        if not (twin and old.startswith(_OF_OBJECTS)):
            _link(file.shard.folder / old, out / name(old))
    result = file.result()
    for frame in result.frames:
        if frame.overlay:
            frame.overlay = name(frame.overlay)
    if twin is not None:  # DICOM objects are of the first of them only, and so are their troubles
        rest = (one for one in result.opened.warnings if one != TWIN)
        kept = tuple(one for one in rest if not (twin and of_objects(one[0])))
        result.opened = replace(result.opened, warnings=(*kept, TWIN) if twin else kept)
    return result


def _link(old: Path, new: Path) -> None:
    new.parent.mkdir(parents=True, exist_ok=True)
    new.unlink(missing_ok=True)
    try:
        os.link(old, new)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(old, new)


def _twins(
    shards: Sequence[Shard], files: Sequence[_File], folder: Path, source: Path | None
) -> dict[int, bool]:
    """Ranks of files that are the twin of another shard's, or are not any more, and which of it."""
    sharing: dict[str, list[tuple[_File, bool]]] = defaultdict(list)
    for file in files:
        result = file.result()
        if result.ended.status == "processed" and result.opened.instance:
            sharing[result.opened.instance].append((file, TWIN in result.opened.warnings))
    several = {
        uid: found
        for uid, found in sharing.items()
        if len({file.shard.number for file, _ in found}) > 1
    }
    if not several:
        return {}
    if source is None:
        raise DescryError(
            f"{folder}: {len(several)} SOP Instance UIDs are in several shards, and whether their "
            f"pixels differ is to be seen: give --source, the folder that the shards have read"
        )
    paths = _paths(shards[0], folder, source)
    twins, changed = Twins(root_of(source)), {}
    for uid, found in several.items():
        for file, was in found:
            if (now := twins.is_twin(uid, paths[file.rank])) != was:
                changed[file.rank] = now
    wanted = shards[0].about["options"]["objects"]
    if not all(changed.values()) and any(wanted[kind.name] for kind in DICOM):
        raise DescryError(
            f"{folder}: DICOM objects are missing of files that share their SOP Instance UID with "
            f"others in their own shard and in another; run without shards"
        )
    return changed


def _paths(shard: Shard, folder: Path, source: Path) -> list[str]:
    """The sorted paths of all files that the shards have read."""
    paths, known = find_files(source, folder), shard.files
    hidden = shard.about["pseudonyms"] is not None  # then their names are not known here
    if len(paths) != known["files"] or not (hidden or names_digest(paths) == known["names"]):
        raise DescryError(f"--source {source}: does not hold the files that the shards have read")
    return paths


def _described(shards: Sequence[Shard]) -> dict[str, Any]:
    """What a single run would say of itself; several kinds of machine are named, all of them."""
    devices = sorted({str(shard.about["device"]) for shard in shards})
    about = described(shards[0].about)
    thresholds = about["score_threshold"]
    by_class = {one["name"]: thresholds["by_class"][one["name"]] for one in about["categories"]}
    about["score_threshold"] = {**thresholds, "by_class": by_class}  # pages keep classes' order
    return {**about, "device": "; ".join(devices)}


def _timing(shards: Sequence[Shard]) -> dict[str, Any]:
    """The shards' times together."""
    each = [shard.timing() for shard in shards]
    return {key: round(sum(one[key] for one in each), 3) for key in each[0]}

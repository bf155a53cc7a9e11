"""What a shard of a run keeps beside its results, so that `merge` can put the shards together.

``shard/`` in its folder holds the journal of its files, the place of each in its series (one line
a file, in the order of the paths) and a digest of the names of all files that the shards share.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from pipeline.atomic import write_json
from pipeline.errors import DescryError
from pipeline.predict.formats import GROWING
from pipeline.predict.plan import Plan
from pipeline.predict.results import PREDICTION
from pipeline.predict.select import Place, in_order
from pipeline.work.workspace import Workspace

FOLDER = "shard"
_NAME = re.compile(r"shard-(\d{4,})-of-(\d{4,})")
_OF_ONE = ("format", "mark", "counts", "device")  # of run.json, what says nothing of the plan


class Shared:
    """Notes what a shard keeps while its run goes on.

    Parameters
    ----------
    space : Workspace
    plan : Plan
    paths : sequence of str
        All files of all shards, sorted.
    """

    def __init__(self, space: Workspace, plan: Plan, paths: Sequence[str]) -> None:
        self.space, self.plan = space, plan
        self.files = {"files": len(paths), "names": names_digest(map(plan.shown, paths))}

    def noted(
        self, places: Iterable[tuple[str, Place | None]]
    ) -> Iterator[tuple[str, Place | None]]:
        """Pass places on, writing each down."""
        with (self.space.state / "places").open("w", encoding="utf-8") as stream:
            for path, place in places:
                known = None if place is None else list(astuple(place))
                if known and self.plan.pseudonyms:
                    known[0] = self.plan.pseudonyms.uid(known[0])
                stream.write(json.dumps(known) + "\n")
                yield path, place

    def keep(self) -> None:
        """Move what is noted into the output, which is then complete."""
        folder = self.space.partial / FOLDER
        folder.mkdir(exist_ok=True)
        write_json(folder / "files.json", self.files)
        for name in ("places", "journal"):
            (self.space.state / name).replace(folder / name)


def names_digest(names: Iterable[str]) -> str:
    """SHA-256 of names as they are written, in their order."""
    digest = sha256()
    for name in names:
        digest.update(json.dumps(name).encode())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Shard:
    """A finished shard.

    Attributes
    ----------
    folder : Path
    number, of : int
        Which it is, from 0, of how many.
    about : dict
        Its run.json.
    files : dict
        Number of files of all shards together, and the digest of their names.
    places : list of Place or None
        Of its files in the order of their paths.
    """

    folder: Path
    number: int
    of: int
    about: dict[str, Any]
    files: dict[str, Any]
    places: list[Place | None]

    @classmethod
    def read(cls, folder: Path, number: int, of: int) -> "Shard":
        """Read all but the journal."""
        kept = folder / FOLDER
        if not PREDICTION.is_in(folder) or not kept.is_dir():
            raise DescryError(
                f"{folder}: not a shard of `descry predict` as it is now; run it again"
            )
        with (kept / "places").open(encoding="utf-8") as stream:
            places = [Place(*known) if (known := json.loads(line)) else None for line in stream]
        return cls(
            folder, number, of, _json(folder / "run.json"), _json(kept / "files.json"), places
        )

    @property
    def journal(self) -> Path:
        """The accounts of its files."""
        return self.folder / FOLDER / "journal"

    def stamp(self) -> list[int]:
        """Changes when it is written again."""
        about = self.journal.stat()
        return [about.st_size, about.st_mtime_ns]

    def timing(self) -> dict[str, Any]:
        """Its timing.json."""
        return _json(self.folder / "timing.json")

    def ranks(self) -> list[tuple[int, Place | None]]:
        """Every file's number among the sorted paths of all shards, with its place."""
        return [(self.number + self.of * i, place) for i, place in enumerate(self.places)]

    def entries(self) -> Iterator[tuple[int, int]]:
        """Rank of every file, and where its line begins in the journal, in the order of the run."""
        with self.journal.open("rb") as stream:
            for rank in in_order(self.ranks()):
                yield rank, stream.tell()
                if not stream.readline().endswith(b"\n"):
                    raise DescryError(f"{self.journal}: lacks files; run the shard again")

    def grown(self) -> dict[int, list[str]]:
        """What was written file by file: number of the input file, from 1 -> paths."""
        found: dict[int, list[str]] = {}
        for name in GROWING:
            for path in sorted((self.folder / name).rglob("*")):
                number = path.name.partition("-")[0]
                if number.isdecimal() and path.is_file():
                    found.setdefault(int(number), []).append(
                        path.relative_to(self.folder).as_posix()
                    )
        return found


def _json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def read_shards(folder: Path) -> list[Shard]:
    """All shards of a run, the first one first.

    Raises
    ------
    DescryError
        When there are none, some are missing or unfinished, or they are of different runs.
    """
    named = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := _NAME.fullmatch(path.name):
            named[int(match[2]), int(match[1])] = path
    counts = sorted({of for of, _ in named})
    if not counts:
        raise DescryError(f"{folder}: holds no finished shard; give the --out of the shards")
    if len(counts) > 1:
        raise DescryError(f"{folder}: shards of {' and of '.join(map(str, counts))}; keep one kind")
    (of,) = counts
    missing = [str(number) for number in range(of) if (of, number) not in named]
    if missing:
        raise DescryError(
            f"{folder}: of {of} shards these are missing or not finished: {', '.join(missing)}; "
            f"`descry predict --num-shards {of} --shard {missing[0]}` makes or continues it"
        )
    shards = [Shard.read(named[of, number], number, of) for number in range(of)]
    for other in shards[1:]:
        _check_equal(shards[0], other)
    return shards


def _check_equal(one: Shard, other: Shard) -> None:
    """Refuse shards of different runs, naming what differs."""
    if one.files != other.files:
        raise DescryError(
            f"{one.folder} and {other.folder}: what they read was not the same "
            f"({one.files['files']} and {other.files['files']} files, or other names); run the "
            f"older one again"
        )
    ours, theirs = described(one.about), described(other.about)
    differing = [key for key in ours if ours[key] != theirs.get(key)]
    if differing:
        raise DescryError(
            f"{one.folder} and {other.folder}: not of one run, run.json differs in "
            f"{', '.join(differing)}; run one of them again"
        )


def described(about: dict[str, Any]) -> dict[str, Any]:
    """What of a run.json all shards have in common, as a run without shards would say it."""
    options = {**about["options"], "shard": 0, "num_shards": 1}
    return {key: value for key, value in about.items() if key not in _OF_ONE} | {"options": options}

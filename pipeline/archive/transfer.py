"""From an archive into a folder and from a folder into an archive, object by object."""

import logging
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.archive.address import DimseAddress, WebAddress
from pipeline.archive.query import Instance, Query, is_uid
from pipeline.atomic import write_csv
from pipeline.errors import DescryError
from pipeline.predict.formats import DICOM

log = logging.getLogger(__name__)


class Archive(Protocol):
    """One side of a conversation with an archive."""

    def find(self, query: Query) -> Iterator[Instance]:
        """Name the objects that match.

        Raises
        ------
        DescryError
            When the archive cannot be asked.
        """
        ...

    def fetch(
        self, instances: Iterable[Instance], folder: Path
    ) -> Generator[tuple[Instance, str], None, None]:
        """Write each object to `Instance.path` below `folder`, whole or not at all.

        Yields
        ------
        (Instance, str)
            What it could not get has a reason.

        Raises
        ------
        DescryError
            When the archive cannot be reached any more.
        """
        ...

    def send(self, paths: Iterable[Path]) -> Iterator[tuple[Path, str]]:
        """Store files; yield each with the archive's reason if it refuses it.

        Raises
        ------
        DescryError
            As `fetch`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Transfers:
    """What a prediction asks of archives.

    Attributes
    ----------
    origin : address or None
        Where the pictures come from; None: from a folder.
    query : Query or None
        Which ones; goes with `origin`.
    target : address or None
        Where results go.
    timeout : float
        Seconds without a word after which an archive counts as unreachable.
    limit : int
        Bytes that may be fetched.
    """

    origin: WebAddress | DimseAddress | None = None
    query: Query | None = None
    target: WebAddress | DimseAddress | None = None
    timeout: float = 60.0
    limit: int = 50 * 2**30

    def fetch(self, folder: Path) -> dict[str, str]:
        """Fill a folder; see `fetch_all`."""
        assert self.origin is not None and self.query is not None
        with open_archive(self.origin, self.timeout) as archive:
            return fetch_all(archive, self.query, folder, self.limit)

    def send(self, folder: Path) -> int:
        """Store the results in an output folder; see `send_all`."""
        assert self.target is not None
        with open_archive(self.target, self.timeout) as archive:
            return send_all(archive, folder, [one.name for one in DICOM], folder / "sent.csv")

    def matches(self) -> Iterator[str]:
        """Name what `fetch` would bring, as paths in its folder."""
        assert self.origin is not None and self.query is not None
        with open_archive(self.origin, self.timeout) as archive:
            yield from sorted(instance.path for instance in archive.find(self.query))


def open_archive(
    address: WebAddress | DimseAddress, timeout: float
) -> AbstractContextManager[Archive]:
    """Return the archive at an address.

    Parameters
    ----------
    timeout : float
        Seconds without a word after which the archive counts as unreachable.
    """
    if isinstance(address, WebAddress):
        from pipeline.archive.web import WebArchive

        return WebArchive(address, timeout)
    from pipeline.archive.dimse import DimseArchive

    return DimseArchive(address, timeout)


def fetch_all(archive: Archive, query: Query, folder: Path, limit: int) -> dict[str, str]:
    """Bring what matches a query into a folder; what is there already is not fetched again.

    Parameters
    ----------
    folder : Path
        Holds nothing but what this query asks for when the function returns.
    limit : int
        Bytes that the folder may hold.

    Returns
    -------
    dict
        Path below `folder` -> reason, of each object that the archive did not give.

    Raises
    ------
    DescryError
        When nothing matches, the limit is reached or the archive cannot be reached.
    """
    wanted, lost = {}, {}
    for number, instance in enumerate(archive.find(query), 1):
        if all(map(is_uid, (instance.study, instance.series, instance.uid))):
            wanted[instance.path] = instance
        else:
            lost[f"object-{number}"] = "the archive names it by something that is no UID"
    if not wanted and not lost:
        raise DescryError("--query: the archive holds nothing that matches")
    held = _tidy(folder, wanted)
    missing = [wanted[path] for path in sorted(wanted.keys() - held.keys())]
    log.info("%d objects match, %d are to be fetched", len(wanted), len(missing))
    total = sum(held.values())
    with closing(archive.fetch(missing, folder)) as answers:
        for instance, reason in answers:
            if reason:
                lost[instance.path] = reason
                continue
            total += (folder / instance.path).stat().st_size
            if total > limit:
                raise DescryError(
                    f"--spool-gib {limit / 2**30:g}: more than that matches the query; "
                    "narrow the query or raise the limit"
                )
    return lost


def _tidy(folder: Path, wanted: Iterable[str]) -> dict[str, int]:
    """Delete what is not wanted; return the sizes of what is there, by path."""
    held, keep = {}, set(wanted)
    for file in [path for path in folder.rglob("*") if path.is_file()]:
        path = file.relative_to(folder).as_posix()
        if path in keep:
            held[path] = file.stat().st_size
        else:
            file.unlink()
    return held


def send_all(archive: Archive, folder: Path, parts: Iterable[str], table: Path) -> int:
    """Store all DICOM files of some folders of `folder`; write a CSV that accounts for each.

    Parameters
    ----------
    parts : iterable of str
        Names of folders in `folder`; they need not exist.

    Returns
    -------
    int
        How many the archive refused.
    """
    files = [path for part in parts for path in sorted((folder / part).rglob("*.dcm"))]
    rows = [
        (path.relative_to(folder).as_posix(), "refused" if reason else "stored", reason)
        for path, reason in archive.send(files)
    ]
    write_csv(table, ("path", "status", "message"), sorted(rows))
    return sum(status == "refused" for _, status, _ in rows)

"""One conversion from scan to report, for every dataset the same."""

import logging
from pathlib import Path
from typing import Any

from pipeline.convert.engine.assemble import IMAGES, Assembly
from pipeline.convert.engine.report import CONVERSION, ConversionSettings
from pipeline.convert.engine.resume import Fingerprint, PendingRecords
from pipeline.convert.engine.scan import RecordIndex, Scan
from pipeline.convert.engine.split import Fractions
from pipeline.convert.engine.worker import Timings, Worker, keep_freed_memory
from pipeline.convert.records import Source
from pipeline.errors import DescryError
from pipeline.work.journal import Journal
from pipeline.work.pool import ProcessPool, cores
from pipeline.work.progress import Progress
from pipeline.work.workspace import Workspace, open_workspace

log = logging.getLogger(__name__)


def convert(
    source: Source,
    out: Path,
    *,
    seed: int,
    val_fraction: float,
    test_fraction: float,
    workers: int = 0,
    png_level: int = 1,
    progress: bool = True,
) -> dict[str, Any]:
    """Convert one dataset to COCO files, images and a report.

    Writes ``annotations/{train,val,test}.json``, ``images/``, ``report.json``, ``dropped.csv`` and
    ``near_duplicates.csv`` into `out`. Equal input and parameters give equal bytes, whatever the
    number of workers and however often the run was killed: it grows in ``<out>.partial`` and goes
    on from there.

    Parameters
    ----------
    source : Source
    out : Path
        New, empty, or a former conversion, which is replaced when the new one is complete.
    seed : int
        Of the drawn splits.
    val_fraction, test_fraction : float
        Shares of the groups, where there is no official split.
    workers : int
        Processes; 0 for as many as there are cores.
    png_level : int
        0 (stored) to 9 (smallest); see `encode.write_png`.
    progress : bool
        Show a bar on a terminal, else log a line now and then.

    Returns
    -------
    dict
        The content of ``report.json``.

    Raises
    ------
    DescryError
        When the source or the output folder cannot be used, or no image is left.
    """
    return Conversion(
        source,
        ConversionSettings(seed, Fractions(val_fraction, test_fraction), png_level),
        workers or cores(),
        progress,
    ).run(out)


class Conversion:
    """One run.

    Attributes
    ----------
    spent : Timings
        Seconds of all records of this run together, for the benchmark.
    """

    def __init__(
        self, source: Source, settings: ConversionSettings, workers: int, progress: bool = True
    ) -> None:
        if workers < 1:
            raise DescryError(f"workers is {workers}; it must be 0 (all cores) or more")
        if not 0 <= settings.png_level <= 9:
            raise DescryError(f"png_level is {settings.png_level}; it must be 0 to 9")
        self.source, self.settings = source, settings
        self.workers, self.progress = workers, progress
        self.spent = Timings()

    def run(self, out: Path) -> dict[str, Any]:
        """Convert into `out`; see `convert`."""
        check_places(out, self.source.raw)
        with open_workspace(out, CONVERSION) as space, Journal(space.state / "journal") as journal:
            scan = Scan(self.source, space.state / "records.pickle")
            if len(journal):
                log.info("%s: going on after %d images", self.source.name, len(journal))
            index = RecordIndex(scan.records, self.settings.seed)
            self._images(scan, journal, index, space)
            assembly = Assembly(self.source, space, scan, journal, index, self.settings)
            report = assembly.finish()
            space.publish()
        return report

    def _images(self, scan: Scan, journal: Journal, index: RecordIndex, space: Workspace) -> None:
        """Write all images that the journal does not have yet."""
        labels = frozenset(name for name, _ in self.source.categories())
        images = space.partial / IMAGES
        images.mkdir(exist_ok=True)
        worker = Worker(self.source, images, labels, self.settings.png_level)
        fingerprint = Fingerprint(self.source, self.settings.png_level)
        with Progress(f"convert {self.source.name}", "images", scan.records, self.progress) as bar:
            pending = PendingRecords(fingerprint, journal, index, images, bar)
            with ProcessPool(worker, self.workers, prepare=keep_freed_memory) as pool:
                for number, result in pool.run(pending.jobs(scan)):
                    pending.done(number, result, self.spent)


def check_places(out: Path, raw: Path) -> None:
    """Neither folder may hold the other: the output replaces what is there."""
    out, raw = out.resolve(), raw.resolve()
    if out == raw or out in raw.parents or raw in out.parents:
        raise DescryError(
            f"--out {out} and --raw {raw}: one holds the other, and the raw files would be "
            f"replaced or taken for input; choose an output folder elsewhere"
        )

"""A folder of DICOM or images -> detections, tables, overlays and an account of every file."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.atomic import write_json
from pipeline.predict.batches import TrainedModel
from pipeline.predict.chunks import Chunks
from pipeline.predict.decode import Reader, Task, confine, ended
from pipeline.predict.formats import DICOM, FORMATS
from pipeline.predict.formats.account import tally
from pipeline.predict.formats.format import MARK, Categories, Finished
from pipeline.predict.formats.pixels import PixelWriter, Wanted
from pipeline.predict.formats.pixels import jobs as pixel_jobs
from pipeline.predict.options import Options
from pipeline.predict.plan import Plan
from pipeline.predict.records import FileResult, Opened
from pipeline.predict.results import FORMAT, PREDICTION, Results
from pipeline.predict.select import Place, in_order
from pipeline.predict.shards import Shared
from pipeline.predict.sources import find_files, of_shard
from pipeline.work.journal import Journal
from pipeline.work.pool import ProcessPool
from pipeline.work.workspace import open_workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run did.

    Attributes
    ----------
    counts : dict
        As in run.json; `files` = `processed` + `skipped` + `failed`.
    exit_code : int
        0 if no file failed and no result was refused, else 1.
    """

    counts: dict[str, Any]
    exit_code: int


Progress = Callable[[int, int], None]
Fetch = Callable[[Path], dict[str, str]]  # fills a folder; path -> reason of what is missing
Send = Callable[[Path], int]  # how many results were refused


def predict_folder(
    source: Path | Fetch,
    out: Path,
    detector: TrainedModel,
    *,
    options: Options | None = None,
    device: str = "cpu",
    send: Send | None = None,
    progress: Progress = lambda done, total: None,
) -> RunSummary:
    """Detect in every picture below a folder and account for every file.

    Parameters
    ----------
    source : Path
        A folder, searched to any depth, or one file; see `find_files`. Or a function that fills
        a folder with what an archive holds.
    out : Path
        Output folder; made complete in ``<out>.partial`` and then renamed. A run that was
        stopped goes on there. A shard gets its own folder below it.
    detector : TrainedModel
        The trained model.
    device : str
        What the detector runs on, for run.json.
    send : callable, optional
        Is given the finished output before it gets its name. If it raises, calling again goes on
        from there.
    progress : callable
        Called with (files done, files in all) after every chunk of files.

    Raises
    ------
    DescryError
        When the call as a whole cannot be carried out. Single files never raise.
    """
    options = options or Options()
    started = time.monotonic()
    with (
        open_workspace(options.output(out), PREDICTION) as space,
        Journal(space.state / "journal") as journal,
        ExitStack() as stack,
    ):
        results = Results(space, journal)
        lost: dict[str, str] = {}
        if not isinstance(source, Path):
            fetch, source = source, space.state / "spool"
            source.mkdir(exist_ok=True)
            lost = fetch(source)
        there = [] if lost and not any(source.rglob("*.dcm")) else find_files(source, out)
        everything = sorted({*lost, *there})
        paths = of_shard(everything, options.shard, options.num_shards)
        plan = Plan(source, detector, options, device)
        writer = PixelWriter(plan.root.resolve(), detector.intensity, space.partial)
        pool = stack.enter_context(_readers(_Work(plan.reader(lost), writer), options))
        shared = Shared(space, plan, everything) if options.num_shards > 1 else None
        places = _places(pool, paths)
        paths = in_order(shared.noted(places) if shared else places)
        done = results.resume(plan.identity(paths), options.batch_size, len(paths))
        if done:
            log.info("%d of %d files were finished before; going on", done, len(paths))
        progress(done, len(paths))
        for finished in Chunks(plan, paths, results).committed(pool, done):
            progress(finished, len(paths))
        for _ in pool.run(pixel_jobs(results, paths, options.pixels)):
            pass  # a picture whose decoder crashes this time has its overlay
        counts = write_results(results, plan.detector.categories, plan.description())
        refused = 0 if send is None else send(space.partial)
        seconds = round(time.monotonic() - started, 3)
        timing = {"seconds": seconds, "files": len(paths) - done, "files_done_before": done}
        write_json(space.partial / "timing.json", timing)
        if shared:
            shared.keep()
        space.publish()
    for kind, number in sorted(counts["warnings"].items()):
        log.warning("%s: %d files, see warnings.csv", kind, number)
    for line in plan.doubts:
        log.warning(line)
    if refused:
        log.warning("%d results were refused by the archive, see sent.csv", refused)
    return RunSummary(counts, exit_code=1 if counts["failed"] or refused else 0)


def survey(
    source: Path, out: Path, detector: TrainedModel, options: Options | None = None
) -> Iterator[FileResult]:
    """Say of every file whether it would be read, from headers alone (``--dry-run``).

    Files that would be read are "processed" here; nothing is written.
    """
    options = options or Options()
    paths = of_shard(find_files(source, out), options.shard, options.num_shards)
    read = Plan(source, detector, options).reader({})
    opened = Opened()
    with _readers(read, options) as pool:
        for number, message in pool.run(_headers(paths), ordered=True):
            if isinstance(message, Opened):
                opened = message
            elif (end := ended(message)) is not None:
                yield FileResult(paths[number], opened, end)
                opened = Opened()


@dataclass(frozen=True, slots=True)
class _Work:
    """What the worker processes do: read for the model, and write pixels for the viewer."""

    read: Reader
    write: PixelWriter

    def __call__(self, job: Task | Wanted) -> Iterator[Any]:
        return self.write(job) if isinstance(job, Wanted) else self.read(job)


def _readers(read: Callable[[Any], Iterator[Any]], options: Options) -> ProcessPool:
    return ProcessPool(read, options.workers, options.timeout, confine)


def _headers(paths: list[str]) -> Iterator[tuple[int, Task]]:
    """The jobs of looking at headers alone."""
    return enumerate((path, True) for path in paths)


def _places(pool: ProcessPool, paths: list[str]) -> Iterator[tuple[str, Place | None]]:
    """Where each file belongs, from its header; the memory holds nothing else of it."""
    place: Place | None = None
    for number, message in pool.run(_headers(paths), ordered=True):
        if isinstance(message, Place):
            place = message
        elif ended(message):
            yield paths[number], place
            place = None


def write_results(
    results: Results, categories: Categories, described: Mapping[str, Any]
) -> dict[str, Any]:
    """Write what is made of all results; return the counts.

    `described` is `Plan.description`, for run.json.
    """
    counts = tally(results, categories).counts()
    counts["dicom_objects"] = {
        one.name: sum(1 for _ in (results.folder / one.name).glob("*.dcm")) for one in DICOM
    }
    about = {"format": FORMAT, "mark": MARK, "counts": counts, **described}
    for one in FORMATS:
        if one.write is not None:
            one.write(Finished(results, categories, about))
    return counts

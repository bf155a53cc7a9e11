"""A folder of DICOM or images -> detections, tables, overlays and an account of every file."""

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pipeline
from pipeline.atomic import write_json
from pipeline.dicom.pseudonym import Pseudonyms
from pipeline.models.thresholds import OperatingPoint
from pipeline.predict.cores import MODEL_THREADS, model_threads
from pipeline.predict.decode import BURNED_IN, Message, Reader, Reduction
from pipeline.predict.detecting import Batches, Detector
from pipeline.predict.discover import find_files, of_shard, root_of
from pipeline.predict.options import OBJECTS, Options
from pipeline.predict.order import Place, in_order
from pipeline.predict.outputs import tally, write_coco, write_tables
from pipeline.predict.overlay import MARK, Overlays
from pipeline.predict.pages import write_pages
from pipeline.predict.records import Ended, FileResult, FrameResult, Opened, Picture
from pipeline.predict.sources import fingerprint
from pipeline.predict.versions import versions
from pipeline.predict.views import Views
from pipeline.predict.windows import Windows
from pipeline.predict.workers import Workers
from pipeline.predict.workspace import FORMAT, Workspace, open_workspace

if TYPE_CHECKING:
    from pipeline.predict.objects import ObjectWriter

log = logging.getLogger(__name__)
Files = Iterable[tuple[int, tuple[str, Iterator[Message]]]]


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
    detector: Detector,
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
    detector : Detector
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
    with open_workspace(options.output(out)) as space, ExitStack() as stack:
        lost: dict[str, str] = {}
        if not isinstance(source, Path):
            fetch, source = source, space.spool
            source.mkdir(exist_ok=True)
            lost = fetch(source)
        there = [] if lost and not any(source.rglob("*.dcm")) else find_files(source, out)
        paths = of_shard(sorted({*lost, *there}), options.shard, options.num_shards)
        read = reader(source, detector, options, lost)
        workers = stack.enter_context(Workers(read, options.workers, options.timeout))
        paths = in_order(_places(workers, paths))
        run = _Run(source, detector, options, device, paths)
        done = space.resume(run.identity(), options.batch_size, len(paths))
        if done:
            log.info("%d of %d files were finished before; going on", done, len(paths))
        progress(done, len(paths))
        for finished in run.chunks(space, workers, done):
            progress(finished, len(paths))
        counts = run.write(space)
        refused = 0 if send is None else send(space.partial)
        seconds = round(time.monotonic() - started, 3)
        timing = {"seconds": seconds, "files": len(paths) - done, "files_done_before": done}
        write_json(space.partial / "timing.json", timing)
        space.publish()
    for kind, number in sorted(counts["warnings"].items()):
        log.warning("%s: %d files, see warnings.csv", kind, number)
    if refused:
        log.warning("%d results were refused by the archive, see sent.csv", refused)
    return RunSummary(counts, exit_code=1 if counts["failed"] or refused else 0)


def survey(
    source: Path, out: Path, detector: Detector, options: Options | None = None
) -> Iterator[FileResult]:
    """Say of every file whether it would be read, from headers alone (``--dry-run``).

    Files that would be read are "processed" here; nothing is written.
    """
    options = options or Options()
    paths = of_shard(find_files(source, out), options.shard, options.num_shards)
    read = reader(source, detector, options)
    with Workers(read, options.workers, options.timeout) as workers:
        for path, messages in workers.files(paths, headers_only=True):
            result = FileResult(path, Opened(), Ended("failed"))
            for message in messages:
                if isinstance(message, Opened):
                    result.opened = message
                elif isinstance(message, Ended):
                    result.ended = message
            yield result


def _places(workers: Workers, paths: list[str]) -> Iterator[tuple[str, Place | None]]:
    """Where each file belongs, from its header; the memory holds nothing else of it."""
    for path, messages in workers.files(paths, headers_only=True):
        found = [message for message in messages if isinstance(message, Place)]
        yield path, found[0] if found else None


def reader(
    source: Path, detector: Detector, options: Options, lost: dict[str, str] | None = None
) -> Reader:
    """What the worker processes do, for a model and the user's choices."""
    trained_on = detector.meta.get("modality") or ()
    modalities = (trained_on,) if isinstance(trained_on, str) else tuple(trained_on)
    windows = Windows.of(options.window, detector.meta.get("longest_side"))
    drawn = options.overlays != "none"
    return Reader(
        root_of(source).resolve(),
        detector.intensity,
        options.filters,
        tuple(name.upper() for name in modalities),
        lost or {},
        Reduction(detector.image_size, windows, drawn),
    )


@dataclass(slots=True)
class _Chunk:
    """Files that are committed together: by number, and the model's work on them."""

    batches: Batches
    results: dict[int, FileResult] = field(default_factory=dict)


class _Run:
    """One run over a list of files."""

    def __init__(
        self, source: Path, detector: Detector, options: Options, device: str, paths: list[str]
    ) -> None:
        self.source, self.detector, self.options = source, detector, options
        self.device, self.paths = device, paths
        self.classes = dict(detector.categories)
        self.point = self._operating_point()
        self.thresholds = self.point.lowest(detector.categories)
        self.windows = Windows.of(options.window, detector.meta.get("longest_side"))
        self.pseudonyms = None if options.key is None else Pseudonyms(options.key)
        self.objects: ObjectWriter | None = None

    def _operating_point(self) -> OperatingPoint:
        """The user's threshold for all classes, else what the checkpoint says."""
        if self.options.score_threshold is not None:
            return OperatingPoint(self.options.score_threshold, "--threshold")
        return OperatingPoint.read(self.detector.meta, self.detector.score_threshold)

    def description(self) -> dict[str, Any]:
        """What the results depend on, for run.json."""
        chosen = asdict(self.options)
        for key in ("workers", "timeout", "score_threshold"):  # change no result
            del chosen[key]
        del chosen["key"]
        given = self.options.score_threshold is not None
        return {
            "checkpoint": {"sha256": self.detector.sha256, "trained_on": self.detector.trained_on},
            "categories": [{"id": i, "name": name} for i, name in self.detector.categories],
            "image_size": self.detector.image_size,
            "intensity": self.detector.intensity.to_dict(),
            "score_threshold": {
                "by_class": {name: self.thresholds[i] for i, name in self.detector.categories},
                "from": "--threshold" if given else "checkpoint (chosen on validation data)",
                "sources": self.point.sources,
            },
            "window": asdict(self.windows),
            "options": chosen,
            "pseudonyms": {"key_id": self.pseudonyms.key_id} if self.pseudonyms else None,
            "device": self.device,
            "versions": versions(),
        }

    def identity(self) -> dict[str, Any]:
        """Return all that must be equal for a stopped run to be continued."""
        digest, root = sha256(), root_of(self.source)
        for path in self.paths:
            digest.update(json.dumps([self._shown(path), *fingerprint(root, path)]).encode())
        return {"files": digest.hexdigest(), **self.description()}

    def chunks(self, space: Workspace, workers: Workers, done: int) -> Iterator[int]:
        """Process and commit the files from `done` on; yield the number finished so far.

        A chunk is committed when the following ones have been read: meanwhile the model looks at
        its pictures, and its overlays are encoded.
        """
        size, chosen = self.options.batch_size, self.options
        self.objects = self._object_writer(space.partial)
        chunks = deque[_Chunk]()
        with (
            Overlays(space.overlays, self.classes, chosen.overlays) as overlays,
            model_threads() as threads,
        ):
            files = enumerate(workers.files(self.paths[done:]), done)
            yield done
            while (chunk := self._begun(islice(files, size), overlays, threads)).results:
                chunks.append(chunk)
                if len(chunks) > MODEL_THREADS:
                    yield self._commit(space, chunks.popleft(), overlays)
            for chunk in chunks:
                yield self._commit(space, chunk, overlays)

    def _begun(self, files: Files, overlays: Overlays, threads: Executor) -> "_Chunk":
        """Read a chunk of files and hand their frames to the model."""
        size = self.options.batch_size
        views = Views(self.detector, size, self.windows, self.options.tta)
        batches = Batches(views.detect, size, self.thresholds, overlays.add, threads)
        chunk = _Chunk(batches)
        for number, (path, messages) in files:
            result = FileResult(self._shown(path), Opened(), Ended("processed"))
            chunk.results[number] = result
            for message in messages:
                if isinstance(message, Opened):
                    result.opened = self._known_as(message)
                elif isinstance(message, Picture):
                    frame = _frame(message)
                    if not self._hidden(result):
                        frame.overlay = overlays.name(number, result, frame)
                    result.frames.append(frame)
                    batches.add(message, frame, result)
                elif isinstance(message, Ended) and message.status != "processed":
                    result.ended = message
        batches.flush()
        return chunk

    def _shown(self, path: str) -> str:
        """What a file is called in all that is written."""
        return self.pseudonyms.text("path", path) if self.pseudonyms else path

    def _known_as(self, opened: Opened) -> Opened:
        """The UIDs that are written."""
        if self.pseudonyms is None:
            return opened
        uid = self.pseudonyms.uid
        return replace(
            opened,
            study=uid(opened.study),
            series=uid(opened.series),
            instance=uid(opened.instance),
        )

    def _hidden(self, result: FileResult) -> bool:
        """Whether no picture may be shown: its text would name whom the pseudonyms hide."""
        return self.pseudonyms is not None and BURNED_IN in dict(result.opened.warnings)

    def _commit(self, space: Workspace, chunk: "_Chunk", overlays: Overlays) -> int:
        """Put a chunk into the journal, once its overlays and objects are there.

        A file that failed half-way keeps no frames. Returns the number of files finished so far.
        """
        chunk.batches.finish()
        for number, result in chunk.results.items():
            overlays.finish(result.frames)
            if result.ended.status != "processed":
                for frame in result.frames:
                    overlays.remove(frame)
                result.frames.clear()
            elif self.objects is not None:
                self.objects.write(number, self.paths[number], result)
        space.commit(chunk.results.values())
        return max(chunk.results) + 1

    def _object_writer(self, folder: Path) -> "ObjectWriter | None":
        """What writes DICOM objects, if any are wanted: only then its library is loaded."""
        if not self.options.objects.any:
            return None
        from pipeline.dicom.write.maker import Maker
        from pipeline.predict.objects import ObjectWriter

        thresholds = tuple((name, self.thresholds[i]) for i, name in self.detector.categories)
        wanted, detector = self.options.objects, self.detector
        maker = Maker(
            version=pipeline.__version__,
            sha256=detector.sha256,
            trained_on=detector.trained_on,
            thresholds=thresholds,
            mark=MARK,
            content_date=wanted.content_date,
        )
        return ObjectWriter(
            folder,
            root_of(self.source),
            wanted,
            maker,
            self.classes,
            detector.intensity,
            self.pseudonyms,
        )

    def write(self, space: Workspace) -> dict[str, Any]:
        """Write all tables; return the counts."""
        folder, categories = space.partial, self.detector.categories
        write_tables(folder, space.results, categories)
        write_coco(folder / "detections.coco.json", space.results, categories)
        counts = tally(space.results(), categories).counts()
        counts["dicom_objects"] = {
            name: sum(1 for _ in (folder / name).glob("*.dcm")) for name in OBJECTS
        }
        about = {"format": FORMAT, "mark": MARK, "counts": counts, **self.description()}
        write_json(folder / "run.json", about)
        write_pages(space, about, categories)
        return counts


def _frame(picture: Picture) -> FrameResult:
    return FrameResult(
        picture.frame,
        picture.fit.width,
        picture.fit.height,
        spacing=picture.spacing,
        notes=list(picture.notes),
        limits=picture.limits,
    )

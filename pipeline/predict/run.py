"""A folder of DICOM or images -> detections, tables, overlays and an account of every file."""

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.atomic import write_json
from pipeline.predict.decode import Message, Reader
from pipeline.predict.detecting import Batches, Detector
from pipeline.predict.discover import find_files, of_shard, root_of
from pipeline.predict.options import Options
from pipeline.predict.outputs import tally, write_coco, write_tables
from pipeline.predict.overlay import MARK, Overlays
from pipeline.predict.records import Ended, FileResult, FrameResult, Opened, Picture
from pipeline.predict.versions import versions
from pipeline.predict.workers import read_files
from pipeline.predict.workspace import FORMAT, Workspace, open_workspace

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
        0 if no file failed, else 1.
    """

    counts: dict[str, Any]
    exit_code: int


Progress = Callable[[int, int], None]


def predict_folder(
    source: Path,
    out: Path,
    detector: Detector,
    *,
    options: Options | None = None,
    device: str = "cpu",
    progress: Progress = lambda done, total: None,
) -> RunSummary:
    """Detect in every picture below a folder and account for every file.

    Parameters
    ----------
    source : Path
        A folder, searched to any depth, or one file.
    out : Path
        Output folder; made complete in ``<out>.partial`` and then renamed. A run that was
        stopped goes on there. A shard gets its own folder below it.
    detector : Detector
        The trained model.
    device : str
        What the detector runs on, for run.json.
    progress : callable
        Called with (files done, files in all) after every chunk of files.

    Raises
    ------
    DescryError
        When the call as a whole cannot be carried out. Single files never raise.
    """
    options = options or Options()
    started = time.monotonic()
    paths = of_shard(find_files(source, out), options.shard, options.num_shards)
    run = _Run(source, detector, options, device, paths)
    with open_workspace(options.output(out)) as space:
        done = space.resume(run.identity(), options.batch_size)
        if done:
            log.info("%d of %d files were finished before; going on", done, len(paths))
        progress(done, len(paths))
        for finished in run.chunks(space, done):
            progress(finished, len(paths))
        counts = run.write(space)
        seconds = round(time.monotonic() - started, 3)
        timing = {"seconds": seconds, "files": len(paths) - done, "files_done_before": done}
        write_json(space.partial / "timing.json", timing)
        space.publish()
    for kind, number in sorted(counts["warnings"].items()):
        log.warning("%s: %d files, see warnings.csv", kind, number)
    return RunSummary(counts, exit_code=1 if counts["failed"] else 0)


def survey(
    source: Path, out: Path, detector: Detector, options: Options | None = None
) -> Iterator[FileResult]:
    """Say of every file whether it would be read, from headers alone (``--dry-run``).

    Files that would be read are "processed" here; nothing is written.
    """
    options = options or Options()
    paths = of_shard(find_files(source, out), options.shard, options.num_shards)
    read = reader(source, detector, options, headers_only=True)
    stream = read_files(read, paths, workers=options.workers, timeout=options.timeout)
    for path, messages in stream:
        result = FileResult(path, Opened(), Ended("failed"))
        for message in messages:
            if isinstance(message, Opened):
                result.opened = message
            elif isinstance(message, Ended):
                result.ended = message
        yield result


def reader(
    source: Path, detector: Detector, options: Options, *, headers_only: bool = False
) -> Reader:
    """What the worker processes do, for a model and the user's choices."""
    trained_on = detector.meta.get("modality") or ()
    modalities = (trained_on,) if isinstance(trained_on, str) else tuple(trained_on)
    return Reader(
        root_of(source).resolve(),
        detector.intensity,
        options.filters,
        tuple(name.upper() for name in modalities),
        headers_only,
    )


class _Run:
    """One run over a list of files."""

    def __init__(
        self, source: Path, detector: Detector, options: Options, device: str, paths: list[str]
    ) -> None:
        self.source, self.detector, self.options = source, detector, options
        self.device, self.paths = device, paths
        own = options.score_threshold
        self.threshold = detector.score_threshold if own is None else own
        self.classes = dict(detector.categories)

    def description(self) -> dict[str, Any]:
        """What the results depend on, for run.json."""
        chosen = asdict(self.options)
        for key in ("workers", "timeout", "score_threshold"):  # change no result
            del chosen[key]
        given = self.options.score_threshold is not None
        return {
            "checkpoint": {"sha256": self.detector.sha256, "trained_on": self.detector.trained_on},
            "categories": [{"id": i, "name": name} for i, name in self.detector.categories],
            "image_size": self.detector.image_size,
            "intensity": self.detector.intensity.to_dict(),
            "score_threshold": {
                "value": self.threshold,
                "from": "--threshold" if given else "checkpoint (chosen on validation data)",
            },
            "options": chosen,
            "device": self.device,
            "versions": versions(),
        }

    def identity(self) -> dict[str, Any]:
        """Return all that must be equal for a stopped run to be continued."""
        digest, root = sha256(), root_of(self.source)
        for path in self.paths:
            try:
                about = (root / path).stat()
                line = [path, about.st_size, about.st_mtime_ns]
            except OSError:
                line = [path, -1, -1]
            digest.update(json.dumps(line).encode())
        return {"files": digest.hexdigest(), **self.description()}

    def chunks(self, space: Workspace, done: int) -> Iterator[int]:
        """Process and commit the files from `done` on; yield the number finished so far.

        A chunk is committed when the next one is through the model: its overlays are encoded
        meanwhile.
        """
        size, chosen = self.options.batch_size, self.options
        read = reader(self.source, self.detector, chosen)
        stream = read_files(read, self.paths[done:], workers=chosen.workers, timeout=chosen.timeout)
        before, drawn = list[FileResult](), 0
        with closing(stream), Overlays(space.overlays, self.classes, chosen.overlays) as overlays:
            files = enumerate(stream, done)
            while chunk := self._detected(islice(files, size), overlays):
                _commit(space, before, overlays, drawn)
                yield done
                done, before, drawn = done + len(chunk), chunk, overlays.added
            _commit(space, before, overlays, drawn)
            yield done

    def _detected(self, files: Files, overlays: Overlays) -> list[FileResult]:
        """Read a chunk of files and run the model over their frames."""
        batches = Batches(self.detector, self.options.batch_size, self.threshold, overlays.add)
        results = []
        for number, (path, messages) in files:
            result = FileResult(path, Opened(), Ended("processed"))
            results.append(result)
            for message in messages:
                if isinstance(message, Opened):
                    result.opened = message
                elif isinstance(message, Picture):
                    frame = _frame(message)
                    frame.overlay = overlays.name(number, result, frame)
                    result.frames.append(frame)
                    batches.add(message, frame, result)
                elif message.status != "processed":
                    result.ended = message
        batches.flush()
        return results

    def write(self, space: Workspace) -> dict[str, Any]:
        """Write all tables; return the counts."""
        folder, categories = space.partial, self.detector.categories
        write_tables(folder, space.results, categories)
        write_coco(folder / "detections.coco.json", space.results, categories)
        counts = tally(space.results(), categories).counts()
        about = {"format": FORMAT, "mark": MARK, "counts": counts, **self.description()}
        write_json(folder / "run.json", about)
        return counts


def _frame(picture: Picture) -> FrameResult:
    height, width = picture.pixels.shape[:2]
    return FrameResult(
        picture.frame, width, height, spacing=picture.spacing, notes=list(picture.notes)
    )


def _commit(space: Workspace, results: list[FileResult], overlays: Overlays, drawn: int) -> None:
    """Put a chunk into the journal, once the first `drawn` overlays are there.

    A file that failed half-way keeps no frames.
    """
    overlays.finish(drawn)
    for result in results:
        if result.ended.status != "processed":
            for frame in result.frames:
                overlays.remove(frame)
            result.frames.clear()
    space.commit(results)

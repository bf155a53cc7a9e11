"""Files in groups that are committed together: read, detected, drawn, into the journal."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from pipeline.predict.ahead import Answers
from pipeline.predict.cores import MODEL_THREADS, model_threads
from pipeline.predict.decode import BURNED_IN
from pipeline.predict.detecting import Batches
from pipeline.predict.overlay import Overlays
from pipeline.predict.plan import Plan
from pipeline.predict.records import Ended, FileResult, FrameResult, Opened, Picture
from pipeline.predict.views import Views
from pipeline.predict.workers import Workers
from pipeline.predict.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.predict.objects import ObjectWriter


@dataclass(slots=True)
class _Chunk:
    """Files by number, and the model's work on them."""

    batches: Batches
    results: dict[int, FileResult] = field(default_factory=dict)


class Chunks:
    """The files of a run, `batch_size` at a time.

    Parameters
    ----------
    plan : Plan
    paths : sequence of str
        All files of the run, in their order.
    space : Workspace
        Where results grow.
    """

    def __init__(self, plan: Plan, paths: Sequence[str], space: Workspace) -> None:
        self.plan, self.paths, self.space = plan, paths, space
        self.size = plan.options.batch_size
        self.views = Views(plan.detector, self.size, plan.windows, plan.options.tta)
        self.objects = self._object_writer()

    def _object_writer(self) -> "ObjectWriter | None":
        """What writes DICOM objects, if any are wanted: only then its library is loaded."""
        if not self.plan.options.objects.any:
            return None
        from pipeline.predict.objects import ObjectWriter

        return ObjectWriter(self.plan, self.space.partial)

    def committed(self, workers: Workers, done: int) -> Iterator[int]:
        """Process and commit the files from `done` on; yield the number finished so far.

        A chunk is committed when the following ones have been read: meanwhile the model looks at
        its pictures, and its overlays are encoded.
        """
        plan, chunks = self.plan, deque[_Chunk]()
        with (
            Overlays(self.space.overlays, plan.classes, plan.options.overlays) as overlays,
            model_threads() as threads,
        ):
            files = enumerate(workers.files(self.paths[done:]), done)
            yield done
            while (chunk := self._begun(islice(files, self.size), overlays, threads)).results:
                chunks.append(chunk)
                if len(chunks) > MODEL_THREADS:
                    yield self._commit(chunks.popleft(), overlays)
            for chunk in chunks:
                yield self._commit(chunk, overlays)

    def _begun(
        self, files: Iterable[tuple[int, Answers]], overlays: Overlays, threads: Executor
    ) -> _Chunk:
        """Read a chunk of files and hand their frames to the model."""
        plan = self.plan
        batches = Batches(self.views.detect, self.size, plan.thresholds, overlays.add, threads)
        chunk = _Chunk(batches)
        for number, (path, messages) in files:
            result = FileResult(plan.shown(path), Opened(), Ended("processed"))
            chunk.results[number] = result
            for message in messages:
                if isinstance(message, Opened):
                    result.opened = plan.known_as(message)
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

    def _hidden(self, result: FileResult) -> bool:
        """Whether no picture may be shown: its text would name whom the pseudonyms hide."""
        return self.plan.pseudonyms is not None and BURNED_IN in dict(result.opened.warnings)

    def _commit(self, chunk: _Chunk, overlays: Overlays) -> int:
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
        self.space.commit(chunk.results.values())
        return max(chunk.results) + 1


def _frame(picture: Picture) -> FrameResult:
    return FrameResult(
        picture.frame,
        picture.fit.width,
        picture.fit.height,
        spacing=picture.spacing,
        notes=list(picture.notes),
        limits=picture.limits,
    )

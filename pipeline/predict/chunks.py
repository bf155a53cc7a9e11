"""Files in groups that are committed together: read, detected, drawn, into the journal."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.dicom import WRONG_HEADER
from pipeline.predict.batches import Batches, Budget, model_threads
from pipeline.predict.decode import BURNED_IN, Message, ended
from pipeline.predict.formats.overlays import Overlays
from pipeline.predict.plan import Plan
from pipeline.predict.records import Ended, FileResult, FrameResult, Opened, Picture
from pipeline.predict.results import Results
from pipeline.predict.twins import TWIN, Twins
from pipeline.predict.views import Views
from pipeline.work.pool import Crashed, ProcessPool

if TYPE_CHECKING:
    from pipeline.predict.formats.objects import ObjectWriter

_BEGUN = 16  # chunks that may wait to be committed; their pictures are bounded by the budget


@dataclass(slots=True)
class _Chunk:
    """Files by number, and the model's work on them."""

    batches: Batches
    results: dict[int, FileResult] = field(default_factory=dict)

    def idle(self, overlays: Overlays) -> bool:
        """Whether nothing of it has to be waited for."""
        frames = (frame for result in self.results.values() for frame in result.frames)
        return self.batches.idle and overlays.idle(frames)


class Chunks:
    """The files of a run, `batch_size` at a time.

    Parameters
    ----------
    plan : Plan
    paths : sequence of str
        All files of the run, in their order.
    results : Results
        Where they grow.
    """

    def __init__(self, plan: Plan, paths: Sequence[str], results: Results) -> None:
        self.plan, self.paths, self.results = plan, paths, results
        self.size = plan.options.batch_size
        self.views = Views(plan.detector, self.size, plan.windows, plan.options.tta)
        self.budget = Budget()
        self.objects = self._object_writer()
        self.twins = Twins(plan.root)

    def _object_writer(self) -> "ObjectWriter | None":
        """What writes DICOM objects, if any are wanted: only then its library is loaded."""
        if not self.plan.options.objects.kinds:
            return None
        from pipeline.predict.formats.objects import ObjectWriter

        return ObjectWriter(self.plan, self.results.folder)

    def committed(self, pool: ProcessPool, done: int) -> Iterator[int]:
        """Process and commit the files from `done` on; yield the number finished so far.

        Reading goes on while the model looks at the pictures of a chunk and its overlays are
        encoded, as long as there is room for pictures.
        """
        plan, begun = self.plan, deque[_Chunk]()
        for path, result in zip(self.paths[:done], self.results, strict=False):
            if result.ended.status == "processed":
                self.twins.is_twin(result.opened.instance, path)
        tasks = enumerate(((path, False) for path in self.paths[done:]), done)
        with (
            Overlays(self.results.folder, plan.classes, plan.options.overlays) as overlays,
            model_threads() as threads,
        ):
            yield done
            chunk = self._new_chunk(overlays, threads)
            for number, message in pool.run(tasks, ordered=True):
                self._take(chunk, number, message, overlays)
                if ended(message) and len(chunk.results) == self.size:
                    chunk.batches.flush()
                    begun.append(chunk)
                    chunk = self._new_chunk(overlays, threads)
                while begun and (len(begun) > _BEGUN or begun[0].idle(overlays)):
                    yield self._commit(begun.popleft(), overlays)
            chunk.batches.flush()
            if chunk.results:
                begun.append(chunk)
            while begun:
                yield self._commit(begun.popleft(), overlays)

    def _new_chunk(self, overlays: Overlays, threads: Executor) -> _Chunk:
        detect, thresholds = self.views.detect, self.plan.thresholds
        batches = Batches(detect, self.size, thresholds, overlays.add, threads, self.budget)
        return _Chunk(batches)

    def _take(
        self, chunk: _Chunk, number: int, message: Message | Crashed, overlays: Overlays
    ) -> None:
        """One message on a file: its frames go to the model."""
        if number not in chunk.results:
            shown = self.plan.shown(self.paths[number])
            chunk.results[number] = FileResult(shown, Opened(), Ended("processed"))
        result = chunk.results[number]
        if isinstance(message, Opened):
            result.opened = self.plan.known_as(message)
        elif isinstance(message, Picture):
            frame = _frame(message)
            result.opened = result.opened.warned(*_contradictions(frame.notes))
            if not self._hidden(result):
                frame.overlay = overlays.name(number, result, frame)
            result.frames.append(frame)
            chunk.batches.add(message, frame, result)
        elif (end := ended(message)) and end.status != "processed":
            result.ended = end

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
            elif self.twins.is_twin(result.opened.instance, self.paths[number]):
                result.opened = result.opened.warned(TWIN)
            elif self.objects is not None:
                self.objects.write(number, self.paths[number], result)
        self.results.commit(chunk.results.values())
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


def _contradictions(notes: Sequence[str]) -> list[tuple[str, str]]:
    """Warnings that a header is wrong, of notes that say so among others."""
    kind = WRONG_HEADER.removesuffix(": ")
    return [(kind, note.removeprefix(WRONG_HEADER)) for note in notes if note.startswith(kind)]

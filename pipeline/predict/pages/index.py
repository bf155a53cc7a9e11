"""Which detections and files belong to which study: what the report's pages are made from."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.predict.records import FileResult, FrameResult
from pipeline.predict.results import Results


@dataclass(slots=True)
class Study:
    """One study, or all files that belong to none.

    Attributes
    ----------
    uid : str
        Empty for files without a study.
    number : int
        From 1, in the order in which studies appear.
    files : list of int
        Places of its files in the journal (see `Results.at`).
    pictures, detections : int
    best : float or None
        Highest score.
    """

    uid: str
    number: int
    files: list[int] = field(default_factory=list)
    pictures: int = 0
    detections: int = 0
    best: float | None = None

    @property
    def title(self) -> str:
        """Heading of its page."""
        return f"Study {self.number}" if self.uid else "Files that belong to no study"

    def page(self, number: int = 1) -> str:
        """File name of one of its pages."""
        more = f"-{number}" if number > 1 else ""
        return f"study-{self.number:06d}{more}.html"


class Index:
    """All processed files of a run; holds a few numbers for each.

    Attributes
    ----------
    studies : dict
        UID -> Study.
    found : list of (-score, place, number)
        Frames with detections, best first: place of the file, number in its frames.
    """

    def __init__(self, results: Results) -> None:
        self.results = results
        self.studies: dict[str, Study] = {}
        self.found: list[tuple[float, int, int]] = []
        for place, result in results.numbered():
            if result.ended.status == "processed":
                self._add(place, result)
        self.found.sort()

    def _add(self, place: int, result: FileResult) -> None:
        uid = result.opened.study
        study = self.studies.setdefault(uid, Study(uid, len(self.studies) + 1))
        study.files.append(place)
        for number, frame in enumerate(result.frames):
            study.pictures += 1
            study.detections += len(frame.boxes)
            if frame.boxes:
                study.best = max(study.best or 0.0, frame.scores[0])
                self.found.append((-frame.scores[0], place, number))

    def best(self, start: int, count: int) -> list[tuple[FileResult, FrameResult]]:
        """Frames with detections from the `start`-th on, by descending score."""
        chosen = self.found[start : start + count]
        results = ((self.results.at(place), number) for _, place, number in chosen)
        return [(result, result.frames[number]) for result, number in results]

    def frames(self, study: Study) -> Iterator[tuple[FileResult, FrameResult]]:
        """Frames with detections of a study, in the order of its files."""
        for place in study.files:
            result = self.results.at(place)
            for frame in result.frames:
                if frame.boxes:
                    yield result, frame

    def clear(self, study: Study) -> Iterator[FileResult]:
        """Files of a study in which nothing was found."""
        for place in study.files:
            result = self.results.at(place)
            if not any(frame.boxes for frame in result.frames):
                yield result

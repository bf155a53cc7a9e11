"""report.html: what was found, best first, study by study, with an account of every file.

Light however many files there are: pages of limited length, small pictures in files of their own,
and of each result no more in memory than a score and its place in the journal.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.html.page import Link, Section, render_page
from pipeline.html.parts import joined, paragraph
from pipeline.predict.formats.format import Finished
from pipeline.predict.pages.index import Index, Study
from pipeline.predict.pages.parts import (
    ROWS,
    boxes_part,
    counts_part,
    gallery_part,
    list_part,
    model_part,
    outputs_part,
    pages_part,
    settings_part,
    studies_part,
)
from pipeline.predict.records import printable
from pipeline.predict.results import Results

PER_PAGE = 48  # pictures of a page


def write_pages(finished: Finished) -> None:
    """Write report.html and the pages behind it into the growing folder.

    There is a page for every study with a detection; the others are in the table of studies.
    """
    _Pages(finished.results, finished.about, dict(finished.categories)).write()


class _Pages:
    def __init__(
        self, results: Results, about: Mapping[str, Any], classes: Mapping[int, str]
    ) -> None:
        self.results, self.about, self.classes = results, about, classes
        self.folder, self.index = results.folder, Index(results)
        self.studies = sorted(self.index.studies.values(), key=lambda s: (-(s.best or 0), s.number))

    def write(self) -> None:
        """Write all pages."""
        report = self.folder / "report"
        report.mkdir(exist_ok=True)
        _save(self.folder / "report.html", self._front())
        for start in range(PER_PAGE, len(self.index.found), PER_PAGE):
            number, part = start // PER_PAGE + 1, self._found(start, "../", "")
            page = _inner(f"Found, page {number}", [Section("found", "Best first", part)])
            _save(report / f"found-{number}.html", page)
        for start in range(ROWS, len(self.studies), ROWS):
            number, part = start // ROWS + 1, self._studies(start, "../", "")
            page = _inner(f"Studies, page {number}", [Section("studies", "Studies", part)])
            _save(report / f"studies-{number}.html", page)
        for study in self.studies:
            for number, page in enumerate(self._study(study), 1):
                _save(report / study.page(number), page)

    def _front(self) -> str:
        counts = self.about["counts"]
        sections = [
            Section("counts", "Counts", counts_part(counts)),
            Section("found", "Found, best first", self._found(0, "", "report/")),
            Section("model", "What the model knows of itself", model_part(self.about)),
            Section("studies", "Studies", self._studies(0, "", "report/")),
            *self._lists(counts),
            Section("settings", "Settings", settings_part(self.about)),
            Section("files", "Files", outputs_part(self.folder)),
        ]
        lead = (
            f"{counts['detections']} detections in {counts['frames']} pictures of "
            f"{counts['processed']} files. {self.about['checkpoint']['known']}"
        ).rstrip()
        warnings = list(self.about["doubts"])
        warnings += ["Some files failed; their list is below."] if counts["failed"] else []
        return render_page("Detections", sections, lead=lead, warnings=warnings, viewer=True)

    def _found(self, start: int, root: str, report: str) -> Markup:
        """A page of the gallery; `root` and `report` are the ways to the folders."""
        if not self.index.found:
            return paragraph("Nothing was found.")
        ways = {study.uid: report + study.page() for study in self.studies}
        pictures = self.index.best(start, PER_PAGE)
        total, first = len(self.index.found), f"{root}report.html#found"
        return joined(
            gallery_part(pictures, self.classes, self.folder, root, ways),
            pages_part(total, PER_PAGE, start, first, report + "found-{}.html"),
        )

    def _studies(self, start: int, root: str, report: str) -> Markup:
        total, first = len(self.studies), f"{root}report.html#studies"
        return joined(
            studies_part(self.studies[start : start + ROWS], report),
            pages_part(total, ROWS, start, first, report + "studies-{}.html"),
        )

    def _study(self, study: Study) -> Iterator[str]:
        """The pages of a study."""
        pictures = self.index.frames(study)
        total = -(-sum(1 for _ in self.index.frames(study)) // PER_PAGE)
        for number in range(1, total + 1):
            chunk = list(islice(pictures, PER_PAGE))
            shown = gallery_part(chunk, self.classes, self.folder, "../")
            sections = [
                Section("pictures", "Pictures", shown),
                Section("boxes", "Boxes", boxes_part(chunk, self.classes)),
                *(self._clear(study) if number == total else []),
            ]
            links = [Link(f"Page {n}", study.page(n), n == number) for n in range(1, total + 1)]
            yield _inner(study.title, sections, _lead(study), links if total > 1 else [])

    def _clear(self, study: Study) -> list[Section]:
        names = [(printable(result.path),) for result in self.index.clear(study)]
        if not names:
            return []
        title = "Files without a detection"
        body = list_part(title, ("File",), names[:ROWS], len(names), "detections.coco.json")
        return [Section("clear", "Nothing found", body)]

    def _lists(self, counts: Mapping[str, Any]) -> list[Section]:
        """Failed and skipped files and warnings, as far as there are any."""
        warned = sum(counts["warnings"].values())
        about_file = ("File", "Kind", "Message")
        about_end = ("File", "Step", "Kind", "Message")
        lists = (
            ("failed", "Failed files", about_end, counts["failed"], "failures.csv"),
            ("skipped", "Skipped files", about_end, counts["skipped"], "skipped.csv"),
            ("warnings", "Warnings", about_file, warned, "warnings.csv"),
        )
        return [
            Section(name, title, list_part(title, header, self._rows(name), total, file))
            for name, title, header, total, file in lists
            if total
        ]

    def _rows(self, name: str) -> list[tuple[str, ...]]:
        return list(islice(self._warned() if name == "warnings" else self._ended(name), ROWS))

    def _warned(self) -> Iterator[tuple[str, ...]]:
        for result in self.results:
            yield from ((printable(result.path), *warning) for warning in result.opened.warnings)

    def _ended(self, status: str) -> Iterator[tuple[str, ...]]:
        for result in self.results:
            ended = result.ended
            if ended.status == status:
                yield printable(result.path), ended.step, ended.kind, ended.message


def _inner(
    title: str, sections: Sequence[Section], lead: str = "", links: Sequence[Link] = ()
) -> str:
    """A page behind the front page."""
    back = Link("All results", "../report.html")
    return render_page(title, sections, lead=lead, links=[back, *links], viewer=True)


def _lead(study: Study) -> str:
    uid = f" Study Instance UID {study.uid}." if study.uid else ""
    return f"{study.detections} detections in {study.pictures} pictures.{uid}"


def _save(path: Path, text: str) -> None:
    """Not through a temporary file: the whole folder gets its name only when it is complete."""
    path.write_text(text, encoding="utf-8", newline="\n")

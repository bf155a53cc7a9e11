"""Parts of the report's pages: figures, pictures, tables, ways between pages."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from pipeline.data.draw import COLOURS
from pipeline.html.parts import (
    Box,
    Picture,
    Tile,
    View,
    facts,
    gallery,
    joined,
    paragraph,
    table,
    tiles,
)
from pipeline.predict.formats import FORMATS
from pipeline.predict.formats.overlays import thumbnail_of
from pipeline.predict.formats.pixels import file_of
from pipeline.predict.pages.index import Study
from pipeline.predict.records import FileResult, FrameResult, printable

ROWS = 200  # of a table on a page; the CSV files have all
Pictures = Sequence[tuple[FileResult, FrameResult]]
_PIXELS = ("x", "y", "Width", "Height")
_BOX_COLUMNS = ("Class", "Score", *_PIXELS, "mm", "Spacing from", "Frame", "File")


def counts_part(counts: Mapping[str, Any]) -> Markup:
    """Key figures."""
    names = ("files", "processed", "skipped", "failed", "frames", "detections")
    by_class = {name: str(number) for name, number in counts["detections_by_class"].items()}
    figures = tiles(Tile(name.capitalize(), f"{counts[name]:,}") for name in names)
    return joined(figures, facts(by_class))


def gallery_part(
    pictures: Pictures,
    classes: Mapping[int, str],
    folder: Path,
    root: str,
    study_page: Mapping[str, str] | None = None,
) -> Markup:
    """Thumbnails that lead to the overlays.

    Parameters
    ----------
    folder : Path
        The output folder.
    root : str
        The way from the page to it.
    study_page : mapping, optional
        Study UID -> address, for captions that lead to the study.
    """
    shown = [
        _picture(result, frame, classes, folder, root, study_page)
        for result, frame in pictures
        if frame.overlay
    ]
    hidden = len(pictures) - len(shown)
    note = f"{hidden} pictures are not drawn (see the settings); the tables have their boxes."
    return joined(gallery(shown), *([paragraph(note, "note")] if hidden else []))


def _picture(
    result: FileResult,
    frame: FrameResult,
    classes: Mapping[int, str],
    folder: Path,
    root: str,
    study_page: Mapping[str, str] | None,
) -> Picture:
    thumbnail = thumbnail_of(folder / frame.overlay)
    with Image.open(thumbnail) as image:
        size = image.size
    best = f"{classes[frame.labels[0]]} {frame.scores[0]:.2f}"
    more = f", {len(frame.boxes) - 1} more" if len(frame.boxes) > 1 else ""
    number = f", frame {frame.frame + 1}" if result.opened.frames > 1 else ""
    where = printable(result.path) + number
    caption = Markup("<strong>{}</strong>{}<br>{}").format(best, more, where)
    if study_page is not None:
        address = study_page[result.opened.study]
        caption += Markup('<br><a href="{}">study</a>').format(address)
    small = f"{root}report/thumbnails/{thumbnail.name}"
    view = _view(frame, classes, folder, root, where)
    return Picture(small, f"{best} in {where}", caption, root + frame.overlay, size, view)


def _view(
    frame: FrameResult, classes: Mapping[int, str], folder: Path, root: str, name: str
) -> View:
    """What opens in the viewer: the kept pixels, or the overlay."""
    ids = sorted(classes)
    found = zip(frame.boxes, frame.scores, frame.labels, strict=True)
    boxes = [
        Box(box, classes[k], score, COLOURS[ids.index(k) % len(COLOURS)]) for box, score, k in found
    ]
    pixels = file_of(frame.overlay)
    kept = root + pixels if (folder / pixels).is_file() else ""
    return View(name, frame.width, frame.height, boxes, kept, drawn=root + frame.overlay)


def boxes_part(pictures: Pictures, classes: Mapping[int, str]) -> Markup:
    """A table of all boxes."""
    rows = []
    for result, frame in pictures:
        path = printable(result.path)
        for box, score, label in zip(frame.boxes, frame.scores, frame.labels, strict=True):
            width, height, origin = frame.millimetres(box)
            size = f"{width} × {height}" if origin else ""
            rows.append((classes[label], score, *box, size, origin, frame.frame + 1, path))
    return table("Boxes in pixels", _BOX_COLUMNS, rows)


def studies_part(studies: Sequence[Study], report: str) -> Markup:
    """A table; `report` is the way to the folder of the studies' pages."""
    if not studies:
        return paragraph("No file could be read.")
    rows = []
    for study in studies:
        title: str | Markup = study.title
        if study.detections:
            title = Markup('<a href="{}">{}</a>').format(report + study.page(), study.title)
        best = "no finding" if study.best is None else f"{study.best:.3f}"
        rows.append((title, len(study.files), study.pictures, study.detections, best, study.uid))
    header = ("Study", "Files", "Pictures", "Detections", "Best score", "UID")
    return table("By their best score", header, rows)


def settings_part(about: Mapping[str, Any]) -> Markup:
    """How the run was made, from run.json."""
    options = about["options"]
    return facts(
        {
            "Checkpoint (SHA-256)": about["checkpoint"]["sha256"],
            "Size that the network sees": f"{about['image_size']} px",
            "Sliding window": options["window"],
            "Mirror images too": "yes" if options["tta"] else "no",
            "Overlays": options["overlays"],
            "Pseudonyms": "yes" if about["pseudonyms"] else "no",
            "Device": about["device"],
            "descry": about["versions"]["descry"],
            "PyTorch": about["versions"]["torch"],
        }
    )


def model_part(about: Mapping[str, Any]) -> Markup:
    """What the model knows about itself, from run.json: data, figures, thresholds."""
    checkpoint, thresholds = about["checkpoint"], about["score_threshold"]
    rows = []
    for name, score in thresholds["by_class"].items():
        source = thresholds["sources"].get(name, {})
        own = "source" in source
        finds = [source.get(key) if own else None for key in ("sensitivity", "fp_per_image")]
        chosen = source["source"] if own else thresholds["from"]
        figures = ("not known" if value is None else f"{value:.2f}" for value in finds)
        rows.append((name, f"{score:g}", *figures, chosen))
    header = ("Class", "Lowest score", "Sensitivity", "False boxes per picture", "Chosen as")
    note = "Sensitivity and false boxes: on the validation split, where a box counts from IoU 0.5."
    return joined(
        paragraph(f"Trained on {checkpoint['trained_on']}. {checkpoint['known']}"),
        table("From which score a box is shown", header, rows, note),
    )


def outputs_part(folder: Path) -> Markup:
    """What else there is in the output folder."""
    rows = [
        (Markup('<a href="{0}">{0}</a>').format(name), what)
        for one in FORMATS
        for name, what in one.outputs.items()
        if (folder / name).exists()
    ]
    return table("The output folder", ("Name", "What it holds"), rows)


def list_part(
    title: str, header: Sequence[str], rows: Iterable[Sequence[object]], total: int, file: str
) -> Markup:
    """The beginning of a list that stands in a file as a whole."""
    note = f"The first {ROWS} of {total}; all are in {file}." if total > ROWS else ""
    return table(title, header, rows, note)


def pages_part(total: int, size: int, start: int, first: str, others: str) -> Markup:
    """Ways to all pages of a list, nothing if there is one only.

    Parameters
    ----------
    total, size, start : int
        Entries in all, of a page, and before this page.
    first, others : str
        Addresses of the first page and of the others, with ``{}`` for their number.
    """
    count = -(-total // size)
    if count < 2:
        return Markup("")
    here, links = start // size + 1, []
    for number in range(1, count + 1):
        address = first if number == 1 else others.format(number)
        mark = Markup(' aria-current="page"') if number == here else Markup("")
        links.append(Markup('<li><a href="{}"{}>{}</a></li>').format(address, mark, number))
    return Markup('<nav aria-label="Pages of this list"><ul>{}</ul></nav>\n').format(joined(*links))

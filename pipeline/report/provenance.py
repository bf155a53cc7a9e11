"""What a run was made of: training, data, model, cost, parameters, versions, limits."""

from collections.abc import Iterator, Mapping
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from pipeline.html.chart import Series, chart, charts
from pipeline.html.page import RESEARCH_USE
from pipeline.html.parts import facts, fold, items, joined, paragraph, table
from pipeline.report.run import SAMPLE, Run, numbers
from pipeline.report.words import counted, figure, large

_NOT_LOSSES = ("epoch", "lr", "val_AP", "val_AP50")
_FEW_OBJECTS = 100
MIB = 2**20
_BELOW = 2  # headings of the page above those of a card


def training(run: Run) -> Markup:
    """Loss, validation AP and learning rate by epoch."""
    rows = run.history()
    if not rows:
        return paragraph("No history of the training was written.", "note")
    epochs = list(numbers(rows, "epoch"))

    def curve(title: str, columns: list[str], y: str, note: str = "") -> Markup:
        named = columns if len(columns) > 1 else [""]
        series = [
            Series(name, epochs, list(numbers(rows, column)))
            for name, column in zip(named, columns, strict=True)
        ]
        return chart(title, series, "epoch", y, note=note, whole_x=True)

    losses = [name for name in rows[0] if name not in _NOT_LOSSES]
    validation = [name for name in ("val_AP", "val_AP50") if any(row.get(name) for row in rows)]
    drawn = [curve("Training loss", losses, "loss")]
    if validation:
        drawn.append(curve("Validation", validation, "AP", "The test split is not looked at."))
    drawn.append(curve("Learning rate", ["lr"], "learning rate"))
    return joined(
        paragraph(
            f"{counted(run.about['epochs'], 'epoch')} over "
            f"{counted(run.about['training_images'], 'image')}, from {_start(run)}, "
            f"seed {run.about['seed']}."
        ),
        charts(drawn),
    )


def _start(run: Run) -> str:
    """What the training started from."""
    start = run.about.get("initialised_from", "random weights")
    if isinstance(start, str):
        return start
    return f"the weights of {start['file']} (SHA-256 {start['sha256'][:12]}…)"


def data(run: Run) -> Markup:
    """Where the data is from, what was converted and dropped, and the dataset's card."""
    made = run.conversion
    parts = []
    if made:
        parts += [
            paragraph(f"Splits: {made['split']}"),
            _splits(made["splits"]),
            _balance(made),
            _notes(made),
        ]
    else:
        parts.append(paragraph("The conversion's report is not at hand.", "note"))
    if run.card:
        parts.append(fold("Data card: source, terms, classes, traps", prose(run.card)))
    return joined(*parts)


def _splits(splits: Mapping[str, Any]) -> Markup:
    classes = sorted({name for split in splits.values() for name in split["classes"]})
    header = ["split", "images", "without objects", "boxes", *classes]
    rows = [
        [
            name,
            *(figure(splits[name][key]) for key in ("images", "negatives", "boxes")),
            *(figure(splits[name]["classes"].get(one, 0)) for one in classes),
        ]
        for name in ("train", "val", "test")
    ]
    return table("Images and boxes by split", header, rows)


def _balance(made: Mapping[str, Any]) -> Markup:
    rows = []
    for what in ("images", "boxes"):
        dropped = made[what]["dropped"]
        why = "; ".join(f"{reason} ({number})" for reason, number in sorted(dropped.items()))
        rows.append(
            [
                what,
                figure(made[what]["in"]),
                figure(made[what]["out"]),
                figure(sum(dropped.values())),
                why or "none",
            ]
        )
    return table("What came in and what was dropped", ["", "in", "out", "dropped", "why"], rows)


def _notes(made: Mapping[str, Any]) -> Markup:
    notes = made["notes of the converter"]
    return fold(f"Notes of the converter ({len(notes)})", items(notes)) if notes else Markup("")


def prose(text: str) -> Markup:
    """A dataset's card, Markdown, as HTML: no raw HTML, no images, links to the web only.

    Links to files would lead nowhere from where the page lies; their words stay.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = reader.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + _BELOW)}"
        if token.children is not None:
            token.children = _without_files(token.children)
    rendered = reader.renderer.render(tokens, reader.options, {})
    return Markup('<div class="prose">\n{}</div>\n').format(Markup(rendered))


def _without_files(tokens: list[Token]) -> list[Token]:
    """Inline tokens without the links that are not to the web."""
    kept, dropped = [], False  # links do not nest
    for token in tokens:
        if token.type == "link_open":
            dropped = not str(token.attrs["href"]).startswith(("https://", "http://"))
        if not (dropped and token.type in ("link_open", "link_close")):
            kept.append(token)
    return kept


def model_and_cost(run: Run) -> Markup:
    """What the detector is, how large it is, and what it takes to run."""
    from pipeline.models.heads.coverage import coverage_lines
    from pipeline.models.params import DetectorSpec, checked
    from pipeline.profile.count import NOT_COUNTED, count  # brings torch, which nothing else needs

    spec = checked(DetectorSpec, run.about["detector"], "about.json", "detector")
    side = run.about["image_size"]
    counts = count(spec, side)
    cost = {
        "parameters": large(counts.total),
        "of them in the backbone": large(counts.backbone),
        "of them in ACP and CAT": large(counts.interaction),
        f"FLOPs, one image of {side} px": large(counts.inference),
        "FLOPs of a training step, per image": large(counts.training),
        "memory of the weights": f"{4 * counts.total / MIB:,.1f} MiB",
        "with gradients and AdamW's state": f"{16 * counts.total / MIB:,.1f} MiB",
    }
    boxes = coverage_lines(run.about.get("training_boxes", {}))
    return joined(
        paragraph(f"RetinaNet with {arm_words(run.about['detector'])}."),
        facts(cost),
        joined(paragraph("What its head has for the training boxes:"), facts(boxes))
        if boxes
        else Markup(""),
        paragraph(
            f"FLOPs are 2 per multiply-add; not counted: {'; '.join(NOT_COUNTED)}. Memory is that "
            "of fp32, without activations; peak memory and time on a machine of yours: "
            "`descry profile`.",
            "note",
        ),
    )


def arm_words(detector: Mapping[str, Any]) -> str:
    """The backbone and what is added to it, in words."""
    acp, cat = detector["pool_layers"], detector["concepts"]
    added = [f"ACP of depth {acp}"] if acp else []
    added += [f"CAT of {cat} concepts"] if cat else []
    words = f"a {detector['backbone']} backbone, size {detector['size']}"
    if detector["width"]:
        words += f", widened to {detector['width']} channels"
    return f"{words}, with {' and '.join(added)}" if added else f"{words}, without ACP and CAT"


def parameters(run: Run) -> Markup:
    """Everything that was recorded of the run."""
    versions = run.about.get("versions", {})
    rest = {key: value for key, value in run.about.items() if key != "versions"}
    return joined(
        fold("Parameters", facts(dict(flat(rest)))),
        fold("Versions", facts(versions)),
    )


def flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """A tree of values as dotted names with their values as text."""
    for key, value in sorted(tree.items()):
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{name}.")
        elif isinstance(value, list):
            yield name, ", ".join(_item(item) for item in value) or "none"
        else:
            yield name, "none" if value is None else str(value)


def _item(item: object) -> str:
    return " ".join(map(str, item)) if isinstance(item, list) else str(item)


def limits(run: Run, *, sample: bool) -> Markup:
    """What these figures cannot say."""
    truth, intervals = run.details["ground_truth"], run.details["intervals"]
    said = [RESEARCH_USE, *run.stand_in]
    if sample:
        said.append(SAMPLE)
    if truth["objects"] < _FEW_OBJECTS:
        said.append(
            f"The test split has {counted(truth['objects'], 'object')} in "
            f"{counted(truth['images'], 'image')}: figures from so few move with each of them."
        )
    if intervals["unit"] == "image":
        said.append(
            "Which images are of one patient is unknown, so the intervals resample images; where "
            "patients have several images they are too narrow."
        )
    said += [
        "This is one training. Another seed gives other figures; `descry report --grid` shows "
        "the spread over seeds.",
        f"Images are scaled to {run.about['image_size']} px; what is smaller than a few pixels "
        "then is lost.",
        "Data of other devices, hospitals or habitats was not tested.",
    ]
    return items(said)

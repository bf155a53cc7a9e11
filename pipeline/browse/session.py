"""What the page asks for: images and boxes as JSON, pictures as JPEG, marks to keep."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isnan
from threading import Lock
from typing import Any

import numpy as np

from pipeline.browse.boxes import BOX_KINDS, NO_ANNOTATION
from pipeline.browse.collection import Collection, Filters, ImageEntry
from pipeline.browse.pictures import as_jpeg, augmented, read_pixels
from pipeline.browse.review import Review, Target
from pipeline.data.intensity import Intensity
from pipeline.errors import DescryError

AT_ONCE = 200  # images of one answer, at most
Query = Mapping[str, str]


@dataclass(slots=True)
class Session:
    """A collection that is being looked through.

    Attributes
    ----------
    collection : Collection
    review : Review
    intensity : Intensity
        From stored values to 8 bits.
    title : str
    recipes : tuple of str
        Augmentations that are offered, the dataset's own first.
    """

    collection: Collection
    review: Review
    intensity: Intensity
    title: str = "descry browse"
    recipes: tuple[str, ...] = ("none",)
    _writing: Any = field(default_factory=Lock)

    def images(self, query: Query) -> dict[str, Any]:
        """Images that fit the filters, from `start` on, with their boxes and marks."""
        filters = Filters.of(query)
        places = self.collection.chosen(filters)
        if query.get("marked"):
            marked = {(t.split, t.file_name) for t in self.review.marks}
            entries = self.collection.images
            keep = [(entries[i].split, entries[i].file_name) in marked for i in places.tolist()]
            places = places[np.array(keep, dtype=bool)]
        start, count = _whole(query, "start", 0), min(_whole(query, "count", 48), AT_ONCE)
        fitting = self.collection.fitting(filters)
        shown = [self._image(i, fitting) for i in places[start : start + count].tolist()]
        return {"total": len(places), "start": start, "images": shown}

    def picture(self, query: Query) -> bytes:
        """An image as JPEG, its longest side at most `side` px (0: its own size)."""
        return as_jpeg(read_pixels(self._entry(query), self.intensity), _whole(query, "side", 0))

    def augmented(self, query: Query) -> dict[str, Any]:
        """One draw of an image as training would see it, with the objects that are left."""
        i, recipe = self._place(query), query.get("recipe", self.recipes[0])
        if recipe not in self.recipes:
            raise DescryError(f"recipe={recipe!r}: must be one of {', '.join(self.recipes)}")
        rows = range(*self.collection.rows(i).indices(len(self.collection.boxes)))
        rows_of_objects = [row for row in rows if isnan(self.collection.boxes.score[row])]
        pixels = read_pixels(self.collection.images[i], self.intensity)
        draw = _whole(query, "draw", 0)
        seed = int(np.random.SeedSequence((i, draw)).generate_state(1)[0])
        boxes = self.collection.boxes.boxes[rows_of_objects].reshape(-1, 4)
        after, left, which = augmented(pixels, boxes, recipe, seed)
        address = "data:image/jpeg;base64," + base64.b64encode(as_jpeg(after, 0)).decode()
        shown = []
        for box, kept in zip(left.round(2).tolist(), which, strict=True):
            row = rows_of_objects[kept]
            shown.append(self._box(row) | {"box": box, "fits": True})
        return {
            "picture": address,
            "width": after.shape[1],
            "height": after.shape[0],
            "boxes": shown,
            "lost": len(rows_of_objects) - len(which),
        }

    def mark(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Keep or remove a mark of an image (`box` null) or of one of its boxes; its image."""
        i, row = body.get("index"), body.get("box")
        verdict, note = body.get("verdict", ""), body.get("note", "")
        if not (isinstance(verdict, str) and isinstance(note, str)):
            raise DescryError("verdict, note: must be texts")
        if type(i) is not int or not 0 <= i < len(self.collection.images):
            raise DescryError(f"index={i!r}: no such image")
        rows = range(*self.collection.rows(i).indices(len(self.collection.boxes)))
        if row is not None and (type(row) is not int or row not in rows):
            raise DescryError(f"box={row!r}: no box of image {i}")
        with self._writing:
            self.review.mark(self._target(i, row), verdict, note)
            return self._image(i, np.ones(len(self.collection.boxes), dtype=bool))

    def _entry(self, query: Query) -> ImageEntry:
        return self.collection.images[self._place(query)]

    def _place(self, query: Query) -> int:
        i = _whole(query, "i", -1)
        if not 0 <= i < len(self.collection.images):
            raise DescryError(f"i={query.get('i')!r}: no such image")
        return i

    def _image(self, i: int, fitting: np.ndarray) -> dict[str, Any]:
        entry, rows = self.collection.images[i], self.collection.rows(i)
        marks = self.review.of_image(entry.split, entry.file_name)
        boxes = []
        for row in range(*rows.indices(len(self.collection.boxes))):
            mark = marks.get(self._target(i, row))
            boxes.append(self._box(row) | {"fits": bool(fitting[row]), "mark": mark})
        return {
            "index": i,
            "name": entry.file_name + (f", frame {entry.frame + 1}" if entry.frame else ""),
            "split": entry.split,
            "width": entry.width,
            "height": entry.height,
            "boxes": boxes,
            "mark": marks.get(self._target(i, None)),
        }

    def _box(self, row: int) -> dict[str, Any]:
        table = self.collection.boxes
        score = float(table.score[row])
        return {
            "row": row,
            "label": self.collection.classes[table.label[row]],
            "box": table.boxes[row].round(2).tolist(),
            "score": None if isnan(score) else round(score, 3),
            "kind": BOX_KINDS[table.kind[row]],
            "loss": round(float(table.loss[row]), 3),
            "disagreement": round(float(table.disagreement[row]), 3),
        }

    def _target(self, i: int, row: int | None) -> Target:
        entry, table = self.collection.images[i], self.collection.boxes
        if row is None:
            return Target(entry.split, entry.file_name)
        x, y, width, height = (f"{value:.2f}" for value in table.boxes[row].tolist())
        score, annotation = float(table.score[row]), int(table.annotation[row])
        return Target(
            entry.split,
            entry.file_name,
            "" if annotation == NO_ANNOTATION else str(annotation),
            self.collection.classes[table.label[row]],
            x,
            y,
            width,
            height,
            "" if isnan(score) else f"{score:.5f}",
        )


def _whole(query: Query, key: str, default: int) -> int:
    text = query.get(key, str(default))
    if not text.removeprefix("-").isdecimal() or len(text) > 10:
        raise DescryError(f"{key}={text!r}: must be a whole number")
    return max(int(text), -1) if default < 0 else max(int(text), 0)

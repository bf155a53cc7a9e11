"""Tiles of large slides: where they lie, which boxes they keep, and reading one.

Rule for a box at a tile's edge: it is cut to the tile and kept when at least `keep` of its area
(of the part that lies on the slide) is inside, else this piece is dropped. A box may thus appear
in several overlapping tiles; one that no tile keeps is dropped as a whole.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

from pipeline.convert.formats.pictures import displayed_size, is_turned
from pipeline.convert.formats.slides import Rectangle
from pipeline.convert.records import Box, Ledger, Record
from pipeline.errors import DescryError

NO_TILE = "too little of it inside any tile"
OUTSIDE = "no area on the slide"
PIECE = "piece cut off by a tile edge"
UNUSED = "its slide is not used"


@dataclass(frozen=True, slots=True)
class Tiling:
    """Tile side, overlap of neighbours (pixels), and the share of a box that keeps it."""

    side: int
    overlap: int = 0
    keep: float = 0.5

    def __post_init__(self) -> None:
        if self.side and self.overlap >= self.side:
            raise DescryError(
                f"tile_overlap: {self.overlap} is not allowed; from 0 to below tile ({self.side})"
            )

    def grid(self, width: int, height: int) -> list[Rectangle]:
        """Tiles that cover an image, row by row.

        The last tile of a row or column is shifted back so that it too has the full side; an
        image that is smaller than a tile in some direction keeps its own size there.
        """
        w, h = min(self.side, width), min(self.side, height)
        return [(x, y, w, h) for y, x in product(self.starts(height), self.starts(width))]

    def starts(self, length: int) -> list[int]:
        """Where tiles begin along a side of `length` pixels, ascending."""
        last = max(length - self.side, 0)
        return [*range(0, last, self.side - self.overlap), last]

    def touched(self, box: Box, width: int, height: int) -> list[Rectangle]:
        """Tiles of an image that share a pixel with `box`, row by row."""
        columns, rows = self.starts(width), self.starts(height)
        w, h = min(self.side, width), min(self.side, height)
        xs = columns[bisect_right(columns, box.x - w) : bisect_left(columns, box.x + box.width)]
        ys = rows[bisect_right(rows, box.y - h) : bisect_left(rows, box.y + box.height)]
        return [(x, y, w, h) for y, x in product(ys, xs)]


@dataclass(slots=True)
class Tiler:
    """Turns records of slides into records of tiles and accounts for what is cut."""

    raw: Path
    tiling: Tiling
    slides: int = 0
    tiles: int = 0
    pieces: dict[str, int] = field(default_factory=lambda: {"kept": 0, "cut": 0, "dropped": 0})

    def records(self, slides: Iterator[Record], ledger: Ledger) -> Iterator[Record]:
        """Yield the tiles of every slide; a slide's name is the group of its tiles."""
        for slide in slides:
            size = displayed_size(self.raw / slide.path)
            if size is None:
                yield slide  # reading it will say what is wrong
            elif is_turned(self.raw / slide.path):
                ledger.drop("image", slide.path, "slide with an EXIF orientation, cannot be tiled")
                _drop_rows(slide.boxes, UNUSED, ledger)
            elif slide.size not in (None, size):
                ledger.drop(
                    "image", slide.path, "image size differs from the annotation", f"{size}"
                )
                _drop_rows(slide.boxes, UNUSED, ledger)
            else:
                yield from self._cut(slide, size, ledger)
        self._note(ledger)

    def _cut(self, slide: Record, size: tuple[int, int], ledger: Ledger) -> Iterator[Record]:
        boxes, group = self._by_tile(slide, size, ledger), slide.group or slide.key
        self.slides += 1
        for tile in self.tiling.grid(*size):
            self.tiles += 1
            key, own = _key(slide, tile), tuple(boxes.pop(tile, ()))
            yield replace(slide, key=key, boxes=own, group=group, size=tile[2:], crop=tile)

    def _by_tile(
        self, slide: Record, size: tuple[int, int], ledger: Ledger
    ) -> dict[Rectangle, list[Box]]:
        """Boxes of every tile, in the tile's frame; what no tile keeps is dropped."""
        boxes = defaultdict(list)
        for box in slide.boxes:
            whole = clip(box, (0, 0, *size))
            pieces = [] if whole is None else self._pieces(whole, slide, size, ledger)
            for tile, piece in pieces:
                boxes[tile].append(piece)
            if not pieces:
                ledger.drop("row", box.where, NO_TILE if whole else OUTSIDE, box.label)
        return boxes

    def _pieces(
        self, box: Box, slide: Record, size: tuple[int, int], ledger: Ledger
    ) -> list[tuple[Rectangle, Box]]:
        """The tiles that keep a box, each with the part of the box in the tile's frame."""
        found = [(t, self._piece(box, t, slide, ledger)) for t in self.tiling.touched(box, *size)]
        return [(tile, piece) for tile, piece in found if piece is not None]

    def _piece(self, box: Box, tile: Rectangle, slide: Record, ledger: Ledger) -> Box | None:
        """Part of a box in a tile and in its frame, or None when that is too little."""
        piece = clip(box, tile)
        if piece is None:
            return None
        share = piece.width * piece.height / (box.width * box.height)
        if share < self.tiling.keep:
            self.pieces["dropped"] += 1
            where = f"{box.where} in {_key(slide, tile)}"
            ledger.drop("box", where, PIECE, f"{share:.3f} of its area")
            return None
        self.pieces["kept"] += 1
        self.pieces["cut"] += share < 1
        return replace(piece, x=piece.x - tile[0], y=piece.y - tile[1])

    def _note(self, ledger: Ledger) -> None:
        side, overlap, keep = self.tiling.side, self.tiling.overlap, self.tiling.keep
        ledger.note(
            f"{self.slides} slide(s) were cut into {self.tiles} tiles of at most {side} x {side} "
            f"pixels with an overlap of {overlap}. A box at a tile's edge is cut and kept when at "
            f"least {keep:g} of its area is inside: {self.pieces['kept']} boxes in tiles, "
            f"{self.pieces['cut']} of them cut, {self.pieces['dropped']} pieces dropped (they "
            "remain visible without a box). All tiles of a slide are in one split."
        )


def _key(slide: Record, tile: Rectangle) -> str:
    return f"{slide.key}_x{tile[0]:06d}_y{tile[1]:06d}"


def clip(box: Box, frame: Rectangle) -> Box | None:
    """Part of `box` inside `frame`, in the same coordinates; None when nothing is."""
    x, y = max(box.x, frame[0]), max(box.y, frame[1])
    right = min(box.x + box.width, frame[0] + frame[2])
    bottom = min(box.y + box.height, frame[1] + frame[3])
    if right <= x or bottom <= y:
        return None
    return replace(box, x=x, y=y, width=right - x, height=bottom - y)


def _drop_rows(boxes: tuple[Box, ...], reason: str, ledger: Ledger) -> None:
    for box in boxes:
        ledger.drop("row", box.where, reason, box.label)

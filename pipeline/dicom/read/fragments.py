"""Which fragments of encapsulated pixel data make up a frame (PS3.5 A.4).

Offset tables are often wrong and often missing: one is believed only where each of its offsets is
that of a fragment. Else frames begin where codestreams begin.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

from pydicom.encaps import parse_basic_offsets, parse_fragments

from pipeline.dicom import WRONG_HEADER
from pipeline.dicom.errors import DicomError

# SOI of JPEG and JPEG-LS, SOC and SIZ of JPEG 2000, the signature of a JP2 file
_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")
IGNORED = f"{WRONG_HEADER}offset table ignored"


@dataclass(frozen=True, slots=True)
class Fragment:
    """`length` bytes from `place` on, counted in the stream."""

    place: int
    length: int


Frames = tuple[tuple[Fragment, ...], ...]


def frame_fragments(
    stream: BinaryIO, announced: int, extended: bytes, name: str
) -> tuple[Frames, tuple[str, ...]]:
    """Find the fragments of each frame.

    Parameters
    ----------
    stream : binary file
        Positioned at the value of the pixel data element.
    announced : int
        Number of Frames; there may be more.
    extended : bytes
        Extended Offset Table, empty where there is none.
    name : str
        Of the transfer syntax, for messages.

    Returns
    -------
    frames : tuple of tuple of Fragment
    notes : tuple of str

    Raises
    ------
    DicomError
        "truncated" when fragments are missing or cut off, "cannot decode" for a damaged
        structure and where nothing tells the frames apart.
    """
    try:
        basic = parse_basic_offsets(stream)
        _, items = parse_fragments(stream)
        fragments = [Fragment(item + 8, _length(stream, item)) for item in items]
    except Exception as error:  # struct, EOF and value errors all mean a damaged structure
        detail = f"{name}: damaged fragments ({type(error).__name__})"
        raise DicomError("cannot decode", detail) from error
    if not fragments or len(fragments) < announced:
        detail = f"{name}: {len(fragments)} fragments, {announced} frames"
        raise DicomError("truncated", detail)
    if fragments[-1].place + fragments[-1].length > stream.seek(0, 2):
        raise DicomError("truncated", f"{name}: the last fragment is cut off")
    table = _unpacked(extended) or basic
    starts = _by_table(table, fragments, announced)
    notes = (IGNORED,) if table and starts is None else ()
    if starts is None:
        starts = _by_content(stream, fragments, announced, name)
    ends = [*starts[1:], len(fragments)]
    frames = tuple(tuple(fragments[a:b]) for a, b in zip(starts, ends, strict=True))
    return frames, notes


def joined_fragments(stream: BinaryIO, fragments: Sequence[Fragment]) -> bytes:
    """The codestream of a frame."""
    parts = []
    for fragment in fragments:
        stream.seek(fragment.place)
        parts.append(stream.read(fragment.length))
    return b"".join(parts)


def _length(stream: BinaryIO, item: int) -> int:
    stream.seek(item + 4)
    return int(struct.unpack("<I", stream.read(4))[0])


def _unpacked(extended: bytes) -> list[int]:
    """Offsets of 64 bits (PS3.3 C.7.6.3.1.8)."""
    return list(struct.unpack(f"<{len(extended) // 8}Q", extended[: len(extended) // 8 * 8]))


def _by_table(
    table: Sequence[int], fragments: Sequence[Fragment], announced: int
) -> list[int] | None:
    """First fragment of each frame; None where the table cannot be right."""
    numbers = {one.place - fragments[0].place: number for number, one in enumerate(fragments)}
    starts = [numbers.get(offset, -1) for offset in table]
    ascending = all(a < b for a, b in pairwise(starts))
    right = starts[:1] == [0] and ascending and len(starts) >= announced
    return starts if right else None


def _by_content(
    stream: BinaryIO, fragments: Sequence[Fragment], announced: int, name: str
) -> list[int]:
    """First fragment of each frame, by the beginnings of codestreams."""
    every = list(range(len(fragments)))
    if len(fragments) == announced:
        return every
    begins = []
    for number, fragment in enumerate(fragments):
        stream.seek(fragment.place)
        if stream.read(min(8, fragment.length)).startswith(_STARTS):
            begins.append(number)
    if begins[:1] == [0] and len(begins) >= announced:
        return begins
    if announced == 1:
        return [0]
    raise DicomError("cannot decode", f"{name}: nothing tells its frames apart")

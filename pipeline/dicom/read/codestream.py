"""Size, precision and colour of a compressed frame, read from the codestream itself.

The decoders allocate what the codestream asks for, not what the DICOM header says, so a few
bytes can ask for many gigabytes. This is checked before any decoder sees the frame.
"""

import struct
from dataclasses import dataclass

# Start-of-frame markers of JPEG (T.81 table B.1) and JPEG-LS (T.87 C.1): the frame's dimensions.
_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_SOC_SIZ = b"\xff\x4f\xff\x51"
_JP2_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # no length follows


@dataclass(frozen=True, slots=True)
class Codestream:
    """What a compressed frame says of itself.

    Attributes
    ----------
    rows, columns, components : int
    precision : int
        Bits per sample.
    colour : str
        "RGB" or "YBR": what three components are once a decoder is done with them. Empty where
        the codestream does not say; then Photometric Interpretation does.
    """

    rows: int
    columns: int
    components: int
    precision: int
    colour: str = ""


def inspect(frame: bytes) -> Codestream | None:
    """Read the frame header of a JPEG, JPEG-LS, JPEG 2000 or HTJ2K codestream.

    Returns
    -------
    Codestream or None
        None where there is no such header (damaged or another coding).
    """
    try:
        if frame[:12] == _JP2_SIGNATURE:  # not allowed in DICOM (PS3.5 A.4.4), but it occurs
            frame = frame[frame.index(_SOC_SIZ) :]
        if frame[:4] == _SOC_SIZ:
            return _jpeg2000(frame)
        return _jpeg(frame) if frame[:2] == b"\xff\xd8" else None
    except (struct.error, IndexError, ValueError):
        return None


def _jpeg2000(frame: bytes) -> Codestream | None:
    """The SIZ segment right after SOC, and the COD segment behind it (T.800 A.5.1, A.6.1)."""
    width, height, left, top = struct.unpack(">4I", frame[8:24])
    components, depth = struct.unpack(">HB", frame[40:43])
    colour = "RGB" if _component_transform(frame) else ""  # which decoders undo
    return Codestream(height - top, width - left, components, (depth & 0x7F) + 1, colour)


def _component_transform(frame: bytes) -> bool:
    """Whether the first three components were transformed, whatever the header calls them."""
    place = 2
    while frame[place] == 0xFF and frame[place + 1] != 0x90:  # start of the first tile
        if frame[place + 1] == 0x52:
            return frame[place + 8] == 1
        place += 2 + struct.unpack(">H", frame[place + 2 : place + 4])[0]
    return False


def _jpeg(frame: bytes) -> Codestream | None:
    """The first start-of-frame segment (T.81 B.2.2), and application segments before it."""
    place, marks = 2, set[str]()
    while place < len(frame) - 9:
        if frame[place] != 0xFF:
            return None
        marker = frame[place + 1]
        if marker == 0xFF or marker in _STANDALONE:
            place += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAME_MARKERS:
            precision, rows, columns, components = struct.unpack(
                ">BHHB", frame[place + 4 : place + 10]
            )
            specified = frame[place + 10 : place + 10 + 3 * components]
            return Codestream(rows, columns, components, precision, _colour(marks, specified))
        content = frame[place + 4 : place + 9]
        marks |= {"JFIF"} if marker == 0xE0 and content[:4] == b"JFIF" else set()
        marks |= {"Adobe"} if marker == 0xEE and content == b"Adobe" else set()
        place += 2 + struct.unpack(">H", frame[place + 2 : place + 4])[0]
    return None


def _colour(marks: set[str], specified: bytes) -> str:
    """Colour of JPEG's components, by application segments, their names and their sampling.

    Decoders undo the transform that Adobe's segment names, and no other.
    """
    if len(specified) != 9:
        return ""
    names, samplings = specified[::3], set(specified[1::3])
    if "Adobe" in marks or names.upper() == b"RGB":
        return "RGB"
    return "YBR" if "JFIF" in marks or len(samplings) > 1 else ""


def rle_segments(frame: bytes) -> int | None:
    """Count the segments of an RLE frame (PS3.5 G.5); None where its header is damaged.

    The decoder trusts the offsets and does not look at the count.
    """
    if len(frame) < 64:
        return None
    count, *offsets = struct.unpack("<16I", frame[:64])
    used, unused = offsets[:count], offsets[count:]
    sound = 1 <= count <= 15 and used[0] == 64 and used == sorted(set(used)) and not any(unused)
    return count if sound and used[-1] < len(frame) else None

"""From bytes to a data set: sniffing, inflating, where the pixels begin; what a DICOMDIR lists."""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from pipeline.dicom import EXTENSIONS
from pipeline.dicom.errors import DicomError, quiet
from pipeline.errors import DescryError

_PIXEL_TAGS = {
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
    0x7FE00010: "PixelData",
}
_PIXEL_VRS = (b"OB", b"OW", b"OF", b"OD", b"UN")
MAX_INFLATED = 2**30  # bytes
_STEP = 2**20  # bytes that are inflated at once
UNDEFINED = 0xFFFFFFFF  # the length of encapsulated pixel data


@dataclass(frozen=True, slots=True)
class PixelElement:
    """Where the pixel data element lies: `offset` of its value in the file, in bytes.

    `length` is `UNDEFINED` for encapsulated data; `vr` is empty in implicit VR files.
    """

    keyword: str
    vr: str
    offset: int
    length: int


def looks_like_dicom(head: bytes) -> bool:
    """Say whether a file that begins with `head` (132 bytes or more) may be DICOM.

    True with ``DICM`` at byte 128, or when the file opens with an element of group 0002 or
    0008 in either byte order whose VR is two capitals or whose implicit length is small.
    """
    if head[128:132] == b"DICM":
        return True
    if len(head) < 16 or head[:2] not in (b"\x02\0", b"\x08\0", b"\0\x02", b"\0\x08"):
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return explicit or head[6:8] == b"\0\0"


def parse(file: BinaryIO, head: bytes, keywords: Sequence[str]) -> tuple[Dataset, UID, BinaryIO]:
    """Read the data set of an open file up to its pixels.

    Parameters
    ----------
    file : binary file
    head : bytes
        Its first 2,048 bytes.
    keywords : sequence of str
        Elements to keep; all others are skipped.

    Returns
    -------
    dataset : Dataset
        The elements asked for.
    syntax : UID
        Of files without meta information the one found by sniffing.
    stream : binary file
        `file`, or the inflated data set of a deflated one; before the pixel data element.
    """
    tags: list[Any] = [Tag(keyword) for keyword in keywords]
    start = deflated_from(file, head)
    if start is not None:
        stream = inflated(file, start)
        dataset = read_dataset(stream, False, True, stop_when=_at_pixels, specific_tags=tags)
        return dataset, DeflatedExplicitVRLittleEndian, stream
    file.seek(0)
    full = pydicom.dcmread(file, force=True, stop_before_pixels=True, specific_tags=tags)
    declared = str(full.file_meta.get("TransferSyntaxUID") or "").strip("\0 ")
    if declared:
        return full, UID(declared), file
    implicit, little = full.original_encoding
    guessed = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    return full, ImplicitVRLittleEndian if implicit else guessed, file


def _at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    return int(tag) in _PIXEL_TAGS


def _not_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag.group != 2


def deflated_from(file: BinaryIO, head: bytes) -> int | None:
    """Where the deflated data set of a file begins; None in all other transfer syntaxes.

    The meta information may lack its length, and other elements may name the transfer syntax too.
    """
    if head[128:132] != b"DICM" or DeflatedExplicitVRLittleEndian.encode() not in head[132:]:
        return None
    file.seek(132)
    meta = read_dataset(file, False, True, stop_when=_not_meta)
    deflated = meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    return file.tell() if deflated else None


def inflated(file: BinaryIO, start: int) -> BinaryIO:
    """Inflate the data set that begins at `start`, up to a limit (PS3.5 A.5).

    Raises
    ------
    DicomError
        "too large".
    """
    file.seek(start)
    inflater, content = zlib.decompressobj(-zlib.MAX_WBITS), BytesIO()
    packed = file.read(_STEP)
    while packed:
        if content.write(inflater.decompress(packed, _STEP)) and content.tell() > MAX_INFLATED:
            raise DicomError("too large", f"inflates to more than {MAX_INFLATED >> 20} MiB")
        packed = inflater.unconsumed_tail or file.read(_STEP)
    content.seek(0)
    return content


def pixel_element(stream: BinaryIO, syntax: UID) -> PixelElement | None:
    """Read the head of the pixel data element that comes next in `stream` (PS3.5 7.1.2).

    Explicit and implicit VR are told apart by the bytes and not by the transfer syntax, which
    some writers get wrong: read as an implicit length, a VR would be an odd number, and lengths
    are even.
    """
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    start = stream.read(8)
    if len(start) < 8:
        return None
    group, number = struct.unpack(order + "HH", start[:4])
    keyword = _PIXEL_TAGS.get(group << 16 | number)
    if keyword is None:
        return None
    explicit = start[4:6] in _PIXEL_VRS and start[6:8] == b"\0\0"
    raw = stream.read(4) if explicit else start[4:8]
    if len(raw) < 4:
        return None
    (length,) = struct.unpack(order + "I", raw)
    return PixelElement(keyword, start[4:6].decode() if explicit else "", stream.tell(), length)


def listed_files(path: Path) -> list[str] | None:
    """Files that a DICOMDIR refers to.

    Parameters
    ----------
    path : Path
        A file of any kind.

    Returns
    -------
    list of str or None
        Paths relative to the DICOMDIR's folder, in its order; None where `path` is no DICOMDIR.
        Copied from a medium, files are often in lower case, or have an extension: they count as
        those that are listed. What is not there at all is listed as it stands.

    Raises
    ------
    DescryError
        When it is a damaged DICOMDIR, lists no file, or lists one outside of its folder.
    """
    try:
        with quiet():
            dataset = pydicom.dcmread(path, specific_tags=["DirectoryRecordSequence"])
            if dataset.file_meta.get("MediaStorageSOPClassUID") != MediaStorageDirectoryStorage:
                return None
            files = _referenced(dataset)
    except Exception as error:  # pydicom has no common base for what broken files raise
        if path.name.upper() != "DICOMDIR":
            return None  # an ordinary file; its reader says what is wrong
        raise DescryError(f"{path}: damaged DICOMDIR; give its folder instead") from error
    if not files:
        raise DescryError(f"{path}: lists no files; give its folder instead")
    for name in files:
        if not (path.parent / name).resolve().is_relative_to(path.parent.resolve()):
            raise DescryError(f"{path}: lists a file outside of its folder; give a folder instead")
    names: dict[Path, list[str]] = {}
    return [_on_disk(path.parent, name.split("/"), names) for name in files]


def _on_disk(folder: Path, parts: Sequence[str], names: dict[Path, list[str]]) -> str:
    """The path of a file whose name is nearly this one; `names` keeps what folders hold."""
    found = folder
    for part in parts:
        if (found / part).exists():
            found /= part
            continue
        if found not in names:
            names[found] = [one.name for one in found.iterdir()] if found.is_dir() else []
        near = [name for name in names[found] if _plain(name) == _plain(part)]
        if len(near) != 1:
            return "/".join(parts)
        found /= near[0]
    return found.relative_to(folder).as_posix()


def _plain(name: str) -> str:
    """A name without case, version (ISO 9660) and extension of DICOM."""
    name = name.partition(";")[0].lower()
    stem, dot, extension = name.rpartition(".")
    return stem if dot + extension in EXTENSIONS else name


def _referenced(dataset: pydicom.Dataset) -> list[str]:
    """Referenced File ID of every record that has one: a name in parts (PS3.3 F.3.2.2)."""
    names = []
    for record in dataset.get("DirectoryRecordSequence", []):
        parts = record.get("ReferencedFileID")
        if parts:
            names.append("/".join([parts] if isinstance(parts, str) else parts))
    return names

"""Read one input file in a worker process: what it is, whether it is wanted, its pictures.

This module imports no torch: workers start in a fraction of a second.
"""

import os
import re
import traceback
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from pipeline import dicom
from pipeline.data.geometry import Fit, shrink, unscaled
from pipeline.data.images import EXTENSIONS, ImageError, read_image
from pipeline.data.intensity import Intensity, to_uint8
from pipeline.dicom.errors import DicomError
from pipeline.dicom.read.geometry import spacing
from pipeline.dicom.read.header import Header, read_header
from pipeline.dicom.read.parse import looks_like_dicom
from pipeline.dicom.read.pixels import frames
from pipeline.dicom.read.stored import frame_count
from pipeline.predict.records import Ended, Opened, Picture
from pipeline.predict.select import Filters, Place, place_of, rejected_by
from pipeline.predict.sources import (
    DAMAGED,
    SUFFIX,
    Member,
    SourceError,
    is_regular,
    located,
    members,
)
from pipeline.predict.windows import Windows
from pipeline.work.pool import Crashed

# DICOM objects that are well-formed but hold nothing to look at: skipped, not failed.
_SKIPPED = ("not DICOM", "not an image object")
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*")
# Of an overlay. Radiographs and photographs have less; drawing takes five times as much memory.
DRAWN_PIXELS = 2**25
WORKER_BYTES = 6 * 2**30  # address space of a worker; a bomb dies here and not the machine
BURNED_IN = "burned-in annotation"
_TEXT_IN_PICTURE = (
    "the header says that the picture contains text: overlays show it, and with --pseudonymise "
    "none is drawn"
)
Task = tuple[str, bool]  # path, headers only
FOR_PROCESSING = "for processing"
_NOT_FOR_EYES = (
    "the header says that these are the detector's values, which are not for display: models that "
    "were trained on pictures for presentation see something else"
)
Message = Opened | Place | Picture | Ended


@dataclass(frozen=True, slots=True)
class Reduction:
    """What of a picture leaves the worker: reducing it there spares the model's process the time.

    Attributes
    ----------
    side : int or None
        Longest side of what the model sees; larger pictures are scaled down to it. None: never.
    windows : Windows
        Pictures that will be cut stay as they are.
    whole : bool
        The picture goes along to be drawn, at its own size up to `DRAWN_PIXELS`.
    """

    side: int | None = None
    windows: Windows = field(default_factory=Windows)
    whole: bool = False

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, Fit, np.ndarray | None]:
        """The first fields of a `Picture`."""
        if self.side is None or self.windows.side_for(*pixels.shape[:2]) is not None:
            seen, fit = pixels, unscaled(pixels)
        else:
            seen, fit = shrink(pixels, self.side)
        return seen, fit, _drawable(pixels) if self.whole else None


def _drawable(pixels: np.ndarray) -> np.ndarray:
    """The picture, or where it has too many pixels a smaller one."""
    height, width = pixels.shape[:2]
    if height * width <= DRAWN_PIXELS:
        return pixels
    return shrink(pixels, int(max(height, width) * (DRAWN_PIXELS / (height * width)) ** 0.5))[0]


@dataclass(frozen=True, slots=True)
class Reader:
    """How to read; picklable, since it travels to the workers.

    Attributes
    ----------
    root : Path
        Folder that paths are relative to.
    intensity : Intensity
        The model's recipe.
    filters : Filters
    modalities : tuple of str
        Modalities the model was trained on; others get a warning. Empty: unknown.
    lost : mapping
        Path -> reason, of what an archive did not give.
    reduction : Reduction
        How much of the pixels travels on.
    """

    root: Path
    intensity: Intensity
    filters: Filters = field(default_factory=Filters)
    modalities: tuple[str, ...] = ()
    lost: Mapping[str, str] = field(default_factory=dict)
    reduction: Reduction = field(default_factory=Reduction)

    def __call__(self, task: Task) -> Iterator[Message]:
        """Yield `Opened`, a `Picture` per frame, and `Ended`, which always comes last.

        With `headers_only` there is a `Place`, where the file has one, instead of the pictures.
        """
        path, headers_only = task
        try:
            yield from self._read(path, headers_only)
        except SourceError as error:
            yield Ended("failed", "read", error.kind, error.detail)
        except (BadZipFile, zlib.error, EOFError) as error:  # while a member is unpacked
            yield Ended("failed", "read", DAMAGED, type(error).__name__)
        except DicomError as error:
            status = "skipped" if error.kind in _SKIPPED else "failed"
            step = "read" if error.kind in (*_SKIPPED, "no pixel data") else "decode"
            yield Ended(status, step, error.kind, error.detail)
        except ImageError as error:
            yield Ended("failed", "decode", "corrupt image", str(error))
        except OSError as error:
            yield Ended("failed", "read", "cannot open", error.strerror or type(error).__name__)
        except Exception as error:  # a mistake of ours costs the file and is reported, not the run
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
            yield Ended("failed", "decode", "internal error", where)
        except MemoryError:
            yield Ended("failed", "decode", "too large", "not enough memory to decode it")

    def _read(self, path: str, headers_only: bool) -> Iterator[Message]:
        if path in self.lost:
            yield Ended("failed", "fetch", "not given by the archive", self.lost[path])
            return
        file = located(self.root, path, whole=not headers_only)
        if not is_regular(file):
            yield Ended("skipped", "find", "not a regular file")
            return
        with file.open("rb") as stream:
            head = stream.read(132)
        if _is_image(file, head):
            yield from self._image(file, headers_only)
        elif looks_like_dicom(head):
            yield from self._dicom(file, headers_only)
        elif file.suffix.lower() == SUFFIX:
            yield _archive(file)
        elif file.suffix.lower() in dicom.EXTENSIONS:
            yield Ended("failed", "read", "not DICOM", "it has the name of a DICOM file")
        else:
            yield Ended("skipped", "find", "neither DICOM nor an image")

    def _image(self, file: Path | Member, headers_only: bool) -> Iterator[Message]:
        if self.filters.any_set:
            yield Ended("skipped", "select", "ordinary image, while DICOM is filtered")
            return
        if headers_only:
            yield Opened()
        else:
            with file.open("rb") as stream:
                decoded = read_image(stream)
            yield Opened()
            pixels = to_uint8(decoded.pixels, self.intensity)
            yield Picture(*self.reduction(pixels), notes=decoded.notes)
        yield Ended("processed")

    def _dicom(self, file: Path | Member, headers_only: bool) -> Iterator[Message]:
        header = read_header(file)
        option = rejected_by(header, self.filters)
        if option:
            yield Ended("skipped", "select", f"filtered out by {option}")
            return
        yield Opened(
            study=_uid(header, "StudyInstanceUID"),
            series=_uid(header, "SeriesInstanceUID"),
            instance=_uid(header, "SOPInstanceUID"),
            frames=header.frame_count if headers_only else _frame_count(header),
            warnings=self._warnings(header),
        )
        yield from self._place(header) if headers_only else self._pictures(header)
        yield Ended("processed")

    def _place(self, header: Header) -> Iterator[Message]:
        place = place_of(header)
        if place is not None:
            yield place

    def _pictures(self, header: Header) -> Iterator[Message]:
        for frame in frames(header, self.intensity):
            found = spacing(header, frame.index)
            millimetres = (found.row, found.column, found.source) if found else None
            seen = self.reduction(frame.pixels)
            yield Picture(*seen, frame.index, millimetres, frame.notes, frame.limits)

    def _warnings(self, header: Header) -> tuple[tuple[str, str], ...]:
        warnings = []
        if header.text("BurnedInAnnotation").upper() == "YES":
            warnings.append((BURNED_IN, _TEXT_IN_PICTURE))
        if header.for_processing:
            warnings.append((FOR_PROCESSING, _NOT_FOR_EYES))
        modality = header.text("Modality").upper()
        if self.modalities and modality not in self.modalities:
            text = f"the model was trained on {', '.join(self.modalities)}"
            warnings.append(("modality differs from training", text))
        return tuple(warnings)


def _uid(header: Header, keyword: str) -> str:
    """A UID, or nothing where the element holds anything else, which could be a name."""
    text = header.text(keyword)
    return text if re.fullmatch(r"[0-9.]{1,64}", text) else ""


def _frame_count(header: Header) -> int:
    """How many frames there are; as announced, where decoding will say what is wrong."""
    try:
        return frame_count(header)
    except DicomError:
        return header.frame_count


def _archive(file: Path | Member) -> Ended:
    """Why an archive was not replaced by its members (see `find_files`)."""
    if isinstance(file, Member):
        return Ended("skipped", "find", "archive within an archive")
    if members(file):
        return Ended("failed", "read", "cannot open", "the archive has changed meanwhile")
    return Ended("skipped", "find", "archive without files")


def _is_image(file: Path | Member, head: bytes) -> bool:
    """PNG, JPEG or TIFF by content, any image by name (then damage is a failure)."""
    if head[128:132] == b"DICM":
        return False
    return head.startswith(_MAGIC) or file.suffix.lower() in EXTENSIONS


def ended(message: Message | Crashed) -> Ended | None:
    """The last word on a file, if this is it."""
    if isinstance(message, Crashed):
        kind = "the decoder hangs" if message.hung else "the decoder crashed"
        return Ended("failed", "decode", kind, message.how)
    return message if isinstance(message, Ended) else None


def confine() -> None:
    """Silence the codecs, which write to the terminal by themselves, and bound the memory."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    with suppress(ImportError, ValueError, OSError):  # not all systems have or allow limits
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (WORKER_BYTES, WORKER_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

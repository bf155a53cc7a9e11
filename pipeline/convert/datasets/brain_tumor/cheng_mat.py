"""One MATLAB file of Cheng's dataset: the structure ``cjdata``, read with h5py.

MATLAB v7.3 files are HDF5. MATLAB stores columns first, so every array is transposed here; texts
are arrays of UTF-16 codes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import scipy.io
from PIL import Image, ImageDraw

from pipeline.convert.records import Unreadable
from pipeline.data.images import MAX_PIXELS
from pipeline.errors import DescryError, first_line

LABELS = {1: "meningioma", 2: "glioma", 3: "pituitary"}
# A border's corners may count from 0 or 1, which costs a small tumour much of its overlap.
_SAME = 0.7
_MALFORMED = "malformed cjdata"


@dataclass(frozen=True, slots=True)
class Slice:
    """One ``cjdata`` structure, its arrays in displayed rows and columns.

    Attributes
    ----------
    image : array (H, W), as stored
    mask : array (H, W), bool
    border : array (n,), float
        Alternating coordinates in pixels; empty when the file has none.
    label : str
    """

    image: np.ndarray
    mask: np.ndarray
    border: np.ndarray
    label: str


def read_head(path: Path) -> tuple[int, str]:
    """Label number and patient id of one file; no pixels are read.

    Raises
    ------
    Unreadable
        When the file is not such a structure, or its label is unknown.
    """
    with _structure(path) as data:
        missing = [name for name in ("image", "tumorMask") if name not in data]
        if missing:
            raise Unreadable(_MALFORMED, f"no field {missing[0]}")
        return _label(data), _text(_array(data, "PID"))


def load(path: Path) -> Slice:
    """Read one file whole.

    Raises
    ------
    Unreadable
        When the file is not such a structure, or its label is unknown.
    """
    with _structure(path) as data:
        image, mask = _array(data, "image").T, _array(data, "tumorMask").T
        border = _array(data, "tumorBorder") if "tumorBorder" in data else np.empty(0)
        label = LABELS[_label(data)]
    if image.ndim != 2 or image.size == 0:
        raise Unreadable(_MALFORMED, f"image of shape {image.shape}")
    if mask.shape != image.shape:
        detail = f"image {image.shape}, mask {mask.shape} (rows, columns)"
        raise Unreadable("mask and image differ in size", detail)
    return Slice(image, mask != 0, border.ravel().astype(np.float64), label)


def read_vector(path: Path, key: str) -> np.ndarray:
    """Read one list of numbers from a MATLAB file of either kind (v7.3 or v5).

    Raises
    ------
    DescryError
        When the file cannot be read or does not hold `key`.
    """
    way_out = "Download it again, or remove it: it is optional."
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                return np.asarray(file[key][()], dtype=np.float64).ravel()
        return np.asarray(scipy.io.loadmat(path)[key], dtype=np.float64).ravel()
    except Exception as error:  # both readers raise anything on a damaged file
        raise DescryError(f"{path}: no list {key!r} can be read ({error}). {way_out}") from error


def to_unsigned(image: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Store integers of any width as uint8 or uint16 without losing one, and say what was done.

    Signed values below 0 are shifted by the image's own minimum, which keeps their order and
    their distances.

    Raises
    ------
    Unreadable
        When the values are not integers or span more than 16 bits.
    """
    if image.dtype == np.uint8:
        return image, ()
    if image.dtype.kind not in "iuf" or not np.array_equal(image, np.floor(image)):
        raise Unreadable("unsupported pixel type", f"{image.dtype}, not all whole numbers")
    low, high = int(image.min()), int(image.max())
    shift = min(low, 0)
    if high - shift > 65535:
        raise Unreadable("unsupported pixel type", f"values {low} to {high} exceed 16 bits")
    notes = ("negative values: shifted so that the smallest is 0",) if shift else ()
    return (image.astype(np.int64) - shift).astype(np.uint16), notes


def compare_border(border: np.ndarray, mask: np.ndarray) -> str:
    """Say in which axis order, if any, the border (n,) outlines the mask (H, W).

    Sources disagree on whether tumorBorder holds (x, y) or (y, x) pairs.
    """
    if border.size < 6 or border.size % 2 or not np.isfinite(border).all():
        return "tumorBorder is missing or malformed: the mask is used"
    first, second = border[0::2], border[1::2]
    as_xy, as_yx = _overlap(first, second, mask), _overlap(second, first, mask)
    if max(as_xy, as_yx) < _SAME:
        return "tumorBorder does not outline the mask: the mask is used"
    return f"tumorBorder outlines the mask as {'x,y' if as_xy >= as_yx else 'y,x'} pairs"


def _overlap(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> float:
    """IoU of the polygon with corners (x, y) in pixels and the mask (H, W)."""
    canvas = Image.new("1", (mask.shape[1], mask.shape[0]))
    ImageDraw.Draw(canvas).polygon(list(zip(x.tolist(), y.tolist(), strict=True)), fill=1)
    drawn = np.asarray(canvas, dtype=bool)
    return float((drawn & mask).sum() / max((drawn | mask).sum(), 1))


@contextmanager
def _structure(path: Path) -> Iterator[h5py.Group]:
    """The structure in a file; whatever of it cannot be read is `Unreadable`."""
    with _open(path) as file:
        try:
            yield _struct(file)
        except (Unreadable, MemoryError):
            raise
        except Exception as error:  # h5py raises anything on a damaged file
            raise Unreadable("corrupt file", first_line(error)) from error


def _open(path: Path) -> h5py.File:
    """Open a v7.3 file; say so when it is one of MATLAB's older kind."""
    try:
        return h5py.File(path, "r")
    except FileNotFoundError as error:
        raise Unreadable("image missing") from error
    except OSError as error:
        with path.open("rb") as stream:
            old = stream.read(10) == b"MATLAB 5.0"
        if old:
            detail = "take the published file, or save it again in MATLAB with '-v7.3'"
            raise Unreadable("MATLAB v5 file instead of v7.3", detail) from error
        raise Unreadable("corrupt file", str(error)) from error


def _struct(file: h5py.File) -> h5py.Group:
    data = file.get("cjdata")
    if not isinstance(data, h5py.Group):
        raise Unreadable(
            _MALFORMED, f"no structure cjdata; it holds {', '.join(file) or 'nothing'}"
        )
    return data


def _array(data: h5py.Group, name: str) -> np.ndarray:
    """One numeric field, as stored (columns first)."""
    field = data.get(name)
    if not isinstance(field, h5py.Dataset) or field.dtype.kind not in "iufb":
        raise Unreadable(_MALFORMED, f"field {name} is missing or not numeric")
    if field.size > MAX_PIXELS:  # little on disk may be much in memory
        raise Unreadable(_MALFORMED, f"field {name} of {field.size} numbers")
    return np.asarray(field[()])


def _label(data: h5py.Group) -> int:
    values = _array(data, "label").ravel()
    if values.size != 1 or values[0] not in LABELS:
        allowed = ", ".join(f"{number} {name}" for number, name in LABELS.items())
        raise Unreadable("unknown class", f"label {values.tolist()}; known are {allowed}")
    return int(values[0])


def _text(codes: np.ndarray) -> str:
    """Text of an array of UTF-16 codes (MATLAB char), or of a single number."""
    if codes.dtype == np.uint16:
        return codes.ravel().tobytes().decode("utf-16-le", errors="replace").strip("\0 ")
    return ",".join(f"{value:g}" for value in codes.ravel())

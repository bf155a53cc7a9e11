"""Look-up tables of DICOM, as they are stored and as they are applied."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from pipeline.dicom.errors import DicomError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LookupTable:
    """A modality or VOI look-up table (PS3.3 C.11.1.1 and C.11.2.1.1).

    Attributes
    ----------
    entries : array of float64 (n,)
    first : int
        The input value that maps to ``entries[0]``; lower inputs map there too, inputs beyond
        the end map to the last entry.
    bits : int
        Depth of the output: it spans 0 .. 2**bits - 1.
    """

    entries: Floats
    first: int
    bits: int

    def __call__(self, values: Floats) -> Floats:
        """Look up `values` of any shape."""
        place = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        return self.entries[place.astype(np.intp)]


def first_table(source: Dataset, keyword: str, *, negative: bool) -> LookupTable | None:
    """Read the first item of a LUT sequence.

    Parameters
    ----------
    keyword : str
        "ModalityLUTSequence" or "VOILUTSequence". A VOI LUT that declares 16 bits and holds 14 or
        fewer declares the size of its entries and not their range, as many do: its highest
        entry, and not a quarter of the range, is white.
    negative : bool
        Whether the table's input may be negative. The first value mapped is then signed
        (PS3.3 C.11.1.1.1 and C.11.2.1.1), which the stored VR does not always say.

    Returns
    -------
    LookupTable or None
        None where there is no such sequence, or an empty one.
    """
    items = source.get(keyword)
    if not items:
        return None
    item = items[0]
    count, first, bits = (int(v) for v in item.LUTDescriptor)
    entries = _entries(item["LUTData"].value, count or 65536, item)
    if negative and first > 32767:
        first -= 65536
    if not 1 <= bits <= 16:
        bits = 16
    filled = int(entries.max()).bit_length()
    if keyword == "VOILUTSequence" and bits == 16 and 0 < filled <= 14:
        bits = filled
    # Some writers declare fewer bits than they fill in; the values decide.
    return LookupTable(entries, first, max(bits, filled))


def _entries(data: Any, count: int, item: Dataset) -> Floats:
    """LUT Data as numbers, whether stored as US or as bytes of 8 or 16 bits (VR OW)."""
    if isinstance(data, bytes):
        little = item.original_encoding[1] is not False
        wide = len(data) >= 2 * count
        data = np.frombuffer(data, dtype="u1" if not wide else ("<u2" if little else ">u2"))
    entries = np.asarray(data, dtype=np.float64).ravel()[:count]
    if len(entries) == 0:
        raise DicomError("cannot decode", "a look-up table is empty")
    return entries

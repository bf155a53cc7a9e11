"""Which DICOM objects the user wants, and the order of slices: decided on the header alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from pipeline.dicom.read.geometry import slice_position
from pipeline.dicom.read.header import Header


@dataclass(frozen=True, slots=True)
class Filters:
    """Accept only objects that match every filter that is set.

    Attributes
    ----------
    modality, body_part, view : tuple of str
        One of these must be the value of Modality, Body Part Examined, View Position
        (case does not matter).
    series_description : str
        Must occur in Series Description (case does not matter).
    """

    modality: tuple[str, ...] = ()
    body_part: tuple[str, ...] = ()
    view: tuple[str, ...] = ()
    series_description: str = ""

    @property
    def any_set(self) -> bool:
        """Whether something is filtered at all; ordinary images then never match."""
        return bool(self.modality or self.body_part or self.view or self.series_description)


def rejected_by(header: Header, filters: Filters) -> str:
    """Name the first option that rejects the object; empty if it is wanted.

    The header's value is not part of the answer: free text may hold anything.
    """
    for option, keyword, wanted in (
        ("--modality", "Modality", filters.modality),
        ("--body-part", "BodyPartExamined", filters.body_part),
        ("--view", "ViewPosition", filters.view),
    ):
        if wanted and header.text(keyword).casefold() not in [w.casefold() for w in wanted]:
            return option
    description = filters.series_description.casefold()
    if description not in header.text("SeriesDescription").casefold():
        return "--series-description"
    return ""


_DECIMALS = 3  # thousandths of a millimetre: positions that differ by rounding only are equal


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file belongs in its series.

    Attributes
    ----------
    series : str
        Series Instance UID.
    position : float or None
        Distance of the slice from the origin along its normal, in mm.
    number : int or None
        Instance Number.
    """

    series: str
    position: float | None
    number: int | None


def place_of(header: Header) -> Place | None:
    """Return the place that the header names; None where it names no series or nothing in it."""
    series, position = header.text("SeriesInstanceUID"), slice_position(header)
    try:
        number: int | None = int(header.text("InstanceNumber"))
    except ValueError:
        number = None
    if not series or (position is None and number is None):
        return None
    return Place(series, None if position is None else round(position, _DECIMALS), number)


Name = TypeVar("Name", str, int)


def in_order(places: Iterable[tuple[Name, Place | None]]) -> list[Name]:
    """Sort paths, or numbers that stand for them.

    A series stands where its first file stands by path. Inside, files are sorted by position,
    those without one behind the others; then by Instance Number, then by path.

    Parameters
    ----------
    places : iterable of (path, Place or None)
        Sorted by path.
    """
    firsts: dict[str, Name] = {}
    keys = []
    for path, place in places:
        if place is None:
            keys.append((path, 1, 0.0, 1, 0, path))
            continue
        first = firsts.setdefault(place.series, path)
        position, number = place.position, place.number
        by_position: tuple[int, float] = (1, 0.0) if position is None else (0, position)
        by_number: tuple[int, int] = (1, 0) if number is None else (0, number)
        keys.append((first, *by_position, *by_number, path))
    return [key[-1] for key in sorted(keys)]

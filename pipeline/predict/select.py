"""Which DICOM objects the user wants, decided on the header alone."""

from dataclasses import dataclass

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

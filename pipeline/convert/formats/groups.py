"""What of a folder may not be divided between splits: images of one patient, slide or video."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.convert.formats.pictures import patient_of
from pipeline.convert.records import Ledger, Record
from pipeline.errors import DescryError


@dataclass(slots=True)
class Groups:
    """Gives each record its group.

    Parameters
    ----------
    raw : Path
        What the records' paths are relative to.
    pattern : str
        Regular expression for paths; its first group, else the whole match, is the name. Empty:
        the layout's own answer or, for DICOM without one, a digest of the Patient ID.

    Raises
    ------
    DescryError
        When the pattern is no regular expression.
    """

    raw: Path
    pattern: str = ""

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise DescryError(
                f"group={self.pattern!r}: not a regular expression ({error})"
            ) from None

    def records(self, records: Iterator[Record], ledger: Ledger) -> Iterator[Record]:
        """Yield the records with their groups, and note how many images have none.

        Raises
        ------
        DescryError
            When the pattern finds nothing in a path: alone, the image could be divided from its
            own kind.
        """
        images = alone = 0
        for record in records:
            group = self._group(record)
            images, alone = images + 1, alone + (not group and record.split is None)
            yield replace(record, group=group)
        if alone:
            ledger.note(
                f"{alone} of {images} image(s) say nothing of their patient or slide and stand for "
                "themselves: if several are of one, set group."
            )

    def _group(self, record: Record) -> str:
        if self.pattern:
            found = re.search(self.pattern, record.path)
            name = found and (found[1] if found.re.groups else found[0])
            if not name:
                raise DescryError(f"group={self.pattern!r}: finds nothing in {record.path}")
            return name
        return record.group or patient_of(self.raw / record.path)

"""Patient ages as chest radiograph datasets write them.

The value representation AS of DICOM (PS3.5, 6.2) is three digits and a unit, ``058Y``; the
datasets also hold bare numbers (``58``) and impossible ones (``155``, ``411``).
"""

import re

_AGE = re.compile(r"(\d{1,3})([YMWD]?)", re.ASCII)
_PER_YEAR = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.1775, "D": 365.2425}
OLDEST = 120  # the longest documented human life is 122 years


def age_in_years(text: str) -> float | int | None:
    """Age in years, or None when `text` is no age that a patient can have.

    Parameters
    ----------
    text : str
        A number of years, or a DICOM age string. Whole years come back as int; months, weeks
        and days as years with two decimals.
    """
    found = _AGE.fullmatch(text.strip().upper())
    if not found:
        return None
    number, unit = int(found[1]), found[2]
    years = number / _PER_YEAR[unit]
    if years > OLDEST:
        return None
    return number if unit in ("", "Y") else round(years, 2)

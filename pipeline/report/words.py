"""Figures as readers see them."""

import math
from collections.abc import Sequence


def figure(value: object, decimals: int = 3) -> str:
    """A number with three decimals, a count as it is, n/a where there is none.

    Cells of a CSV are read as numbers where they are.
    """
    if value is None or value == "":
        return "n/a"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    try:
        number = float(str(value))
    except ValueError:
        return str(value)
    if str(value).lstrip("-").isdigit():
        return f"{int(str(value)):,}"
    return f"{number:.{decimals}f}" if math.isfinite(number) else "n/a"


def interval(bounds: Sequence[float] | None) -> str:
    """Low and high of an interval."""
    return "n/a" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def counted(number: int, thing: str) -> str:
    """A count with its noun: 1 image, 2 images."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def large(value: float) -> str:
    """A large number in three digits: 1.64 M, 20.3 G."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:g}"

"""How far a run is and what it has seen: what a run that goes on must know besides weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Progress:
    """Position and figures of a run; plain values only.

    Attributes
    ----------
    epoch, batch : int
        Finished epochs, and finished batches of the next one.
    sums : dict
        Loss parts, summed over this epoch's batches of this process.
    rows : list of dict
        History of the finished epochs.
    timing : list of dict
        Seconds of the finished epochs.
    spent : dict
        Seconds of this epoch so far, by kind.
    best : dict
        Epoch and AP of the best validation so far; empty before the first.
    """

    epoch: int = 0
    batch: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    timing: list[dict[str, Any]] = field(default_factory=list)
    spent: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)

    def count(self, parts: Mapping[str, float]) -> None:
        """One more batch with these losses."""
        self.batch += 1
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Loss parts, as the mean of this epoch's batches of this process."""
        return {name: total / self.batch for name, total in self.sums.items()}

    def next_epoch(self) -> None:
        """Close the epoch."""
        self.epoch, self.batch, self.sums, self.spent = self.epoch + 1, 0, {}, {}

    def is_best(self, ap: float | None) -> bool:
        """Whether a validation AP is the best so far; of equal ones the later counts."""
        before = self.best.get("AP")
        return ap is None or before is None or ap >= before

    def plain(self) -> dict[str, Any]:
        """As a dictionary of plain values, for a checkpoint."""
        return asdict(self)

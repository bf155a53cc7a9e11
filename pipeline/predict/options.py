"""How a prediction is run: the command line's choices, checked."""

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import DescryError
from pipeline.predict.select import Filters

OVERLAYS = ("found", "all", "none")


@dataclass(frozen=True, slots=True)
class Options:
    """How to run.

    Attributes
    ----------
    batch_size : int
        Pictures per call of the model.
    workers : int
        Processes that decode ahead of the model; 0 decodes in this process, unprotected.
    timeout : float
        Seconds after which a decoder that gives no picture counts as hanging.
    score_threshold : float or None
        Lower scores are left out; None takes the checkpoint's operating point.
    overlays : str
        Draw frames with a detection ("found"), "all" frames or "none".
    filters : Filters
        Which DICOM objects to read.
    shard, num_shards : int
        Read every `num_shards`-th file from the `shard`-th on (from 0).
    """

    batch_size: int = 4
    workers: int = 1
    timeout: float = 60.0
    score_threshold: float | None = None
    overlays: str = "found"
    filters: Filters = field(default_factory=Filters)
    shard: int = 0
    num_shards: int = 1

    def __post_init__(self) -> None:
        threshold = self.score_threshold
        for option, value, good, allowed in (
            ("--batch-size", self.batch_size, self.batch_size >= 1, "1 or more"),
            ("--workers", self.workers, self.workers >= 0, "0 or more"),
            ("--timeout", self.timeout, self.timeout > 0, "more than 0 seconds"),
            ("--threshold", threshold, threshold is None or 0 <= threshold <= 1, "0 to 1"),
            ("--overlays", self.overlays, self.overlays in OVERLAYS, ", ".join(OVERLAYS)),
        ):
            if not good:
                raise DescryError(f"{option} {value}: allowed is {allowed}")

    def output(self, out: Path) -> Path:
        """Return the folder that this shard writes; `out` itself if there is one shard only."""
        if self.num_shards == 1:
            return out
        return out / f"shard-{self.shard:04d}-of-{self.num_shards:04d}"

"""What a conversion holds in memory of each image; all the rest is in the journal."""

from typing import Any

import numpy as np

from pipeline.convert.engine.plan import number_of
from pipeline.convert.engine.split import NONE, group_number
from pipeline.convert.records import SPLITS


class Index:
    """Arrays over the records: 43 bytes each.

    Attributes
    ----------
    places : array (n,), int64
        Where the record's line begins in the journal.
    groups, paths : array (n,), uint64
    pixels : array (n, 2), uint64
        The first 128 bits of the pixels' digest.
    official : array (n,), int8
    written, has_box : array (n,), bool
    """

    def __init__(self, records: int, seed: int) -> None:
        self.seed = seed
        self.places = np.zeros(records, np.int64)
        self.groups = np.zeros(records, np.uint64)
        self.paths = np.zeros(records, np.uint64)
        self.pixels = np.zeros((records, 2), np.uint64)
        self.official = np.full(records, NONE, np.int8)
        self.written = np.zeros(records, bool)
        self.has_box = np.zeros(records, bool)

    def put(self, number: int, place: int, entry: dict[str, Any]) -> None:
        """Note record `number`, whose journal line begins at `place`."""
        self.places[number] = place
        self.groups[number] = group_number(self.seed, entry["group"], entry["key"])
        self.paths[number] = number_of(entry["path"])
        if entry["split"]:
            self.official[number] = SPLITS.index(entry["split"])
        if entry["file"]:
            self.written[number] = True
            self.has_box[number] = bool(entry["boxes"])
            halves = entry["pixels"][:16], entry["pixels"][16:32]
            self.pixels[number] = [int(half, 16) for half in halves]

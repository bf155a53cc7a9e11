"""Time of steps: warmed up, taken in turn, given as median and quartiles."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.profile.step import Step


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of repeated steps.

    Attributes
    ----------
    median_ms, q1_ms, q3_ms : float
        Milliseconds of one step: median, first and third quartile.
    images_per_s : float
        Batch size over the median.
    repeats : int
    """

    median_ms: float
    q1_ms: float
    q3_ms: float
    images_per_s: float
    repeats: int


def clock(steps: Sequence[Step], warmup: int, repeats: int) -> list[list[float]]:
    """Seconds of each step, `repeats` of them.

    The steps take turns, so that a machine that gets slower or busier meanwhile treats all of
    them alike: ratios are then steadier than the times themselves.
    """
    for step in steps:
        for _ in range(warmup):
            step()
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(repeats):
        for step, mine in zip(steps, times, strict=True):
            start = time.perf_counter()
            step()
            mine.append(time.perf_counter() - start)
    return times


def summarise(seconds: Sequence[float], batch_size: int) -> Timing:
    """Median, quartiles (linear between neighbours) and throughput."""
    q1, median, q3 = np.percentile(seconds, (25, 50, 75)).tolist()
    return Timing(
        median_ms=round(median * 1e3, 3),
        q1_ms=round(q1 * 1e3, 3),
        q3_ms=round(q3 * 1e3, 3),
        images_per_s=round(batch_size / median, 3),
        repeats=len(seconds),
    )

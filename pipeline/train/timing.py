"""Where the time of an epoch goes; survives an interruption as a part of the progress."""

from time import perf_counter

from pipeline.train.feed import Feed
from pipeline.train.progress import Progress

KINDS = ("seconds", "waiting", "validation", "checkpoints")


class Stopwatch:
    """Enters seconds into a run's progress.

    "seconds" is the whole time; "waiting" for batches, "validation" and "checkpoints" are parts
    of it.
    """

    def __init__(self, progress: Progress, feed: Feed) -> None:
        self.progress, self.feed = progress, feed
        self.start()

    def start(self) -> None:
        """Count from now on."""
        self.last, self.feed.waited = perf_counter(), 0.0

    def spend(self, kind: str, seconds: float) -> None:
        """Enter seconds of one kind."""
        self.progress.spent[kind] = self.progress.spent.get(kind, 0.0) + seconds

    def take(self) -> None:
        """Enter what has passed since the last call."""
        self.spend("seconds", perf_counter() - self.last)
        self.spend("waiting", self.feed.waited)
        self.start()

    def close(self, images: int) -> None:
        """Close the epoch's account; so many images were trained on."""
        self.take()
        spent = {kind: round(self.progress.spent.get(kind, 0.0), 3) for kind in KINDS}
        row = {"epoch": self.progress.epoch + 1, **spent, "images": images}
        self.progress.timing.append(row)

    def waiting_share(self) -> float:
        """Share of the training time so far, without validation, that waited for data.

        On a GPU this is an upper bound of its idle time: it may still be at work on the last step.
        """
        self.take()
        accounts = [*self.progress.timing, self.progress.spent]
        total = {kind: sum(account.get(kind, 0.0) for account in accounts) for kind in KINDS}
        training = total["seconds"] - total["validation"] - total["checkpoints"]
        return total["waiting"] / max(training, 1e-9)

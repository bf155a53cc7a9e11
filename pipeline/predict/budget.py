"""Bytes of pixels that a run holds between reading, the model and the overlays."""

import threading

import numpy as np

from pipeline.predict.records import Picture

LIMIT = 256 * 2**20  # bytes; one picture may always


class Budget:
    """So many bytes may be held at a time.

    Parameters
    ----------
    limit : int
        In bytes. What is larger by itself is let in when nothing else is held.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit, self.held = limit, 0
        self._change = threading.Condition()

    def has_room(self, size: int) -> bool:
        """Whether `take` would not have to wait."""
        with self._change:
            return self._fits(size)

    def take(self, size: int) -> None:
        """Hold so many bytes more; waits until there is room."""
        with self._change:
            self._change.wait_for(lambda: self._fits(size))
            self.held += size

    def give_back(self, size: int) -> None:
        """Hold so many bytes less."""
        with self._change:
            self.held -= size
            self._change.notify_all()

    def _fits(self, size: int) -> bool:
        return self.held == 0 or self.held + size <= self.limit


class Held:
    """The pixels of a picture, for as long as they are needed.

    Parameters
    ----------
    picture : Picture
        Its bytes were taken from `budget`.
    budget : Budget

    Attributes
    ----------
    pixels, drawn : array or None
        What the model looks at, and what is drawn.
    """

    def __init__(self, picture: Picture, budget: Budget) -> None:
        self.fit = picture.fit
        self.pixels: np.ndarray | None = picture.pixels
        self.drawn = picture.whole
        self._budget, self._size = budget, picture.nbytes

    def seen(self) -> None:
        """The model has it: only what is drawn is needed still."""
        self.pixels = None
        self._keep(0 if self.drawn is None else self.drawn.nbytes)

    def drop(self) -> None:
        """Nothing of it is needed any more."""
        self.pixels = self.drawn = None
        self._keep(0)

    def _keep(self, size: int) -> None:
        self._budget.give_back(self._size - size)
        self._size = size

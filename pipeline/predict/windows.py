"""Which pictures are searched window by window, and how large the windows are.

A model knows objects at the scale of its training images. A window therefore has the side of the
longest training image, in pixels of the picture, and is fitted to the model's input as a training
image is. Radiographs of finer grain show the same view, so that "auto" leaves a picture whole
until it is `FAR_ABOVE` times as long; slides and aerial views are far longer than that.

Asked where pictures are read (only those that stay whole may be reduced) and where they are cut.
This module imports no torch: workers start in a fraction of a second.
"""

from dataclasses import dataclass

FAR_ABOVE = 8  # times the longest training image
OVERLAP = 0.25  # of a window with the next: smaller objects are whole in one of them


@dataclass(frozen=True, slots=True)
class Windows:
    """The rule by which pictures are cut.

    Attributes
    ----------
    side : int or None
        Of a window in pixels. None: every picture stays whole.
    above : int
        Pictures with a longer side than this are cut.
    overlap : float
        Share of a window that the next one shows again.
    """

    side: int | None = None
    above: int = 0
    overlap: float = OVERLAP

    @classmethod
    def of(cls, wanted: str, longest: int | None) -> "Windows":
        """The rule for what the user wants of a model.

        Parameters
        ----------
        wanted : str
            "auto", "off" or the side.
        longest : int or None
            Longest side of the training images in pixels; unknown, "auto" means "off".
        """
        if wanted.isdecimal():
            return cls(int(wanted), int(wanted))
        if wanted == "off" or longest is None:
            return cls()
        return cls(longest, FAR_ABOVE * longest)

    def side_for(self, height: int, width: int) -> int | None:
        """Side of the windows over a picture of this size; None where it stays whole."""
        return self.side if max(height, width) > self.above else None

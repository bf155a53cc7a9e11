"""Images of any size onto the square that the model sees, and boxes back again."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True, slots=True)
class Fit:
    """How an image was fitted: scaled by (x, y), then padded at the right and bottom."""

    scale_x: float
    scale_y: float
    width: int
    height: int

    def boxes_in(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) xyxy from pixels of the image to pixels of the square."""
        return boxes * self._factors()

    def boxes_out(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) xyxy from pixels of the square to the image, clipped to it."""
        limits = np.array([self.width, self.height] * 2, dtype=np.float32)
        return np.clip(boxes / self._factors(), 0.0, limits)

    def _factors(self) -> np.ndarray:
        return np.array([self.scale_x, self.scale_y] * 2, dtype=np.float32)


def fit_square(pixels: np.ndarray, side: int) -> tuple[np.ndarray, Fit]:
    """Scale the longer side to `side`, keep the aspect, pad with black at the right and bottom.

    The padding is always to the full square, so that what the model sees of an image never
    depends on the images that share its batch.

    Parameters
    ----------
    pixels : array (H, W) or (H, W, 3), uint8
    side : int
        In pixels.

    Returns
    -------
    array (side, side) or (side, side, 3), uint8
    Fit
    """
    scaled, fit = _scale(pixels, side)
    square = np.zeros((side, side, *pixels.shape[2:]), dtype=np.uint8)
    square[: scaled.shape[0], : scaled.shape[1]] = scaled
    return square, fit


def shrink(pixels: np.ndarray, side: int) -> tuple[np.ndarray, Fit]:
    """Scale an image whose longer side is above `side` down to it; leave others as they are.

    It is the scaling of `fit_square`, which then finds nothing left to do.
    """
    return _scale(pixels, side) if max(pixels.shape[:2]) > side else (pixels, unscaled(pixels))


def unscaled(pixels: np.ndarray) -> Fit:
    """How an image (H, W) or (H, W, 3) is fitted that stays as it is."""
    height, width = pixels.shape[:2]
    return Fit(1.0, 1.0, width, height)


def _scale(pixels: np.ndarray, side: int) -> tuple[np.ndarray, Fit]:
    """Scale the longer side to `side`, keep the aspect as well as whole pixels allow."""
    height, width = pixels.shape[:2]
    factor = side / max(height, width)
    new_width = max(1, round(width * factor))
    new_height = max(1, round(height * factor))
    fit = Fit(new_width / width, new_height / height, width, height)
    if (new_width, new_height) == (width, height):
        return pixels, fit
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(pixels, (new_width, new_height), interpolation=method), fit

"""Images of different splits that look alike although their pixels differ.

pHash (C. Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010), with
16 x 16 bits: the grey image as 64 x 64 means, its cosine transform, and of the lowest frequencies
which lie above their median. Re-compressed, scaled or brightened copies differ by up to 16 of the
256 bits, neighbouring slices of a patient by 6 to 18, radiographs of two patients by 60 and more.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEAR = 24  # bits; between the two kinds that the text above names
BITS = 256
_SIDE, _KEPT = 64, 16
_FLAT = 0.01  # of the brightest value: an image of one tone looks like every other of one tone
_CHUNK = 1024


def perceptual_hash(pixels: np.ndarray) -> str:
    """256 bits as hexadecimal digits; empty for an image without anything to see.

    Parameters
    ----------
    pixels : array (H, W) or (H, W, 3), uint8 or uint16
    """
    import cv2  # loaded where pixels are at hand, not by the parent

    grey = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    means = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    if means.max() - means.min() <= _FLAT * means.max():
        return ""
    low = cv2.dct(means)[:_KEPT, :_KEPT].ravel()
    return np.packbits(low > np.median(low[1:])).tobytes().hex()


@dataclass(frozen=True, slots=True)
class Pair:
    """A held-out image and what it looks like in a split that is nearer to training.

    Attributes
    ----------
    image, like : int
        Numbers of the images.
    bits : int
        In how many bits their hashes differ.
    """

    image: int
    like: int
    bits: int


def near_pairs(hashes: NDArray[np.uint8], codes: NDArray[np.int8]) -> list[Pair]:
    """For every image of val and test the most similar one of train, or of train and val.

    Parameters
    ----------
    hashes : array (n, 32)
        `perceptual_hash` of each image; all zeros where there is none.
    codes : array (n,)
        0 train, 1 val, 2 test; negative: not in the output.
    """
    pairs, known = [], (codes >= 0) & hashes.any(axis=1)
    for split in (1, 2):
        held_out = np.flatnonzero(known & (codes == split))
        nearer = np.flatnonzero(known & (codes < split))
        for first in range(0, len(held_out) if len(nearer) else 0, _CHUNK):
            chunk = held_out[first : first + _CHUNK]
            bits, like = _nearest(hashes[chunk], hashes[nearer])
            found = np.flatnonzero(bits <= NEAR)
            pairs += [Pair(int(chunk[i]), int(nearer[like[i]]), int(bits[i])) for i in found]
    return sorted(pairs, key=lambda pair: pair.image)


def _nearest(
    ours: NDArray[np.uint8], theirs: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Differing bits (n,) of the nearest of `theirs` (m, 32) to each of `ours` (n, 32); which."""
    bits, like = np.full(len(ours), BITS + 1), np.zeros(len(ours), np.int64)
    signs = _signs(ours)
    for first in range(0, len(theirs), _CHUNK):
        # Products of signs: equal bits less differing ones. Small whole numbers, hence exact.
        differing = (BITS - signs @ _signs(theirs[first : first + _CHUNK]).T) / 2
        here = differing.argmin(axis=1)
        least = differing[np.arange(len(ours)), here].astype(np.int64)
        closer = least < bits
        bits[closer], like[closer] = least[closer], here[closer] + first
    return bits, like


def _signs(hashes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bits (n, 256) as -1 and 1."""
    return np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1

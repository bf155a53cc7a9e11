"""Images with identical pixels."""

import numpy as np


def find_copies(pixels: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, int]:
    """Find what to drop so that no two splits hold identical pixels.

    Of identical images the copies in the most held-out split stay (test before val before
    train); those in other splits are dropped. Copies within one split stay.

    Parameters
    ----------
    pixels : array (n, 2), uint64
        The first 128 bits of each image's pixel digest.
    codes : array (n,), int8
        Split: 0 train, 1 val, 2 test.

    Returns
    -------
    twin : array (n,), int64
        For an image to drop, the number of a kept one with the same pixels; else -1.
    within : int
        Kept images that have an earlier kept copy in the same split.
    """
    twin = np.full(len(codes), -1, np.int64)
    _, inverse, counts = np.unique(pixels, axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)  # numpy 2.0 gives another shape than 1.26 and 2.1
    within = 0
    repeated = np.flatnonzero(counts[inverse] > 1)
    order = repeated[np.argsort(inverse[repeated], kind="stable")]
    for copies in np.split(order, np.flatnonzero(np.diff(inverse[order])) + 1):
        if not len(copies):
            continue
        held_out = copies[codes[copies] == codes[copies].max()]
        within += len(held_out) - 1
        twin[np.setdiff1d(copies, held_out)] = held_out[0]
    return twin, within

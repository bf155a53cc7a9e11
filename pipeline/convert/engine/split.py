"""Which image goes to train, val or test.

Official where a dataset has a split for detection; else by group (patient, slide), seeded, and
stratified by "has a box".
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.convert.records import SPLITS
from pipeline.errors import DescryError

TRAIN, VAL, TEST = range(3)
NONE = -1  # no official split


@dataclass(frozen=True, slots=True)
class Fractions:
    """Shares of the groups that go to val and test, each in [0, 1), together under 1."""

    val: float
    test: float

    def __post_init__(self) -> None:
        for name, value in (("val_fraction", self.val), ("test_fraction", self.test)):
            if not 0 <= value < 1:
                raise DescryError(f"{name} is {value}; it must be at least 0 and under 1")
        if self.val + self.test >= 1:
            raise DescryError(
                f"val_fraction {self.val} and test_fraction {self.test} leave nothing to train; "
                f"together they must be under 1"
            )


@dataclass(frozen=True, slots=True)
class Assignment:
    """Split of every image.

    Attributes
    ----------
    codes : array (n,), int8
        0 train, 1 val, 2 test.
    words : str
        How it was done, for the report.
    leaking : int
        Groups with images in more than one split; only official splits have any.
    """

    codes: np.ndarray
    words: str
    leaking: int


def group_number(seed: int, group: str, key: str) -> int:
    """A number of 64 bits that stands for the group and, being a seeded hash, is its lot.

    An image without a group is a group of its own, by its key.
    """
    name = f"group {group}" if group else f"image {key}"
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def assign_splits(
    groups: np.ndarray, official: np.ndarray, has_box: np.ndarray, fractions: Fractions
) -> Assignment:
    """Assign every image to a split; neither order nor unrelated images change the lots.

    An official split counts if it has train and at least one of val and test. Then

    * train, val, test: taken as they are;
    * train, test: val is drawn from train;
    * train, val: the official val is the test set, val is drawn from train.

    Else all images are drawn. Drawing is by group: within the groups with a box, and within those
    without, sorted by their numbers, the first ``round(test_fraction * n)`` go to test and the
    next ``round(val_fraction * n)`` to val; of three groups with boxes or more (two where only
    val is drawn) each split gets at least one.

    Parameters
    ----------
    groups : array (n,), uint64
        `group_number` of each image.
    official : array (n,), int8
        0 train, 1 val, 2 test, -1 none.
    has_box : array (n,), bool
    """
    present = {code for code in (TRAIN, VAL, TEST) if (official == code).any()}
    if TRAIN not in present or len(present) < 2:
        codes = _draw(groups, has_box, fractions)
        words = _words_drawn(fractions, present)
        _check_disjoint(groups, codes)
    else:
        codes, words = _from_official(groups, official, has_box, fractions, present)
    return Assignment(codes, words, count_leaking(groups, codes))


def _from_official(
    groups: np.ndarray,
    official: np.ndarray,
    has_box: np.ndarray,
    fractions: Fractions,
    present: set[int],
) -> tuple[np.ndarray, str]:
    """Codes and words where there is an official split."""
    codes, joined = _join(groups, official)
    words = "Official splits " + ", ".join(SPLITS[code] for code in sorted(present)) + "."
    if joined:
        words += f" {joined} images without one went with their group, else to train."
    if len(present) == 3:
        return codes, words
    if TEST not in present:
        codes[codes == VAL] = TEST
        words += " The official val is held out as test."
    train = codes == TRAIN
    drawn = _draw(groups[train], has_box[train], Fractions(fractions.val, 0.0))
    _check_disjoint(groups[train], drawn)
    codes[train] = drawn
    words += f" val is {fractions.val:g} of the groups of the official train, drawn by seed."
    return codes, words


def _join(groups: np.ndarray, official: np.ndarray) -> tuple[np.ndarray, int]:
    """Give images without an official split that of their group (the most held out), or train."""
    codes = official.astype(np.int8)
    lost = codes == NONE
    if lost.any():
        names, inverse = np.unique(groups, return_inverse=True)
        of_group = np.full(len(names), NONE, np.int8)
        np.maximum.at(of_group, inverse, codes)
        codes[lost] = np.maximum(of_group[inverse][lost], TRAIN)
    return codes, int(lost.sum())


def _draw(groups: np.ndarray, has_box: np.ndarray, fractions: Fractions) -> np.ndarray:
    """Codes by group; the groups' numbers are their lots, so sorting them is the shuffle."""
    names, inverse = np.unique(groups, return_inverse=True)
    boxed = np.zeros(len(names), bool)
    np.logical_or.at(boxed, inverse, has_box)
    of_group = np.full(len(names), TRAIN, np.int8)
    for stratum in (True, False):
        members = np.flatnonzero(boxed == stratum)
        val, test = shares(len(members), fractions, at_least_one=stratum)
        of_group[members[:test]] = TEST
        of_group[members[test : test + val]] = VAL
    return of_group[inverse]


def shares(groups: int, fractions: Fractions, *, at_least_one: bool) -> tuple[int, int]:
    """HashSet of groups for val and test out of `groups`; train keeps at least one.

    With `at_least_one`, a wanted split is not left empty if there are groups enough for all.
    """
    wanted = (fractions.val, fractions.test)
    counts = [math.floor(groups * fraction + 0.5) for fraction in wanted]
    enough = groups > sum(fraction > 0 for fraction in wanted)
    if at_least_one and enough:
        counts = [
            max(1, count) if fraction else 0 for count, fraction in zip(counts, wanted, strict=True)
        ]
    while sum(counts) >= max(groups, 1):
        counts[counts.index(max(counts))] -= 1
    return counts[0], counts[1]


def count_leaking(groups: np.ndarray, codes: np.ndarray) -> int:
    """Number of groups that have images in more than one split."""
    pairs = np.unique(np.stack([groups, codes.astype(np.uint64)]), axis=1)
    return int((np.unique(pairs[0], return_counts=True)[1] > 1).sum()) if pairs.size else 0


def _check_disjoint(groups: np.ndarray, codes: np.ndarray) -> None:
    leaking = count_leaking(groups, codes)
    if leaking:
        raise RuntimeError(f"bug: {leaking} groups were divided between splits")


def _words_drawn(fractions: Fractions, present: Sequence[int] | set[int]) -> str:
    """Description of a wholly drawn split."""
    why = "No official split for detection"
    if present:
        names = ", ".join(SPLITS[code] for code in sorted(present))
        why = f"The official split has only {names} and is not used"
    return (
        f"{why}: drawn by group and seed, stratified by whether a group has a box; "
        f"val {fractions.val:g} and test {fractions.test:g} of the groups."
    )


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

"""Operating points: the scores from which on a model's detections count."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Objects of a class on the validation split, below which it keeps the threshold of all classes.
# Our choice: one object of 20 moves the sensitivity by 0.05; with fewer, which score has the
# highest F1 is mostly the luck of single boxes.
LEAST_OBJECTS = 20
LEAST_AP = 0.1  # on the validation split; our choice: below, most boxes are wrong at any threshold


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """One score for all classes, and those of classes that have their own.

    Attributes
    ----------
    threshold : float
        Of all classes together, and of a class that is not in `by_class`.
    source : str
        Where it comes from, in words.
    by_class : mapping
        Class name -> score.
    sources : mapping
        Class name -> ``objects``, the number of its objects that the score was chosen by,
        ``source``, in words, and, if there are objects, the ``sensitivity`` (share of them that
        is found at IoU 0.5) and ``fp_per_image`` (wrong boxes) on the same split. Empty where
        nobody wrote it down.
    """

    threshold: float
    source: str
    by_class: Mapping[str, float] = field(default_factory=dict)
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, meta: Mapping[str, Any], threshold: float) -> "OperatingPoint":
        """What a saved model's `meta` says beside its `score_threshold`."""
        return cls(
            threshold,
            str(meta.get("score_threshold_source", "unknown")),
            {name: float(score) for name, score in meta.get("class_thresholds", {}).items()},
            meta.get("class_threshold_sources", {}),
        )

    def recorded(self) -> dict[str, Any]:
        """The entries of a saved model's `meta`; `read` is the inverse."""
        return {
            "score_threshold": self.threshold,
            "score_threshold_source": self.source,
            "class_thresholds": dict(self.by_class),
            "class_threshold_sources": dict(self.sources),
        }

    def lowest(self, categories: Sequence[tuple[int, str]]) -> dict[int, float]:
        """Category id -> the lowest score that counts, in the order of `categories`."""
        return {i: self.by_class.get(name, self.threshold) for i, name in categories}


def known(meta: Mapping[str, Any]) -> str:
    """How good a saved model was on its validation split, in a sentence; empty if not known."""
    validation = meta.get("validation") or {}
    objects = validation.get("objects")
    figures = [f"{name} {validation[name]:.3f}" for name in ("AP", "AP50") if validation.get(name)]
    if not figures or objects is None:
        return ""
    return f"On its validation split ({objects} objects) the model reaches {', '.join(figures)}."


def doubts(meta: Mapping[str, Any], *, own_threshold: bool = False) -> list[str]:
    """Why a saved model's detections should not be relied on, by what it says of its validation.

    `own_threshold`: the model's own scores, from which boxes count, are not used.
    """
    validation = meta.get("validation") or {}
    ap, objects = validation.get("AP"), validation.get("objects")
    if ap is None or objects is None:
        return ["Nothing is known of how good this model is: it carries no validation figures."]
    said = []
    if ap < LEAST_AP:
        said.append(
            f"This model finds little: AP {ap:.3f} on its validation split. Most of its boxes are "
            "wrong, and most objects have none."
        )
    if objects < LEAST_OBJECTS and not own_threshold:
        there = "1 object" if objects == 1 else f"{objects} objects"
        said.append(
            f"The scores from which its boxes count were chosen on {there} of its validation "
            f"split, fewer than {LEAST_OBJECTS}: how many it finds and misses is unknown."
        )
    return said

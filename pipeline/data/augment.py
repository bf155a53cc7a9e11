"""Augmentation recipes: for each kind of picture the changes that leave it one of its kind.

Every recipe is a list of albumentations' transforms over the image and its boxes. A box is kept
if enough of it is still in the picture, and then clipped to it. Boxes of turned pictures enclose
the turned ellipse in the old box, not the turned box, whose corners hold no object as a rule
(Kalra et al., "Towards Rotation Invariance in Object Detection", ICCV 2021).
"""

import os
from collections.abc import Callable

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import asks the network otherwise

import albumentations as A

MIN_VISIBILITY = 0.3  # share of a box's area that must stay in the picture
SMALLEST = 0.2  # factor that a picture is shrunk by at most


def augmentation(name: str, strength: float = 1.0) -> A.Compose:
    """The recipe of a name, one of `RECIPES`; it draws from a seed set before each picture.

    `strength` multiplies how far a picture is moved, scaled, turned and recoloured; what mirrors it
    stays.
    """
    boxes = A.BboxParams(
        "pascal_voc", label_fields=["labels"], clip=True, min_visibility=MIN_VISIBILITY
    )
    return A.Compose(RECIPES[name](strength), bbox_params=boxes)


def _none(_: float) -> list[A.BasicTransform]:
    return [A.NoOp()]


def _flip(_: float) -> list[A.BasicTransform]:
    return [A.HorizontalFlip(p=0.5)]


def _xray(strength: float) -> list[A.BasicTransform]:
    """Another position before the detector, another window.

    No flip: the side on which heart, aortic arch and stomach bubble lie is what the films agree
    on, and a mirrored chest is a finding of its own (situs inversus).
    """
    return [_moved(strength, scale=0.1, shift=0.05, degrees=5), _window(0.1 * strength)]


def _mri(strength: float) -> list[A.BasicTransform]:
    """As X-rays, and mirrored: a brain is nearly symmetric, a tumour may be on either side."""
    return [
        A.HorizontalFlip(p=0.5),
        _moved(strength, scale=0.1, shift=0.05, degrees=10),
        _window(0.1 * strength),
    ]


def _microscopy(strength: float) -> list[A.BasicTransform]:
    """A slide has no up: all eight quarter turns and mirrorings; stain and lamp vary a little."""
    return [
        A.D4(p=1.0),
        _moved(strength, scale=0.1, shift=0.05, degrees=0),
        _coloured(0.1 * strength, 0.02 * strength),
    ]


def _natural(strength: float) -> list[A.BasicTransform]:
    """Mirrored, nearer or farther, in other light; the ground changes colour with the animal."""
    return [
        A.HorizontalFlip(p=0.5),
        _moved(strength, scale=0.3, shift=0.1, degrees=5),
        _coloured(0.2 * strength, 0.02 * strength),
    ]


RECIPES: dict[str, Callable[[float], list[A.BasicTransform]]] = {
    "none": _none,
    "flip": _flip,
    "xray": _xray,
    "mri": _mri,
    "microscopy": _microscopy,
    "natural": _natural,
}
MOSAICS = ("microscopy", "natural")  # pictures of many things, none of which has a place


def _moved(strength: float, *, scale: float, shift: float, degrees: float) -> A.BasicTransform:
    """Scale by up to 1 +- `scale`, shift by a share of the sides, turn; half of all pictures.

    What comes in from outside is black, like the padding of the square.
    """
    if strength == 0:
        return A.NoOp()  # a picture that is warped onto itself still loses sharpness
    scale, shift, degrees = (strength * most for most in (scale, shift, degrees))
    return A.Affine(
        scale=(max(SMALLEST, 1 - scale), 1 + scale),
        translate_percent=(-shift, shift),
        rotate=(-degrees, degrees),
        keep_ratio=True,
        rotate_method="ellipse",
        balanced_scale=True,
        p=0.5,
    )


def _coloured(limit: float, hue: float) -> A.BasicTransform:
    """Other stain or light; half of all pictures."""
    if limit == 0:
        return A.NoOp()
    return A.ColorJitter(brightness=limit, contrast=limit, saturation=limit, hue=hue, p=0.5)


def _window(limit: float) -> A.BasicTransform:
    """Another centre and width of the window, as shares of the range; half of all pictures."""
    if limit == 0:
        return A.NoOp()
    return A.RandomBrightnessContrast(brightness_limit=limit, contrast_limit=limit, p=0.5)

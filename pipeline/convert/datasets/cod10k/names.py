"""COD10K file names, the only place where the dataset states an object's class.

The pattern is ``COD10K-CAM-<super#>-<Super>-<sub#>-<Sub>-<image#>``. Files without a camouflaged
object (``NonCAM``) leave out the sub-class or number it in a list of their own, so every part but
the first and the last is optional. The spelling of the 69 sub-classes is that of the dataset's
own dictionary; file names differ from it in case.
"""

import re
from dataclasses import dataclass

from pipeline.convert.datasets.cod10k import Classes

SINGLE = "camouflaged"
# In the order of the dataset's dictionary: the sub-classes are numbered 1 to 69 through all rows.
_FAUNA = {
    "Aquatic": (
        "batFish clownFish crab crocodile crocodileFish fish flounder frogFish ghostPipefish "
        "leafySeaDragon octopus pagurian pipefish scorpionFish seaHorse shrimp slug starFish "
        "stingaree turtle"
    ),
    "Terrestrial": (
        "ant bug cat caterpillar centipede chameleon cheetah deer dog duck gecko giraffe grouse "
        "human kangaroo leopard lion lizard monkey rabbit reccoon sciuridae sheep snake spider "
        "stickInsect tiger wolf worm"
    ),
    "Flying": (
        "bat bee beetle bird bittern butterfly cicada dragonfly frogmouth grasshopper heron "
        "katydid mantis mockingbird moth owl owlfly"
    ),
    "Amphibian": "frog toad",
    "Other": "other",
}
SUPER_CLASSES = tuple(_FAUNA)
SUPER_OF_SUB = {sub: name for name, subs in _FAUNA.items() for sub in subs.split()}
SUB_CLASSES = tuple(SUPER_OF_SUB)
_SUPER_OF = {name.lower(): name for name in SUPER_CLASSES} | {"background": "Other"}
_SUB_OF = {name.lower(): name for name in SUB_CLASSES} | {"raccoon": "reccoon"}
_PATTERN = re.compile(
    r"cod10k-(?P<kind>cam|noncam)"
    r"(?:-(?P<super_number>\d+))?(?:-(?P<super>[a-z ]+))?"
    r"(?:-(?P<sub_number>\d+))?(?:-(?P<sub>[a-z ]+))?"
    r"-(?P<image>\d+)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ParsedName:
    """What a file name says.

    Attributes
    ----------
    camouflaged : bool
        True for CAM, False for NonCAM.
    super_class, sub_class : str or None
        The dataset's own spelling; None when the name leaves the part out or has an unknown one.
    stated : (str, str)
        Super- and sub-class as written.
    agrees : bool
        False when a class number contradicts the class name beside it (CAM only: NonCAM files
        number their sub-classes differently). The name counts.
    """

    camouflaged: bool
    super_class: str | None
    sub_class: str | None
    stated: tuple[str, str]
    agrees: bool


def parse_name(stem: str) -> ParsedName | None:
    """Read a file name without its extension; None when it is not of the COD10K pattern."""
    match = _PATTERN.fullmatch(stem)
    if match is None:
        return None
    part = {key: (value or "").strip() for key, value in match.groupdict().items()}
    camouflaged = part["kind"].lower() == "cam"
    super_class = _SUPER_OF.get(part["super"].lower())
    sub_class = _SUB_OF.get(part["sub"].lower()) if camouflaged else None
    agrees = not camouflaged or (
        _agrees(part["super_number"], super_class, SUPER_CLASSES)
        and _agrees(part["sub_number"], sub_class, SUB_CLASSES)
    )
    return ParsedName(camouflaged, super_class, sub_class, (part["super"], part["sub"]), agrees)


def _agrees(number: str, name: str | None, names: tuple[str, ...]) -> bool:
    """Whether a stated class number, if there is one, is that of the class name."""
    return not number or name is None or names[int(number) - 1 : int(number)] == (name,)


def label_of(name: ParsedName, classes: Classes) -> str | None:
    """The category of the objects in a CAM image; None when the name gives no known one."""
    return {"single": SINGLE, "super": name.super_class, "sub": name.sub_class}[classes]


def category_list(classes: Classes) -> list[tuple[str, str]]:
    """(name, supercategory) in id order: 1 class, the 5 super-classes or the 69 sub-classes.

    All classes are listed, present or not, so that an id means the same in every subset; the
    sub-class ids are the dataset's own, 1 to 69.
    """
    if classes == "single":
        return [(SINGLE, "")]
    if classes == "super":
        return [(name, SINGLE) for name in SUPER_CLASSES]
    return list(SUPER_OF_SUB.items())

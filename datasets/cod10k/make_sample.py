"""Render the synthetic stand-in for COD10K in the layout of COD10K-v3.

Usage: ``python datasets/cod10k/make_sample.py [FOLDER]`` (default: ``sample`` beside this file).
The same versions of NumPy, SciPy and Pillow give the same bytes. No image of COD10K is used.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from animals import ANIMALS, Pose, draw_eyes, lay, match, signed_distance
from PIL import Image
from scipy import ndimage
from textures import HEIGHT, PALETTES, REVEAL, SKIN_SCALE, WIDTH, paint

SEED = 2020
QUALITY = 84
STATEMENT = (
    "SYNTHETIC images rendered by datasets/cod10k/make_sample.py of the descry project. "
    "This is NOT COD10K and holds no image, mask or annotation of it; only the folder layout and "
    "the pattern of the file names are the same, so that the converter can be run and tested."
)
# What the file names call each animal: super-class number and name, sub-class number and name.
TITLES = {
    "fish": "1-Aquatic-6-Fish",
    "lizard": "2-Terrestrial-38-Lizard",
    "snake": "2-Terrestrial-44-Snake",
    "spider": "2-Terrestrial-45-Spider",
    "moth": "3-Flying-64-Moth",
    "owl": "3-Flying-65-Owl",
    "frog": "4-Amphibian-67-Frog",
}
GROUNDS = {
    "fish": ("reef", "sand", "pebbles"),
    "lizard": ("bark", "sand", "leaves", "pebbles"),
    "snake": ("leaves", "grass", "sand"),
    "spider": ("bark", "pebbles", "leaves"),
    "moth": ("bark", "leaves", "grass"),
    "owl": ("bark", "grass"),
    "frog": ("leaves", "reef", "grass", "pebbles"),
}
# Images without a camouflaged object, in the three forms of name that the release has.
BARE = (
    ("5-Background-5-Vegetation", None),
    ("3-Flying", "moth"),
    ("1-Amphibian", "frog"),
    ("5-Background-5-Vegetation", None),
)
# Half length in pixels (least, most) when an image shows 1, 2 or 3 animals.
SIZES = {1: (40, 80), 2: (32, 52), 3: (26, 38)}
SPLITS = {"Train": (48, 8), "Test": (16, 4)}  # camouflaged, not camouflaged
# Coats that no ground has, for animals that do not hide.
BRIGHT = (
    ((96, 28, 14), (200, 84, 30), (246, 184, 110)),
    ((24, 30, 70), (58, 96, 176), (170, 204, 240)),
    ((110, 96, 20), (220, 196, 50), (250, 242, 170)),
)
COLOURS = (0, 0, 0, 220, 60, 60, 60, 180, 90, 70, 110, 230)


@dataclass
class Scene:
    """A rendered image: pixels (HEIGHT, WIDTH, 3) uint8, and instances (HEIGHT, WIDTH) uint8."""

    file_name: str
    pixels: np.ndarray
    instances: np.ndarray


def tinted(rng: np.random.Generator, ground: str) -> np.ndarray:
    """The three colours of a ground in another light, (3, 3)."""
    return np.array(PALETTES[ground]) * rng.uniform(0.8, 1.1) * rng.uniform(0.93, 1.07, 3)


def place(rng: np.random.Generator, kind: str, count: int) -> list[tuple[Pose, np.ndarray]]:
    """Poses and signed distances of `count` animals that keep clear of each other."""
    placed: list[tuple[Pose, np.ndarray]] = []
    taken = np.zeros((HEIGHT, WIDTH), bool)
    while len(placed) < count:
        half = rng.uniform(*SIZES[count])
        x, y = rng.uniform(0.1, 0.9) * WIDTH, rng.uniform(0.12, 0.88) * HEIGHT
        pose = Pose(x, y, half, rng.uniform(0, 2 * np.pi))
        shape = signed_distance(ANIMALS[kind](rng), pose)
        if rng.random() < 0.12:  # a band of ground lies across the animal: one object, two parts
            along = pose.unit()[0] + rng.uniform(0.1, 0.3)
            shape = np.maximum(shape, 4.0 - np.abs(along) * half)
        inside = shape < 0
        if inside.sum() > 0.3 * half**2 and not (taken & inside).any():
            placed.append((pose, shape))
            taken |= shape < 8
    return placed


def camouflaged(rng: np.random.Generator, title: str, kind: str, count: int) -> Scene:
    """An image of `count` animals that have taken the look of their ground."""
    ground = str(rng.choice(GROUNDS[kind]))
    turn, scale, reveal = rng.uniform(0, 180), rng.uniform(0.8, 1.2), REVEAL[ground]
    palette = tinted(rng, ground)
    picture = paint(rng, ground, turn, scale, palette)
    instances = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, (pose, shape) in enumerate(place(rng, kind, count), start=1):
        skin_scale = scale * SKIN_SCALE[ground] * rng.uniform(0.9, 1.1)
        skin = paint(rng, ground, turn + rng.uniform(35, 90), skin_scale, palette)
        skin = match(rng, picture, skin, shape, reveal)
        picture = draw_eyes(lay(rng, picture, skin, shape, reveal), kind, pose, 0.035)
        instances[shape < 0] = number
    return Scene(title, np.clip(picture, 0, 255).astype(np.uint8), instances)


def bare(rng: np.random.Generator, title: str, kind: str | None) -> Scene:
    """A ground alone, or with an animal in colours that nothing around it has."""
    ground = str(rng.choice(sorted(PALETTES) if kind else ("grass", "leaves")))
    picture = paint(rng, ground, rng.uniform(0, 180), rng.uniform(0.8, 1.2), tinted(rng, ground))
    if kind is not None:
        ((pose, shape),) = place(rng, kind, 1)
        skin = paint(rng, "reef", 0, 0.6, BRIGHT[rng.integers(len(BRIGHT))])
        picture = draw_eyes(lay(rng, picture, skin, shape, 1.0), kind, pose, 0.035)
    empty = np.zeros((HEIGHT, WIDTH), np.uint8)
    return Scene(title, np.clip(picture, 0, 255).astype(np.uint8), empty)


def scenes(split: str) -> list[Scene]:
    """All images of a split, sorted by file name."""
    first = {"Train": 90001, "Test": 90501}[split]
    cam, noncam = SPLITS[split]
    made = []
    for index in range(cam):
        rng = np.random.default_rng([SEED, first, index])
        kind = sorted(TITLES)[index % len(TITLES)]
        count = int(rng.choice((1, 2, 3), p=(0.66, 0.24, 0.1)))
        title = f"COD10K-CAM-{TITLES[kind]}-{first + index}"
        made.append(camouflaged(rng, title, kind, count))
    for index in range(noncam):
        rng = np.random.default_rng([SEED, first, cam + index])
        title, plain = BARE[index % len(BARE)]
        made.append(bare(rng, f"COD10K-NonCAM-{title}-{first + cam + index}", plain))
    return sorted(made, key=lambda scene: scene.file_name)


def run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """COCO run lengths (plain) of a mask (H, W), column by column, starting with background."""
    flat = np.concatenate([[0], mask.ravel(order="F").astype(np.int8), [0]])
    borders = np.flatnonzero(np.diff(flat))
    ends = [0, *borders.tolist(), mask.size]
    return {"size": [*mask.shape], "counts": np.diff(ends).tolist()}


def annotations(made: Sequence[Scene]) -> dict[str, object]:
    """The COCO-like content of ``CAM_Instance_*.json``: camouflaged images, one class."""
    shown = [scene for scene in made if scene.instances.any()]
    images, rows = [], []
    for image_id, scene in enumerate(shown, start=1):
        name = f"{scene.file_name}.jpg"
        images.append({"id": image_id, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for number, (ys, xs) in enumerate(ndimage.find_objects(scene.instances), start=1):
            mask = scene.instances == number
            box = [xs.start, ys.start, xs.stop - xs.start, ys.stop - ys.start]
            row = {"id": len(rows) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 0}
            row |= {"bbox": box, "area": int(mask.sum()), "segmentation": run_lengths(mask)}
            rows.append(row)
    category = {"id": 1, "name": "synthetic camouflage", "supercategory": "synthetic"}
    info = {"description": STATEMENT, "synthetic": True, "seed": SEED}
    return {"info": info, "categories": [category], "images": images, "annotations": rows}


def save(scene: Scene, folder: Path) -> None:
    """Write the image and its three masks."""
    Image.fromarray(scene.pixels).save(
        folder / "Image" / f"{scene.file_name}.jpg", quality=QUALITY, comment=STATEMENT.encode()
    )
    objects = scene.instances > 0
    edge = objects & ~ndimage.binary_erosion(objects, iterations=2)
    index = Image.fromarray(scene.instances).convert("P")
    index.putpalette(COLOURS)
    masks = {
        "GT_Object": Image.fromarray(objects.astype(np.uint8) * 255),
        "GT_Edge": Image.fromarray(edge.astype(np.uint8) * 255),
        "GT_Instance": index,
    }
    for name, mask in masks.items():
        mask.save(folder / name / f"{scene.file_name}.png", optimize=True)


def write_split(root: Path, split: str) -> None:
    """Write one of ``Train`` and ``Test`` with its lists."""
    made = scenes(split)
    for part in ("Image", "GT_Object", "GT_Instance", "GT_Edge"):
        (root / split / part).mkdir(parents=True, exist_ok=True)
    for scene in made:
        save(scene, root / split)
    content = json.dumps(annotations(made), separators=(",", ":"), sort_keys=True)
    (root / split / f"CAM_Instance_{split}.json").write_text(content + "\n")
    blocks = []
    for scene in made:
        parts = scene.file_name.split("-")
        blocks.append(f"[INFO] {scene.file_name}.jpg {scene.instances.max()}")
        blocks.append("/".join((parts[3], *parts[5:-1])))
    (root / split / f"CAM-NonCAM_Instance_{split}.txt").write_text("\n".join(blocks) + "\n")
    (root / "Info").mkdir(exist_ok=True)
    for kind in ("CAM", "NonCAM"):
        names = [s.file_name for s in made if s.file_name.startswith(f"COD10K-{kind}-")]
        lines = "".join(f"{name}.jpg\n" for name in names)
        (root / "Info" / f"{kind}_{split.lower()}.txt").write_text(lines)


def main() -> None:
    """Write the whole sample."""
    default = Path(__file__).parent / "sample"
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    for split in SPLITS:
        write_split(root, split)
    (root / "Readme.txt").write_text(STATEMENT + "\n")


if __name__ == "__main__":
    main()

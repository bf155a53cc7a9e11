"""Animals in hiding: silhouettes, and how they are laid over a ground.

An animal is a silhouette filled with the kind of texture that is around it, drawn anew at another
orientation and scale, then shifted and scaled channel by channel to the mean and deviation of the
ground beside it. What betrays it is what betrays a real one: a break in the texture, a soft
outline, the shading of a round body, a faint shadow, an eye. A conspicuous animal (for images
that show no camouflage) keeps colours of its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from textures import HEIGHT, WIDTH

# Tapered strokes (x0, y0, r0, x1, y1, r1) of a unit animal: length about 2, head at +x.
Stroke = tuple[float, float, float, float, float, float]


def _snake(rng: np.random.Generator) -> list[Stroke]:
    t = np.linspace(-1, 1, 22)
    y = 0.26 * np.sin(rng.uniform(4.5, 6.5) * t + rng.uniform(0, 6))
    r = 0.12 * np.clip(1.25 - np.abs(t - 0.25), 0.15, 1) + 0.035 * (t > 0.88)
    return [(t[i], y[i], r[i], t[i + 1], y[i + 1], r[i + 1]) for i in range(len(t) - 1)]


def _fish(rng: np.random.Generator) -> list[Stroke]:
    fat = rng.uniform(0.26, 0.36)
    return [
        (-0.5, 0, 0.12, 0.1, 0, fat), (0.1, 0, fat, 0.75, 0, 0.12),
        (-0.5, 0, 0.1, -0.95, 0.32, 0.06), (-0.5, 0, 0.1, -0.95, -0.32, 0.06),
        (-0.1, -0.2, 0.08, -0.35, -0.45, 0.05), (0.0, 0.2, 0.08, -0.25, 0.42, 0.05),
    ]  # fmt: skip


def _lizard(rng: np.random.Generator) -> list[Stroke]:
    bend = rng.uniform(-0.35, 0.35)
    legs: list[Stroke] = []
    for x in (0.35, -0.15):
        for side in (-1, 1):
            knee = (x + rng.uniform(0.0, 0.15), side * 0.28)
            legs.append((x, 0, 0.07, *knee, 0.05))
            legs.append((*knee, 0.05, knee[0] + 0.16, side * 0.4, 0.03))
    trunk = [
        (0.75, 0, 0.1, 0.5, 0, 0.09),
        (0.5, 0, 0.1, 0.1, 0, 0.15),
        (0.1, 0, 0.15, -0.3, 0, 0.09),
    ]
    tail = [(-0.3, 0, 0.09, -0.7, bend * 0.4, 0.05), (-0.7, bend * 0.4, 0.05, -1.05, bend, 0.02)]
    return [*trunk, *tail, *legs]


def _moth(rng: np.random.Generator) -> list[Stroke]:
    spread = rng.uniform(0.5, 0.75)
    wings: list[Stroke] = []
    for side in (-1, 1):
        wings.append((0.1, side * 0.1, 0.1, -0.15, side * spread, 0.24))
        wings.append((0.2, side * 0.1, 0.08, 0.25, side * (spread + 0.1), 0.14))
        wings.append((-0.15, side * 0.1, 0.12, -0.5, side * spread * 0.6, 0.2))
    return [(0.5, 0, 0.09, -0.55, 0, 0.07), *wings]


def _frog(rng: np.random.Generator) -> list[Stroke]:
    out = rng.uniform(0.42, 0.55)
    legs: list[Stroke] = []
    for side in (-1, 1):
        legs.append((-0.3, side * 0.2, 0.14, -0.05, side * out, 0.1))
        legs.append((-0.05, side * out, 0.1, -0.6, side * (out + 0.05), 0.06))
        legs.append((0.3, side * 0.2, 0.08, 0.5, side * 0.45, 0.05))
    return [(-0.35, 0, 0.26, 0.25, 0, 0.33), (0.25, 0, 0.33, 0.6, 0, 0.2), *legs]


def _owl(rng: np.random.Generator) -> list[Stroke]:
    wide = rng.uniform(0.32, 0.4)
    ears: list[Stroke] = [(0.6, s * 0.18, 0.1, 0.85, s * 0.26, 0.03) for s in (-1, 1)]
    return [(-0.3, 0, wide, 0.25, 0, wide), (0.25, 0, wide, 0.55, 0, 0.27),
            (-0.4, 0, 0.22, -0.95, 0, 0.12), *ears]  # fmt: skip


def _spider(rng: np.random.Generator) -> list[Stroke]:
    legs: list[Stroke] = []
    for side in (-1, 1):
        for angle in (0.5, 1.1, 1.8, 2.5):
            a = angle + rng.uniform(-0.12, 0.12)
            knee = (0.45 * np.cos(a) + 0.15, side * 0.45 * np.sin(a))
            foot = (0.85 * np.cos(a) + 0.1, side * 0.8 * np.sin(a))
            legs += [(0.15, 0, 0.06, *knee, 0.05), (*knee, 0.05, *foot, 0.03)]
    return [(0.2, 0, 0.17, 0.3, 0, 0.13), (-0.35, 0, 0.27, -0.1, 0, 0.2), *legs]


ANIMALS: dict[str, Callable[[np.random.Generator], list[Stroke]]] = {
    "snake": _snake,
    "fish": _fish,
    "lizard": _lizard,
    "moth": _moth,
    "frog": _frog,
    "owl": _owl,
    "spider": _spider,
}
# Position and radius of the eyes of an animal seen from above or from the side.
EYES: dict[str, tuple[tuple[float, float], ...]] = {
    "snake": (),
    "fish": ((0.58, -0.07),),
    "lizard": ((0.68, -0.07), (0.68, 0.07)),
    "moth": ((-0.1, -0.42), (-0.1, 0.42)),  # spots on the wings
    "frog": ((0.55, -0.16), (0.55, 0.16)),
    "owl": ((0.5, -0.13), (0.5, 0.13)),
    "spider": (),
}


@dataclass(frozen=True)
class Pose:
    """Where an animal lies: centre and half length in pixels, heading in radians."""

    x: float
    y: float
    half: float
    heading: float

    def unit(self) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates of every pixel in the frame of the unit animal, two (HEIGHT, WIDTH)."""
        row, column = np.mgrid[:HEIGHT, :WIDTH].astype(float)
        dx, dy = (column - self.x) / self.half, (row - self.y) / self.half
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        return dx * cos + dy * sin, dy * cos - dx * sin


def signed_distance(strokes: Sequence[Stroke], pose: Pose) -> np.ndarray:
    """Distance in pixels to the outline, negative inside, (HEIGHT, WIDTH)."""
    u, v = pose.unit()
    nearest = np.full((HEIGHT, WIDTH), np.inf)
    for x0, y0, r0, x1, y1, r1 in strokes:
        ex, ey = x1 - x0, y1 - y0
        t = np.clip(((u - x0) * ex + (v - y0) * ey) / (ex * ex + ey * ey), 0, 1)
        away = np.hypot(u - x0 - t * ex, v - y0 - t * ey) - (r0 + (r1 - r0) * t)
        nearest = np.minimum(nearest, away)
    return ndimage.gaussian_filter(nearest * pose.half, 0.8)


def match(
    rng: np.random.Generator, ground: np.ndarray, skin: np.ndarray, shape: np.ndarray, reveal: float
) -> np.ndarray:
    """Give every channel of `skin` the mean and deviation of the ground beside the animal.

    The ground is measured within 25 pixels of the outline. A difference remains, in proportion to
    `reveal`: some grey levels lighter or darker, and a little less contrast.
    """
    inside, ring = shape < 0, (shape > 1) & (shape < 25)
    scaled = (skin - skin[inside].mean(0)) / skin[inside].std(0)
    contrast = ground[ring].std(0) * (1 - rng.uniform(0.0, 0.2) * reveal)
    shift = rng.choice((-1.0, 1.0)) * rng.uniform(3, 8) * reveal
    return scaled * contrast + ground[ring].mean(0) + shift


def lay(
    rng: np.random.Generator, ground: np.ndarray, skin: np.ndarray, shape: np.ndarray, reveal: float
) -> np.ndarray:
    """Lay `skin` over `ground` (both HEIGHT, WIDTH, 3) where `shape` is negative.

    The body is lit from the upper left, its outline is two pixels soft and its shadow falls to
    the lower right; `reveal` scales light and shadow.
    """
    depth = np.clip(-shape, 0, None)
    round_body = np.sqrt(depth) + 0.12 * depth
    relief = ndimage.gaussian_filter(round_body, 1.4)
    light = ndimage.shift(relief, (-2, -2), order=1) - ndimage.shift(relief, (2, 2), order=1)
    skin = skin * (1 + rng.uniform(0.09, 0.13) * reveal * light[..., None])
    cast = ndimage.gaussian_filter((shape < 0).astype(float), 2.5)
    cast = ndimage.shift(cast, (3, 3), order=1)[..., None]
    alpha = np.clip(0.5 - shape / 2.2, 0, 1)[..., None]
    return ground * (1 - rng.uniform(0.12, 0.2) * reveal * cast) * (1 - alpha) + skin * alpha


def draw_eyes(image: np.ndarray, kind: str, pose: Pose, scale: float) -> np.ndarray:
    """Darken the eyes of an animal in `image` (HEIGHT, WIDTH, 3) and light a point in each."""
    u, v = pose.unit()
    for x, y in EYES[kind]:
        away = np.hypot(u - x, v - y) * pose.half
        radius = max(1.3, scale * pose.half)
        pupil = np.clip(radius + 0.5 - away, 0, 1)[..., None]
        glint = np.clip(1.2 - np.hypot(u - x - 0.02, v - y) * pose.half, 0, 1)[..., None]
        image = image * (1 - 0.7 * pupil) + 45 * glint
    return image

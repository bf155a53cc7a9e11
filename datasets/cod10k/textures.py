"""Textured grounds for the synthetic camouflage: bark, sand, pebbles, leaves, grass, reef.

Every texture is a random field of one dominant orientation, coloured through three stops; two
draws of one kind share their look and differ in every detail.
"""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import cKDTree

HEIGHT, WIDTH = 240, 320
_SIDE = 448  # textures are drawn larger, turned, and cut out of the middle
Texture = Callable[[np.random.Generator, float], np.ndarray]
# Dark, middle and light colour of each ground (sRGB).
PALETTES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "bark": ((48, 38, 30), (112, 92, 74), (176, 158, 136)),
    "sand": ((140, 112, 80), (190, 162, 122), (226, 206, 170)),
    "pebbles": ((58, 60, 62), (124, 122, 118), (190, 186, 176)),
    "leaves": ((44, 40, 22), (118, 92, 50), (188, 156, 98)),
    "grass": ((30, 46, 18), (86, 110, 46), (166, 178, 98)),
    "reef": ((22, 48, 58), (70, 112, 112), (164, 180, 150)),
}
# How much an animal must differ to be found at a second look: more on a busier ground.
REVEAL = {"bark": 0.9, "sand": 0.8, "pebbles": 1.7, "leaves": 2.0, "grass": 1.15, "reef": 1.3}
# Scale of the animal's texture relative to the ground's.
SKIN_SCALE = {"bark": 0.7, "sand": 0.7, "pebbles": 0.55, "leaves": 0.5, "grass": 0.7, "reef": 0.6}


def _noise(rng: np.random.Generator, sigma: tuple[float, float]) -> np.ndarray:
    """Smoothed white noise of zero mean and unit deviation, (_SIDE, _SIDE)."""
    field = ndimage.gaussian_filter(rng.standard_normal((_SIDE, _SIDE)), sigma, mode="wrap")
    return (field - field.mean()) / field.std()


def _bark(rng: np.random.Generator, scale: float) -> np.ndarray:
    ridges = 1.2 - np.abs(_noise(rng, (14 * scale, 3.2 * scale)))
    return ridges + 0.5 * _noise(rng, (6 * scale, 1.2)) + 0.25 * _noise(rng, (0.7, 0.7))


def _sand(rng: np.random.Generator, scale: float) -> np.ndarray:
    rows = np.arange(_SIDE)[:, None] / (2.2 * scale)
    ripples = np.sin(rows + 2.2 * _noise(rng, (22 * scale, 30 * scale)))
    return 0.8 * ripples + 0.5 * _noise(rng, (0.8, 0.8)) + 0.4 * _noise(rng, (8, 8))


def _pebbles(rng: np.random.Generator, scale: float) -> np.ndarray:
    count = int(_SIDE**2 / (15 * scale) ** 2)
    points = rng.uniform(0, _SIDE, (count, 2)) * (1.0, 0.62)  # flat stones, all turned alike
    tone = rng.normal(0, 1, count)
    y, x = np.mgrid[:_SIDE, :_SIDE]
    distance, nearest = cKDTree(points).query(np.stack([y, x * 0.62], -1), k=2)
    rim = np.clip((distance[..., 1] - distance[..., 0]) / 4, 0, 1)
    return 0.8 * tone[nearest[..., 0]] + 1.6 * rim + 0.25 * _noise(rng, (0.9, 0.9))


def _strokes(
    rng: np.random.Generator, count: int, length: float, width: float, spread: float
) -> np.ndarray:
    """Many overlapping lens-shaped strokes, upright but for `spread` (radians)."""
    canvas = Image.new("F", (_SIDE, _SIDE), 0.0)
    draw = ImageDraw.Draw(canvas)
    for _ in range(count):
        x, y = rng.uniform(-10, _SIDE + 10, 2)
        turn, long, tone = rng.normal(0, spread), length * rng.uniform(0.6, 1.3), rng.normal()
        dx, dy = long * np.sin(turn), long * np.cos(turn)
        sx, sy = width * np.cos(turn), -width * np.sin(turn)
        tips = [(x - dx, y - dy), (x + sx, y + sy), (x + dx, y + dy), (x - sx, y - sy)]
        draw.polygon(tips, fill=float(tone))
        draw.line([tips[0], tips[2]], fill=float(tone + 0.7))
    return np.asarray(canvas)


def _leaves(rng: np.random.Generator, scale: float) -> np.ndarray:
    drawn = ndimage.gaussian_filter(_strokes(rng, 2600, 15 * scale, 5.5 * scale, 0.6), 0.7)
    return drawn + 0.25 * _noise(rng, (1, 1))


def _grass(rng: np.random.Generator, scale: float) -> np.ndarray:
    drawn = ndimage.gaussian_filter(_strokes(rng, 6000, 24 * scale, 1.6 * scale, 0.22), 0.6)
    return drawn + 0.2 * _noise(rng, (0.8, 0.8))


def _reef(rng: np.random.Generator, scale: float) -> np.ndarray:
    y, x = np.mgrid[:_SIDE, :_SIDE].astype(float)
    warp = 14 * scale
    at = [y + warp * _noise(rng, (16, 16)), x + warp * _noise(rng, (16, 16))]
    folds = ndimage.map_coordinates(_noise(rng, (9 * scale, 3.5 * scale)), at, mode="wrap", order=1)
    return folds + 0.35 * _noise(rng, (1.6, 1.6)) + 0.2 * _noise(rng, (0.7, 0.7))


TEXTURES: dict[str, Texture] = {
    "bark": _bark,
    "sand": _sand,
    "pebbles": _pebbles,
    "leaves": _leaves,
    "grass": _grass,
    "reef": _reef,
}


def paint(
    rng: np.random.Generator,
    ground: str,
    degrees: float,
    scale: float,
    palette: np.ndarray | Sequence[tuple[int, int, int]],
) -> np.ndarray:
    """Colour texture (HEIGHT, WIDTH, 3), float on the 0 to 255 scale, turned by `degrees`."""
    field = ndimage.rotate(TEXTURES[ground](rng, scale), degrees, reshape=False, order=1)
    top, left = (_SIDE - HEIGHT) // 2, (_SIDE - WIDTH) // 2
    field = field[top : top + HEIGHT, left : left + WIDTH]
    level = np.clip(0.5 + 0.24 * (field - field.mean()) / field.std(), 0, 1)
    stops, colours = (0.0, 0.5, 1.0), np.asarray(palette, dtype=float)
    painted = np.stack([np.interp(level, stops, colours[:, c]) for c in range(3)], -1)
    drift = _noise(rng, (40, 40))[:HEIGHT, :WIDTH, None] * np.array([4.0, 2.0, -2.0])
    return painted + drift

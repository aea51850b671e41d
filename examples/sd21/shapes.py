"""The pictures of the tiny model: drawing them, naming them, and recognising them.

A scene is one coloured shape on a plain background, such as "a red circle on white". The training draws scenes with
:func:`draw`. The check recognises them in pixels with :func:`recognise`, by arithmetic and without a trained
classifier. Needs numpy only.

Shapes are drawn from signed distances (negative inside, in pixels). One formula per shape gives smooth edges for
drawing, and the templates for recognition. Source of the formulas: https://iquilezles.org/articles/distfunctions2d/
(the maximum is the intersection).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

SIZE = 64  # pixels, in both directions
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 70),
    "blue": (50, 80, 220),
    "yellow": (240, 210, 50),
    "purple": (150, 60, 190),
    "orange": (245, 140, 40),
    "black": (25, 25, 25),
    "cyan": (60, 200, 210),
}
BACKGROUNDS = {"white": (250, 250, 250), "gray": (150, 150, 155), "pink": (250, 190, 205)}

SMALLEST, LARGEST = 0.24, 0.36  # half extent of a shape, relative to SIZE
SHIFT = 0.1  # largest distance of a centre from the middle, relative to SIZE
BORDER = 2  # pixels that no shape covers: SIZE * (0.5 - LARGEST - SHIFT) = 2.56


class Scene(NamedTuple):
    """The content of a picture, in the words of its prompt."""

    colour: str
    shape: str
    background: str

    @property
    def prompt(self) -> str:
        """The prompt for this scene."""
        return f"a {self.colour} {self.shape} on {self.background}"


def _circle(x: Array, y: Array, r: Array) -> Array:
    return np.asarray(np.hypot(x, y) - r)


def _square(x: Array, y: Array, r: Array) -> Array:
    return np.asarray(np.maximum(abs(x), abs(y)) - 0.88 * r)  # looks as large as the circle


def _triangle(x: Array, y: Array, r: Array) -> Array:
    slope = (1.8 * abs(x) - y - r) / np.hypot(1.8, 1.0)  # the tip is at -r, the base of width 2 r at 0.8 r
    return np.asarray(np.maximum(y - 0.8 * r, slope))


def _ring(x: Array, y: Array, r: Array) -> Array:
    return np.asarray(np.maximum(_circle(x, y, r), -_circle(x, y, 0.55 * r)))


def _cross(x: Array, y: Array, r: Array) -> Array:
    upright = np.maximum(abs(x) - 0.35 * r, abs(y) - r)
    level = np.maximum(abs(x) - r, abs(y) - 0.35 * r)
    return np.asarray(np.minimum(upright, level))


SHAPES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "ring": _ring,
    "cross": _cross,
}
SCENES = [Scene(c, s, b) for c in COLOURS for s in SHAPES for b in BACKGROUNDS]


def coverage(shape: str, x: Array, y: Array, r: Array) -> Array:
    """Return how much of each pixel the shape covers, 0..1.

    Args:
        shape: a key of SHAPES.
        x: centres' columns in pixels, (N,).
        y: centres' rows in pixels, (N,).
        r: half extents in pixels, (N,).

    Returns:
        (N, SIZE, SIZE) float32.
    """
    middles = np.arange(SIZE, dtype=np.float32) + 0.5
    across = middles[None, None, :] - x[:, None, None]
    down = middles[None, :, None] - y[:, None, None]
    return np.clip(0.5 - SHAPES[shape](across, down, r[:, None, None]), 0, 1).astype(np.float32)


def draw(scenes: Sequence[Scene], rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw scenes at random positions and sizes.

    Returns:
        Pictures (N, 3, SIZE, SIZE) in -1..1 and the shapes' coverage (N, 1, SIZE, SIZE), float32.
    """
    count = len(scenes)
    x, y = SIZE * (0.5 + rng.uniform(-SHIFT, SHIFT, (2, count)))
    r = SIZE * rng.uniform(SMALLEST, LARGEST, count)
    covered = np.empty((count, 1, SIZE, SIZE), np.float32)
    for name in SHAPES:
        rows = [i for i, scene in enumerate(scenes) if scene.shape == name]
        covered[rows, 0] = coverage(name, x[rows], y[rows], r[rows])
    front = np.array([COLOURS[s.colour] for s in scenes], np.float32)[:, :, None, None]
    back = np.array([BACKGROUNDS[s.background] for s in scenes], np.float32)[:, :, None, None]
    return (back + covered * (front - back)) / 127.5 - 1, covered


def recognise(picture: NDArray[np.uint8]) -> Scene:
    """Return the scene in a picture.

    The background is the palette colour nearest to the median of the border. The shape is the template with the best
    overlap with all pixels that differ from the background. The colour is the palette colour nearest to the mean of
    those pixels, without their half-covered edge.
    """
    pixels = picture.astype(np.float32)
    frame = np.ones((SIZE, SIZE), bool)
    frame[BORDER:-BORDER, BORDER:-BORDER] = False
    background = nearest_colour(np.median(pixels[frame], axis=0), BACKGROUNDS)
    distance = np.linalg.norm(pixels - BACKGROUNDS[background], axis=-1)
    mask = distance > np.percentile(distance, 95) / 2  # shapes cover 9 % of a picture or more
    inner = _inside(mask) if _inside(mask).any() else mask
    colour = nearest_colour(pixels[inner].mean(axis=0), COLOURS)
    overlaps = {shape: best_overlap(mask, shape) for shape in SHAPES}
    return Scene(colour, max(overlaps, key=lambda shape: overlaps[shape]), background)


def nearest_colour(colour: Array, palette: dict[str, tuple[int, int, int]]) -> str:
    """Return the name of the palette colour nearest to ``colour`` (3,) in red, green and blue."""
    return min(palette, key=lambda name: float(np.linalg.norm(colour - palette[name])))


def _inside(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask whose four neighbours also belong to it."""
    m = np.pad(mask, 1)
    return mask & m[:-2, 1:-1] & m[2:, 1:-1] & m[1:-1, :-2] & m[1:-1, 2:]


def best_overlap(mask: NDArray[np.bool_], shape: str) -> float:
    """Return the intersection over union of a mask and the best template of a shape, 0..1.

    Templates are at the middle of the mask's bounding box, shifted by up to half a pixel, in all sizes that are drawn.
    """
    if not mask.any():
        return 0.0
    rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
    sizes = SIZE * np.linspace(SMALLEST, LARGEST, 25)
    offset = 0.1 if shape == "triangle" else 0.0  # its bounding box is -r to 0.8 r
    best = 0.0
    for shift_x, shift_y in np.ndindex(3, 3):
        x = np.full(25, (columns[0] + columns[-1] + 1) / 2 + (shift_x - 1) / 2)
        y = (rows[0] + rows[-1] + 1) / 2 + (shift_y - 1) / 2 + offset * sizes
        templates = coverage(shape, x, y, sizes) > 0.5
        union = (templates | mask).sum(axis=(1, 2))
        best = max(best, float(((templates & mask).sum(axis=(1, 2)) / union).max()))
    return best

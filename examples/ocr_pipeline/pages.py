"""Draws pages: digits in a small bitmap font, at random places, between rules and specks, on noisy paper."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

HEIGHT, WIDTH = 256, 512
#: The font's pixels: 7 rows of 5.
GLYPHS = {
    "0": "01110 10001 10011 10101 11001 10001 01110",
    "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111",
    "3": "11110 00001 00001 01110 00001 00001 11110",
    "4": "00010 00110 01010 10010 11111 00010 00010",
    "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "00110 01000 10000 11110 10001 10001 01110",
    "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110",
    "9": "01110 10001 10001 01111 00001 00010 01100",
}
ROWS, COLUMNS = 7, 5
#: Pixels of the page for a pixel of the font.
SCALES = (2, 3)
#: Between two texts, at least.
MARGIN = 24


class Text(NamedTuple):
    """A text on a page.

    Attributes:
        digits: what it says.
        box: left, top, right and bottom of its ink, in pixels; right and bottom are outside.
        scale: of its font.
    """

    digits: str
    box: tuple[int, int, int, int]
    scale: int


def draw_text(digits: str, scale: int) -> np.ndarray:
    """Return a text's ink, of shape (rows, columns): 1.0 where there is ink."""
    glyphs = [np.array([[int(bit) for bit in row] for row in GLYPHS[digit].split()]) for digit in digits]
    gap = np.zeros((ROWS, 1), int)
    parts = [part for glyph in glyphs for part in (glyph, gap)][:-1]
    return np.kron(np.hstack(parts), np.ones((scale, scale))).astype(np.float32)


def draw_page(rng: np.random.Generator, texts: int) -> tuple[np.ndarray, list[Text]]:
    """Return a page of shape (HEIGHT, WIDTH), uint8, dark on light; and its texts, from top to bottom.

    Args:
        rng: where the randomness comes from.
        texts: how many are tried; one that finds no room is left out.
    """
    ink = np.zeros((HEIGHT, WIDTH), np.float32)
    taken = np.zeros((HEIGHT, WIDTH), bool)
    written = []
    for _ in range(texts):
        digits = "".join(rng.choice(list("0123456789"), rng.integers(3, 9)))
        scale = int(rng.choice(SCALES))
        drawn = draw_text(digits, scale)
        place = find_place(rng, taken, drawn.shape)
        if place is not None:
            (top, left), (rows, columns) = place, drawn.shape
            ink[top : top + rows, left : left + columns] = drawn
            columns_of_ink = np.flatnonzero(drawn.any(0))
            box = (left + int(columns_of_ink[0]), top, left + int(columns_of_ink[-1]) + 1, top + rows)
            written.append(Text(digits, box, scale))
    draw_rules(rng, ink, taken)
    darkness = rng.uniform(0.7, 1.0) * ink + rng.normal(0.06, 0.04, ink.shape)
    return (255 * (1 - darkness.clip(0, 1))).astype(np.uint8), sorted(written, key=lambda text: text.box[1::-1])


def find_place(
    rng: np.random.Generator, taken: np.ndarray, shape: tuple[int, ...], tries: int = 30
) -> tuple[int, int] | None:
    """Return top and left of a free place, which is taken then; None if none is found."""
    rows, columns = shape
    for _ in range(tries):
        top = int(rng.integers(4, HEIGHT - rows - 4))
        left = int(rng.integers(4, WIDTH - columns - 4))
        around = np.s_[max(0, top - MARGIN) : top + rows + MARGIN, max(0, left - MARGIN) : left + columns + MARGIN]
        if not taken[around].any():
            taken[top : top + rows, left : left + columns] = True
            return top, left
    return None


def draw_rules(rng: np.random.Generator, ink: np.ndarray, taken: np.ndarray) -> None:
    """Draw what is no text: straight rules and specks."""
    for _ in range(rng.integers(0, 4)):
        length = int(rng.integers(60, 160))
        shape = (1, length) if rng.random() < 0.5 else (min(length, HEIGHT - 10), 1)
        place = find_place(rng, taken, shape)
        if place is not None:
            ink[place[0] : place[0] + shape[0], place[1] : place[1] + shape[1]] = 1
    for _ in range(rng.integers(0, 12)):
        place = find_place(rng, taken, (2, 2))
        if place is not None:
            ink[place[0] : place[0] + 2, place[1] : place[1] + 2] = 1

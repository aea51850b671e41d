"""The ops of the pipeline: what is around the two models. They run in worker processes and need numpy only."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from ascend_parallel import ProductError, Skip

#: The detector tells for each cell of so many pixels whether there is text.
CELL = 4
#: Rows of a line of text, as the recogniser takes it, and steps of its width: lines of one width are run together.
LINE_ROWS = 14
LINE_WIDTHS = 48
#: Room around a line, in columns.
MARGIN = 4
#: Darker than this is ink; with fewer rows or columns of it, something is a rule or a speck, and no text.
INK, LEAST_SIZE = 0.4, 10
#: From this score on, a cell is text.
IS_TEXT = 0.3
NO_PICTURE = 51


class Detect:
    """Finds the lines of text of a page."""

    def __init__(self, device: str) -> None:
        self.device = device

    def preprocess(self, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        """Return the page as the model takes it: dark is 1, rows and columns in whole cells."""
        page = np.float32(1) - open_page(inputs["page"]).astype(np.float32) * np.float32(1 / 255)
        rows, columns = (-size % CELL for size in page.shape)
        inputs["dark"] = page = np.pad(page, ((0, rows), (0, columns))) if rows or columns else page
        return {"page": page[None, None]}

    def postprocess(self, outputs: dict[str, np.ndarray], inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the boxes (left, top, right, bottom) from top to bottom, and the picture of each line of text."""
        dark = inputs["dark"]
        found = [tighten(dark, *cells) for cells in cut(widen(outputs["text"][0, 0] > IS_TEXT))]
        boxes = sorted((box for box in found if box is not None), key=lambda box: (box[1], box[0]))
        lines = [dark[top:bottom, left:right] for left, top, right, bottom in boxes]
        return {"boxes": np.array(boxes, np.int32).reshape(-1, 4), "lines": lines}


class Recognise:
    """Reads lines of text."""

    def __init__(self, device: str) -> None:
        self.device = device

    def preprocess(self, inputs: dict[str, Any]) -> Any:
        """Return a mini-batch for each width that lines have; without lines, skip the model."""
        lines = [resize(line) for line in inputs["lines"]]
        if not lines:
            return Skip([])
        widths = sorted({line.shape[1] for line in lines})
        inputs["places"] = [[i for i, line in enumerate(lines) if line.shape[1] == width] for width in widths]
        return [{"lines": np.stack([lines[i] for i in places])[:, None]} for places in inputs["places"]]

    def postprocess(self, outputs: list[dict[str, np.ndarray]], inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the texts, in the order of the lines."""
        texts = np.full(len(inputs["lines"]), "", object)
        for number, output in enumerate(outputs):
            texts[inputs["places"][number]] = decode(output["digits"])
        return {"texts": texts}


def open_page(page: Any) -> np.ndarray:
    """Return a page as an array of shape (rows, columns); it may be a picture file's bytes."""
    if isinstance(page, np.ndarray) and page.dtype == object and page.size == 1:
        page = page.item()
    if isinstance(page, bytes):
        page = read_picture(page)
    if not isinstance(page, np.ndarray) or page.ndim != 2 or page.dtype != np.uint8:
        raise ProductError("expected a picture file, or an array of uint8 and shape (rows, columns)", NO_PICTURE)
    return page


def read_picture(data: bytes) -> np.ndarray:
    """Return the grey values of a picture file, by Pillow."""
    from PIL import Image

    try:
        return np.asarray(Image.open(io.BytesIO(data)).convert("L"))
    except OSError:
        raise ProductError("this is no picture file that Pillow can read", NO_PICTURE) from None


def cut(mask: np.ndarray, top: int = 0, left: int = 0) -> Iterator[tuple[int, int, int, int]]:
    """Yield (top, left, bottom, right), in cells, of the areas between empty rows and columns: an X-Y cut."""
    for first, end in runs(mask.any(1)):
        for begin, stop in runs(mask[first:end].any(0)):
            part = mask[first:end, begin:stop]
            if part.shape == mask.shape:
                yield top, left, top + end, left + stop
            else:
                yield from cut(part, top + first, left + begin)


def widen(mask: np.ndarray) -> np.ndarray:
    """Return a mask that is a cell wider on both sides: it joins digits that the detector has seen apart."""
    wide = mask.copy()
    wide[:, 1:] |= mask[:, :-1]
    wide[:, :-1] |= mask[:, 1:]
    return wide


def runs(flags: np.ndarray) -> list[list[int]]:
    """Return (begin, end) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2).tolist()


def tighten(dark: np.ndarray, top: int, left: int, bottom: int, right: int) -> tuple[int, int, int, int] | None:
    """Return (left, top, right, bottom) of the ink in an area of cells, and just around it; None if it is no text."""
    first, begin = max(0, CELL * (top - 1)), max(0, CELL * (left - 1))
    ink = dark[first : CELL * (bottom + 1), begin : CELL * (right + 1)] > INK
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    if min(rows.size, columns.size) < LEAST_SIZE:
        return None
    return begin + columns[0], first + rows[0], begin + columns[-1] + 1, first + rows[-1] + 1


def resize(line: np.ndarray) -> np.ndarray:
    """Return a line with LINE_ROWS rows, and room around it up to a whole number of LINE_WIDTHS columns."""
    rows, columns = line.shape
    width = max(1, round(columns * LINE_ROWS / rows))
    row = (np.arange(LINE_ROWS) * 2 + 1) * rows // (2 * LINE_ROWS)
    column = (np.arange(width) * 2 + 1) * columns // (2 * width)
    padded = np.zeros((LINE_ROWS, -(-(width + 2 * MARGIN) // LINE_WIDTHS) * LINE_WIDTHS), np.float32)
    padded[:, MARGIN : MARGIN + width] = line[np.ix_(row, column)]
    return padded


def decode(scores: np.ndarray) -> list[str]:
    """Return the texts of lines, from the scores of 10 digits and of no digit at each step: (lines, 11, steps)."""
    best = scores.argmax(1)
    is_new = np.diff(best, axis=1, prepend=10) != 0
    return ["".join(map(str, line[is_new[number] & (line < 10)])) for number, line in enumerate(best)]

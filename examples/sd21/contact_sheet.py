"""Combine pictures into one, side by side and enlarged; it created this folder's demo.png.

python examples/sd21/main.py
python examples/sd21/contact_sheet.py out/pictures/*.png --output examples/sd21/demo.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

GAP = 4  # white pixels between pictures, before enlarging


def make_sheet(files: Sequence[Path], enlarge: int) -> Image.Image:
    """Return the pictures in one row on white, with each pixel repeated ``enlarge`` times in both directions."""
    pictures = [Image.open(file).convert("RGB") for file in files]
    width = sum(picture.width for picture in pictures) + GAP * (len(pictures) + 1)
    sheet = Image.new("RGB", (width, max(picture.height for picture in pictures) + 2 * GAP), "white")
    left = GAP
    for picture in pictures:
        sheet.paste(picture, (left, GAP))
        left += picture.width + GAP
    return sheet.resize((sheet.width * enlarge, sheet.height * enlarge), Image.Resampling.NEAREST)


def main() -> None:
    """Parse the command line and write the sheet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pictures", type=Path, nargs="+", help="picture files")
    parser.add_argument("--output", type=Path, required=True, help="file for the combined picture")
    parser.add_argument("--enlarge", type=int, default=3, help="factor, in both directions (default: 3)")
    arguments = parser.parse_args()
    make_sheet(arguments.pictures, arguments.enlarge).save(arguments.output, optimize=True)


if __name__ == "__main__":
    main()

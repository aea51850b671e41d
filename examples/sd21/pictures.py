"""The files of pictures: checked before the drawing, written atomically."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ascend_parallel import DiskError, UsageError

PNG_START = b"\x89PNG\r\n\x1a\n"
#: Suffixes of other picture formats, which are not accepted as the name of a folder either.
OTHER_SUFFIXES = (".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
LONGEST_NAME = 60  # characters of the prompt in a file's name; file systems take 255 bytes
NUMBER = "{}"  # stands for the picture's number in a pattern


def choose_files(output: Path, prompts: Sequence[str]) -> list[Path]:
    """Return a file for each picture, after a check that no other file would be overwritten.

    Args:
        output: "x.png" for one picture, "x-{}.png" for several, else a folder, with names from the prompts.
        prompts: the prompts of the pictures.

    Raises:
        UsageError: if the name does not fit the number of pictures, or another kind of file exists there.
        DiskError: if an existing file cannot be read.
    """
    files = _name_files(output, prompts)
    for file in files:
        _check_free(file)
    return files


def _name_files(output: Path, prompts: Sequence[str]) -> list[Path]:
    if output.suffix.lower() in OTHER_SUFFIXES:
        raise UsageError(f"--output {output}: pictures are written as PNG; expected a name with .png, or a folder")
    if output.suffix.lower() != ".png":
        return [output / f"{i}-{_slug(prompt)}.png" for i, prompt in enumerate(prompts)]
    if NUMBER in output.name:
        return [output.with_name(output.name.replace(NUMBER, str(i))) for i in range(len(prompts))]
    if len(prompts) > 1:
        raise UsageError(
            f"--output {output} is one file for {len(prompts)} pictures; expected a folder, or a pattern such as "
            f"{output.with_name(f'{output.stem}-{NUMBER}.png')}"
        )
    return [output]


def _slug(prompt: str) -> str:
    """Return a prompt as a part of a file name: letters, digits and dashes."""
    return re.sub(r"[^\w]+", "-", prompt.lower()).strip("-_")[:LONGEST_NAME].rstrip("-") or "picture"


def _check_free(file: Path) -> None:
    """Refuse to overwrite a file that is not a PNG file; an empty file may be overwritten."""
    if not file.exists():
        return
    try:
        with file.open("rb") as opened:
            start = opened.read(len(PNG_START))
    except IsADirectoryError:
        raise UsageError(f"--output: {file} is a folder; expected the name of a PNG file") from None
    except OSError as error:
        raise DiskError(f"--output: {file} exists and cannot be read: {error.strerror}") from None
    if start not in (b"", PNG_START):
        raise UsageError(f"--output: {file} exists and is not a PNG file; it is not overwritten")


def make_folder(folder: Path) -> None:
    """Create the pictures' folder; raises DiskError if it cannot be created or is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DiskError(f"--output: {folder} cannot be written to: {error.strerror or error}") from None


def save(pictures: NDArray[np.uint8], files: Sequence[Path]) -> None:
    """Write pictures (N, height, width, 3) as PNG files.

    Raises:
        DiskError: if a file could not be written; no partial file is left.
    """
    for picture, file in zip(pictures, files, strict=True):
        try:
            _save_atomically(picture, file)
        except OSError as error:
            raise DiskError(f"{file} could not be written: {error.strerror or error}") from error


def _save_atomically(picture: NDArray[np.uint8], file: Path) -> None:
    from PIL import Image

    # In a temporary folder beside the file, which is renamed when it is complete.
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".drawing-") as folder:
        temporary = Path(folder) / "part.png"
        Image.fromarray(picture).save(temporary, format="PNG")
        temporary.replace(file)

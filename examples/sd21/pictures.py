"""Where pictures go: checked before anything is drawn, written whole or not at all."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ascend_parallel import DiskError, UsageError

PNG_START = b"\x89PNG\r\n\x1a\n"
#: Suffixes of other picture formats: as a folder's name they are a mistake.
OTHER_SUFFIXES = (".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
LONGEST_NAME = 60  # characters of the prompt in a file's name; file systems take 255 bytes
NUMBER = "{}"  # in a pattern: the picture's number


def choose_files(output: Path, prompts: Sequence[str]) -> list[Path]:
    """Return a file for each picture, and make sure that nothing else has its name.

    Args:
        output: "x.png" for one picture, "x-{}.png" for several, else a folder, in which names come from prompts.
        prompts: of the pictures.

    Raises:
        UsageError: the name does not do for so many pictures, or something else than a picture has it.
        DiskError: what has it cannot be read.
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
    """Return a prompt as part of a file's name: letters, digits and dashes."""
    return re.sub(r"[^\w]+", "-", prompt.lower()).strip("-_")[:LONGEST_NAME].rstrip("-") or "picture"


def _check_free(file: Path) -> None:
    """Refuse to write over what is no PNG; an empty file holds nothing that could be lost."""
    if not file.exists():
        return
    try:
        with file.open("rb") as opened:
            start = opened.read(len(PNG_START))
    except IsADirectoryError:
        raise UsageError(f"--output: {file} is a folder; expected a name for a PNG file") from None
    except OSError as error:
        raise DiskError(f"--output: {file} is there already and cannot be read: {error.strerror}") from None
    if start not in (b"", PNG_START):
        raise UsageError(f"--output: {file} is there already and is no PNG file; it is not written over")


def make_folder(folder: Path) -> None:
    """Make the pictures' folder, and raise DiskError where it cannot be made or written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DiskError(f"--output: {folder} cannot be written to: {error.strerror or error}") from None


def save(pictures: NDArray[np.uint8], files: Sequence[Path]) -> None:
    """Write pictures (N, height, width, 3) as PNG files.

    Raises:
        DiskError: one could not be written; nothing is left of it.
    """
    for picture, file in zip(pictures, files, strict=True):
        try:
            _save_whole(picture, file)
        except OSError as error:
            raise DiskError(f"{file} could not be written: {error.strerror or error}") from error


def _save_whole(picture: NDArray[np.uint8], file: Path) -> None:
    from PIL import Image

    # In a folder of its own beside the file, whose name it gets when it is whole.
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".drawing-") as folder:
        part = Path(folder) / "part.png"
        Image.fromarray(picture).save(part, format="PNG")
        part.replace(file)

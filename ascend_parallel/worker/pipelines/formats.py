"""Saves results in the formats that they offer themselves, into one folder for each input file.

PaddleX's results have methods such as ``save_to_img(folder)``, which choose the names of their files by the input's
stem. So each input has a folder of its own, named like the whole input (``OUT/x.pdf/``): nothing of ``x.jpg`` meets
anything of ``x.png``. Each result of an input with several, such as a page, has a folder in it (``OUT/x.pdf/page_0/``):
pictures cut out of two pages may have the same name. The folder of an input is renamed into place as a whole.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from pathlib import Path
from typing import Any, Iterator, List, Optional, Sequence, Set

from .choices import ALL
from .saving import PARTIAL, SaveError, is_error_of_disk

#: The start of the methods' names.
_METHOD = "save_to_"
#: What a method raises where a package that it needs is not installed (by the name of the class: PaddleX has its own),
#: or where it exists only because a base class has it.
_NOT_THERE = ("DependencyError", "ImportError", "ModuleNotFoundError", "NotImplementedError")


class FormatSaver:
    """Saves results with their own methods; for one thread.

    Attributes:
        notes: sentences about formats that could not be saved, each once.
    """

    _numbers = itertools.count()

    def __init__(self, folder: str, formats: Sequence[str]) -> None:
        """Create a saver.

        Args:
            folder: the output folder.
            formats: such as ``["json", "img"]``, or ``["all"]``.
        """
        self.notes: List[str] = []
        self._folder = folder
        self._formats = formats
        self._noted: Set[str] = set()

    def begin(self, name: str) -> str:
        """Create and return the partial folder of an input, beside its final place."""
        above = os.path.dirname(os.path.join(self._folder, name))
        partial = os.path.join(above, "%s%d-%d" % (PARTIAL, os.getpid(), next(self._numbers)))
        try:
            os.makedirs(partial)
        except OSError as error:
            raise self._save_error(error, partial) from error
        return partial

    def save(self, partial: str, page: Optional[int], result: Any) -> None:
        """Save one result into the partial folder of its input.

        Raises:
            SaveError: if the disk is full, or the folder is not writable.
            TypeError: if the result offers none of the formats.
        """
        folder = partial if page is None else os.path.join(partial, "page_%d" % page)
        try:
            os.makedirs(folder, exist_ok=True)
            for wanted in self._choose(result):
                self._save_as(wanted, folder, result)
        except OSError as error:
            if is_error_of_disk(error, self._folder):
                raise self._save_error(error, folder) from error
            raise

    def publish(self, partial: str, name: str) -> List[str]:
        """Move the partial folder to its place; return its files, relative to the output folder, sorted."""
        files = sorted(_files_below(partial))
        target = os.path.join(self._folder, name)
        try:
            if files and not os.path.lexists(target):
                _remove_empty(partial)
                os.replace(partial, target)
            else:
                self._merge(partial, files, target)
        except OSError as error:
            raise self._save_error(error, target) from error
        return ["%s/%s" % (name, file) for file in files]

    def discard(self, partial: str) -> None:
        """Remove the partial folder of a file that has failed."""
        shutil.rmtree(partial, ignore_errors=True)

    def _merge(self, partial: str, files: List[str], target: str) -> None:
        """Move files into a folder that exists: what else is there may be the user's."""
        for file in files:
            os.makedirs(os.path.dirname(os.path.join(target, file)), exist_ok=True)
            os.replace(os.path.join(partial, file), os.path.join(target, file))
        shutil.rmtree(partial)

    def _choose(self, result: Any) -> List[str]:
        offered = formats_of(result)
        if list(self._formats) == [ALL]:
            chosen = offered
        else:
            chosen = [name for name in self._formats if name in offered]
            for name in self._formats:
                if name not in offered:
                    self._note("results of type %s have no %s: none is saved" % (type(result).__name__, name))
        if chosen:
            return chosen
        raise TypeError(
            "the result is a %s, which cannot be saved as %s: it has %s"
            % (
                type(result).__name__,
                ", ".join(self._formats),
                ", ".join(offered) or "no methods save_to_...; leave the option save out",
            )
        )

    def _save_as(self, wanted: str, folder: str, result: Any) -> None:
        try:
            getattr(result, _METHOD + wanted)(folder)
        except Exception as error:
            missing = list(self._formats) == [ALL] and type(error).__name__ in _NOT_THERE
            if not missing:
                raise
            self._note("%s is not saved: %s: %s" % (wanted, type(error).__name__, " ".join(str(error).split())))

    def _note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self.notes.append(text)

    def _save_error(self, error: OSError, path: str) -> SaveError:
        return SaveError("%s could not be written: %s" % (path, error.strerror))


def formats_of(result: Any) -> List[str]:
    """Return the formats that a result offers, sorted: ``["img", "json"]``."""
    names = [name[len(_METHOD) :] for name in dir(type(result)) if name.startswith(_METHOD)]
    return sorted(name for name in names if callable(getattr(result, _METHOD + name, None)))


def _files_below(folder: str) -> Iterator[str]:
    for where, _, names in os.walk(folder):
        below = os.path.relpath(where, folder)
        for name in names:
            yield name if below == "." else "%s/%s" % (below, name)


def _remove_empty(folder: str) -> None:
    """Remove the folders in which nothing was written, such as that of a page without a table for html."""
    for where, _, _ in os.walk(folder, topdown=False):
        if where != folder:
            with contextlib.suppress(OSError):  # it is not empty
                Path(where).rmdir()

"""Paddle Serving's config.yml as it was written: its values, and where each stands."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any

from ascend_parallel.checks import check_file
from ascend_parallel.errors import ConfigError, UsageError
from ascend_parallel.serving.words import Path, dotted
from ascend_parallel.serving.yaml_file import YamlFile, read_yaml

from .notes import Note


class PaddleConfig:
    """A config.yml, and what is to be told of it.

    Attributes:
        name: of the file, as the user gave it.
        folder: the folder that it lies in.
        notes: what has no counterpart.
    """

    def __init__(self, path: str) -> None:
        """Read a file.

        Raises:
            UsageError: there is no such file, or it cannot be read.
            ConfigError: it is no YAML, or no configuration of Paddle Serving.
        """
        check_file("configuration file", path)
        self.name = path
        self.folder = os.path.dirname(path)
        self.notes: list[Note] = []
        try:
            self._file = read_yaml(FilePath(path).read_bytes())
        except OSError as error:
            raise UsageError(f"the configuration file {path} cannot be read: {error.strerror}") from None
        problems = [*_in_lines(path, self._file), *self._check_form()]
        if problems:
            raise ConfigError(problems)

    def _check_form(self) -> Iterator[str]:
        data = self._file.data
        if data is None:
            return
        tops: list[Path] = [(), ("dag",), ("op",)]
        for path in tops:
            if not isinstance(self.get(path, {}), Mapping):
                yield f"{self.name}:{self._at(path)}: {dotted(path) or 'the file'} is no mapping of settings"
                return
        for name, op in self.get(("op",), {}).items():
            for path in (("op", name), ("op", name, "local_service_conf")):
                if op is not None and not isinstance(self.get(path, {}), Mapping):
                    yield f"{self.name}:{self._at(path)}: {dotted(path)} is no mapping of settings"
                    break
        if not isinstance(data.get("op"), Mapping):
            yield f"{self.name}:1:1: it has no op; expected a config.yml of Paddle Serving's pipeline mode"

    def _at(self, path: Path) -> str:
        place = self._file.find(path)
        return f"{place.line}:{place.column}"

    def get(self, path: Path, default: Any = None) -> Any:
        """Return a value; the default where there is none, or it is empty."""
        data = self._file.data
        for part in path:
            if not isinstance(data, Mapping) or data.get(str(part)) is None:
                return default
            data = data[str(part)]
        return data

    def describe(self, path: Path, text: str) -> str:
        """Return a sentence that begins with a setting, with its file, line and column."""
        return f"{self.name}:{self._at(path)}: {dotted(path)} {text}"

    def note(self, path: Path, text: str) -> None:
        """Tell something of a setting, which the text begins with: ``dag.tracer ...``."""
        self.notes.append(Note(self.name, self._file.find(path, key=True), f"{dotted(path)} {text}"))

    def note_unknown(self, path: Path, known: Mapping[str, Any]) -> None:
        """Tell of keys of a mapping that Paddle Serving does not know."""
        for key in self.get(path, {}):
            if key not in known:
                matches = difflib.get_close_matches(key, known, n=1)
                hint = f" (did you mean {matches[0]}?)" if matches else ""
                self.note((*path, key), f"is no setting of Paddle Serving 0.9.0, which ignores it{hint}")


def _in_lines(name: str, file: YamlFile) -> list[str]:
    found = []
    for problem in file.problems:
        place = problem.place or file.find(problem.path, key=problem.at_key)
        found.append(f"{name}:{place.line}:{place.column}: {problem.message}")
    return found

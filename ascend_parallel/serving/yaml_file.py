"""A YAML file as plain data, with the line and column of each key and value, and everything wrong with its form.

Scalars are those of YAML 1.2's core schema, as in editors: ``on``, ``012`` and ``2026-01-01`` are text, ``1e3`` is a
number. Anchors, aliases and ``<<`` are supported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from .words import Path, dotted

__all__ = ["Place", "Problem", "YamlFile", "read_yaml"]

#: Beyond any configuration: a file that is larger repeats aliases of aliases.
_MAX_NODES = 100_000
_PREFIX = "tag:yaml.org,2002:"
_SCALARS = {_PREFIX + name for name in ("null", "bool", "int", "float", "str")}
_MERGE = _PREFIX + "merge"


class Place(NamedTuple):
    """A line and a column, both from 1."""

    line: int
    column: int


class Problem(NamedTuple):
    """Something wrong in a file.

    Attributes:
        path: what it is about.
        message: a sentence.
        place: where; None: where ``path`` is.
        at_key: whether ``path`` is where its key is, and not its value.
    """

    path: Path
    message: str
    place: Place | None = None
    at_key: bool = False


@dataclass
class YamlFile:
    """What a file contains.

    Attributes:
        data: dicts with text as keys, lists, text, numbers, bools and None; None where the file cannot be read.
        values: path -> where its value begins.
        keys: path -> where its key begins.
        unread: the paths of values that could not be read, and are None.
        problems: what is wrong with the file's form.
    """

    data: Any = None
    values: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)
    unread: set[Path] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    def find(self, path: Path, *, key: bool = False) -> Place:
        """Return where a value is, or its key; where it is not in the file, where it would be."""
        places = self.keys if key and path in self.keys else self.values
        while path and path not in places:
            path = path[:-1]
        return places.get(path, Place(1, 1))


class _Loader(yaml.SafeLoader):
    """YAML with the scalars of the core schema."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - pyyaml's own name for it


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_PREFIX + _name, re.compile(f"^(?:{_pattern})$"), _first)


def read_yaml(content: bytes) -> YamlFile:
    """Return what a file contains; never raises for what is in it."""
    file = YamlFile()
    try:
        text = content.decode("utf-8-sig")
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            file.problems.append(Problem((), "the file is empty; expected settings, such as 'models:'"))
        else:
            file.data = _Reader(file).read(node, ())
    except UnicodeDecodeError as error:
        place = _count(content[: error.start].decode("utf-8-sig", "replace"))
        file.problems.append(Problem((), "the file is not UTF-8 text", place))
    except yaml.reader.ReaderError as error:
        message = f"the character #x{error.character:04x} is not allowed in YAML"
        file.problems.append(Problem((), message, _count(text[: error.position])))
    except yaml.MarkedYAMLError as error:
        file.problems.append(_describe(error))
    except RecursionError:
        file.problems.append(Problem((), "the file is nested too deep to be read"))
    except _TooLargeError:
        message = f"the file has more than {_MAX_NODES} values; do aliases repeat aliases?"
        file.problems.append(Problem((), message))
    return file


def _count(before: str) -> Place:
    line = before.count("\n") + 1
    return Place(line, len(before) - (before.rfind("\n") + 1) + 1)


def _describe(error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    place = Place(1, 1) if mark is None else Place(mark.line + 1, mark.column + 1)
    context = error.context or ""
    if context and error.context_mark and error.context_mark.line + 1 != place.line:
        context += f" that begins in line {error.context_mark.line + 1}"
    what = ", ".join(filter(None, [context, error.problem]))
    return Problem((), f"this is not YAML: {what}", place)


class _TooLargeError(Exception):
    """The file has too many values."""


class _Reader:
    """Makes plain data of nodes, and notes where each is."""

    def __init__(self, file: YamlFile) -> None:
        self._file = file
        self._loader = _Loader("")
        self._open: set[int] = set()
        self._count = 0

    def read(self, node: yaml.Node, path: Path) -> Any:
        """Return the data of a node."""
        self._file.values[path] = _place(node)
        self._count += 1
        if self._count > _MAX_NODES:
            raise _TooLargeError
        if isinstance(node, yaml.ScalarNode):
            return self._read_scalar(node, path)
        if id(node) in self._open:
            return self._refuse(path, node, "contains itself by an alias; write it out")
        self._open.add(id(node))
        try:
            return self._read_collection(node, path)
        finally:
            self._open.discard(id(node))

    def _read_collection(self, node: yaml.Node, path: Path) -> Any:
        if isinstance(node, yaml.SequenceNode) and node.tag == _PREFIX + "seq":
            return [self.read(child, (*path, number)) for number, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == _PREFIX + "map":
            return self._read_mapping(node, path)
        return self._refuse(path, node, f"has the tag {_short(node.tag)}; expected none")

    def _read_scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        if node.tag == _MERGE:
            return "<<"  # as a value, it is text
        if node.tag not in _SCALARS:
            return self._refuse(path, node, f"has the tag {_short(node.tag)}; expected none")
        try:
            return self._loader.construct_object(node)
        except (ValueError, LookupError):  # of an explicit tag, such as !!int x; or too many digits
            return self._refuse(path, node, f"cannot be read as {_short(node.tag)}")

    def _read_mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for merged in self._merged(node, path):
            # What is merged may be overridden; its own mistakes are reported where it stands.
            data |= self.read(merged, path)
        own: dict[str, Place] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                continue
            name, place = self._read_key(key, path), _place(key)
            if name is None:
                continue
            if name in own:
                what = f"the key {name!r} is there twice; it is first in line {own[name].line}"
                self._file.problems.append(Problem((*path, name), what, place))
                continue
            inner = (*path, name)
            own[name] = self._file.keys[inner] = place
            data[name] = self.read(value, inner)
            if self._file.values[inner] < place:
                self._file.values[inner] = place  # an alias stands here for what stands above
        self._file.values[path] = _place(node)
        return data

    def _read_key(self, key: yaml.Node, path: Path) -> str | None:
        if isinstance(key, yaml.ScalarNode) and key.tag == _PREFIX + "str":
            return str(key.value)
        is_scalar = isinstance(key, yaml.ScalarNode)
        message = f"the key {key.value} is not text; put it into quotes" if is_scalar else "a key is not text"
        self._file.problems.append(Problem(path, message, _place(key)))
        return None

    def _merged(self, node: yaml.MappingNode, path: Path) -> Iterator[yaml.MappingNode]:
        """Yield the mappings that ``<<`` names; of several, the first wins, so it comes last."""
        for key, value in node.value:
            if key.tag != _MERGE:
                continue
            for merged in reversed(value.value) if isinstance(value, yaml.SequenceNode) else [value]:
                if isinstance(merged, yaml.MappingNode) and id(merged) not in self._open:
                    yield merged
                else:
                    message = "<< takes a mapping, or a list of mappings, that does not contain this one"
                    self._file.problems.append(Problem(path, message, _place(merged)))

    def _refuse(self, path: Path, node: yaml.Node, what: str) -> None:
        self._file.unread.add(path)
        self._file.problems.append(Problem(path, f"{dotted(path) or 'the configuration'} {what}", _place(node)))


def _place(node: yaml.Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def _short(tag: str) -> str:
    return tag.replace(_PREFIX, "!!")

"""What an error says of a value, and of what was expected there, by the JSON schema."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["Path", "describe_schema", "describe_value", "dotted", "find_schema", "list_keys", "suggest"]

#: Where something is in a configuration: ``("models", 1, "path")``.
Path = tuple[str | int, ...]
_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}
_MAX_VALUE_CHARS = 60


def dotted(path: Path) -> str:
    """Return a path as text: ``models[1].path``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def suggest(word: str, known: Iterable[str]) -> str:
    """Return what an unknown key might be: ``did you mean 'path'?``, else ``expected one of ...``."""
    names = list(known)
    matches = difflib.get_close_matches(word.lower(), names, n=1)
    return f"did you mean {matches[0]!r}?" if matches else f"expected one of {', '.join(names)}"


def describe_value(value: object) -> str:
    """Return a value as YAML has it, shortened."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return f"{'an empty' if not value else 'a'} {'mapping' if isinstance(value, dict) else 'list'}"
    text = repr(value)
    return text if len(text) <= _MAX_VALUE_CHARS else f"{text[:_MAX_VALUE_CHARS]}..."


def find_schema(root: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """Return the schema of what is at a path; an empty one where anything may be."""
    schema: Mapping[str, Any] = root
    for part in path:
        schema = next(_inner(root, schema, part), {})
    return schema


def list_keys(root: Mapping[str, Any], path: Path) -> list[str]:
    """Return the keys that the mapping at a path may have."""
    return [key for branch in _branches(root, find_schema(root, path)) for key in branch.get("properties", {})]


def _inner(root: Mapping[str, Any], schema: Mapping[str, Any], part: str | int) -> Iterator[Mapping[str, Any]]:
    for branch in _branches(root, schema):
        if isinstance(part, int) and "items" in branch:
            yield branch["items"]
        elif part in branch.get("properties", {}):
            yield branch["properties"][part]
        elif isinstance(branch.get("additionalProperties"), dict):
            yield branch["additionalProperties"]


def _branches(root: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "$ref" in schema:
        yield from _branches(root, root["$defs"][schema["$ref"].rpartition("/")[2]])
    elif "anyOf" in schema and "properties" not in schema:  # else it says which of these are needed
        for branch in schema["anyOf"]:
            yield from _branches(root, branch)
    else:
        yield schema


def describe_schema(root: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return what a schema takes, in words: ``a whole number, at least 1, or null``."""
    if "patternErrorMessage" in schema:
        return str(schema["patternErrorMessage"])
    words = [_describe_branch(branch) for branch in _branches(root, schema)]
    is_long = any("," in word or " that " in word for word in words)
    return (", or " if is_long else " or ").join(words) or "something else"


def _describe_branch(schema: Mapping[str, Any]) -> str:
    if "patternErrorMessage" in schema:
        return str(schema["patternErrorMessage"])
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        *others, last = map(str, schema["enum"])
        return f"{', '.join(others)} or {last}" if others else last
    kind = _TYPES.get(schema.get("type", ""), "something else")
    low, above, high = (schema.get(key) for key in ("minimum", "exclusiveMinimum", "maximum"))
    if low is not None and high is not None:
        return f"{kind} from {low} to {high}"
    if low is not None:
        return f"{kind}, at least {low:g}"
    if above is not None:
        return f"{kind}, more than {above:g}"
    if "minLength" in schema or "minItems" in schema:
        return f"{kind} that is not empty"
    return kind

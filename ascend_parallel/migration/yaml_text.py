"""YAML as people write it: short mappings and lists in one line, comments beside what they are about."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

#: Text that stands in YAML as it is: no number, no word of YAML's, nothing with a meaning.
_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./-]*(?::[A-Za-z0-9_./,-]+)?")
_WORDS = re.compile(r"true|false|null|yes|no|on|off|y|n|\.inf|\.nan", re.IGNORECASE)


class Commented(NamedTuple):
    """A value with a comment behind it."""

    value: Any
    comment: str


def write_value(value: Any) -> str:
    """Return a value in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{write_value(key)}: {write_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(write_value(item) for item in value) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and not _WORDS.fullmatch(value) and not _has_comma(value):
        return value
    is_readable = not isinstance(value, str) or value.isprintable()
    return json.dumps(value, ensure_ascii=not is_readable).replace("\x7f", "\\u007f")


def _has_comma(value: str) -> bool:
    return "," in value and not value.partition(":")[2]


def write_mapping(settings: Mapping[str, Any], indent: str, *, is_item: bool = False) -> list[str]:
    """Return the lines of a mapping, as an item of a list or as it is; values are one line each."""
    lines = []
    for number, (name, value) in enumerate(settings.items()):
        comment = f"  # {value.comment}" if isinstance(value, Commented) else ""
        plain = value.value if isinstance(value, Commented) else value
        start = f"{indent}- " if is_item and number == 0 else f"{indent}  " if is_item else indent
        lines.append(f"{start}{name}: {write_value(plain)}{comment}")
    return lines

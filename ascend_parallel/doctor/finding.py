"""What a check found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

OK, WARNING, FAILURE = "ok", "warning", "failure"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        state: "ok"; "warning": it works, or may work, but not as well as it could; "failure": it does not work.
        check: what was checked, in a few words.
        seen: what was seen, as one line.
        advice: the one thing to do; "" if there is nothing to do.
        data: the same as numbers, where there are any.
    """

    state: str
    check: str
    seen: str
    advice: str = ""
    data: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


class Layer(NamedTuple):
    """The findings of one layer of checks."""

    title: str
    findings: list[Finding]


def ok(check: str, seen: str, **data: Any) -> Finding:
    """Return a finding of something that works."""
    return Finding(OK, check, seen, "", data)


def warning(check: str, seen: str, advice: str, **data: Any) -> Finding:
    """Return a finding of something that works, but not well, or not surely."""
    return Finding(WARNING, check, seen, advice, data)


def failure(check: str, seen: str, advice: str, **data: Any) -> Finding:
    """Return a finding of something that does not work."""
    return Finding(FAILURE, check, seen, advice, data)

"""The machine as the checks see it: files below a root, the environment, tools, the user. Tests give another one."""

from __future__ import annotations

import grp
import os
import re
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ascend_parallel.devices.discovery import TOOL_TIMEOUT_S, run_tool


@dataclass(frozen=True)
class Host:
    """A machine.

    Attributes:
        root: the folder that absolute paths are below.
        environ: the environment.
        uid: the user.
        groups: the user's groups.
        tool_timeout_s: how long a vendor's tool may take.
    """

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    uid: int = field(default_factory=os.geteuid)
    groups: frozenset[int] = field(default_factory=lambda: frozenset((os.getegid(), *os.getgroups())))
    tool_timeout_s: float = TOOL_TIMEOUT_S

    def path(self, absolute: str | Path) -> Path:
        """Return where an absolute path lies."""
        return self.root / str(absolute).lstrip("/")

    def exists(self, absolute: str | Path) -> bool:
        """Whether there is something at an absolute path."""
        try:
            return self.path(absolute).exists()
        except OSError:
            return False

    def read(self, absolute: str | Path) -> str:
        """Return a file's text; "" if it cannot be read."""
        try:
            return self.path(absolute).read_text(errors="replace").strip()
        except OSError:
            return ""

    def read_settings(self, absolute: str | Path) -> dict[str, str]:
        """Return the lines ``NAME=VALUE`` of a file, such as a ``version.info``."""
        found = re.findall(r"^\s*([\w.-]+)\s*=\s*(.*?)\s*$", self.read(absolute), re.MULTILINE)
        return {name: value.strip('"') for name, value in found}

    def has_tool(self, name: str) -> bool:
        """Whether a vendor's tool is on the PATH."""
        return shutil.which(name) is not None

    def run(self, command: Sequence[str]) -> str:
        """Run a vendor's tool; raises OSError if it is missing, hangs or fails."""
        return run_tool(command, self.tool_timeout_s)

    def may_open(self, absolute: str | Path) -> bool:
        """Whether the user may read and write a file, by its owner, group and mode."""
        status = self.path(absolute).stat()
        if self.uid == 0:
            return True
        mode = status.st_mode
        if status.st_uid == self.uid:
            return bool(mode & stat.S_IRUSR and mode & stat.S_IWUSR)
        if status.st_gid in self.groups:
            return bool(mode & stat.S_IRGRP and mode & stat.S_IWGRP)
        return bool(mode & stat.S_IROTH and mode & stat.S_IWOTH)

    def group_of(self, absolute: str | Path) -> str:
        """Return the name of a file's group, or its number."""
        number = self.path(absolute).stat().st_gid
        try:
            return grp.getgrgid(number).gr_name
        except KeyError:
            return str(number)

    @property
    def is_container(self) -> bool:
        """Whether this process runs in a container."""
        marks = self.exists("/.dockerenv") or self.exists("/run/.containerenv")
        return marks or bool(re.search(r"docker|containerd|kubepods|lxc", self.read("/proc/1/cgroup")))


def compare_versions(left: str, right: str) -> int:
    """Return -1, 0 or 1 for versions such as 7.35.19 or 24.1.rc2: numbers are compared, words come before numbers."""
    keys = [
        [(1, int(w), "") if w.isdecimal() else (0, 0, w) for w in re.findall(r"\d+|[a-z]+", v.lower())]
        for v in (left, right)
    ]
    return (keys[0] > keys[1]) - (keys[0] < keys[1])

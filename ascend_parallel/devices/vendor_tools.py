"""The tools that list the devices which only Paddle's libraries run on.

The names of the types are Paddle's, and so are the tools: those that its installation guides check a machine with. No
such device has been at hand: the patterns follow the output that is shown in these guides and in other programs that
read it. A tool whose output is not understood leads to a warning, and its devices can be named all the same.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ascend_parallel.devices.spec import Device, FoundDevice

__all__ = ["VENDOR_TOOLS", "VendorTool"]


class VendorTool(NamedTuple):
    """How the devices of one type are listed.

    Attributes:
        commands: the commands to try; the first one that lists devices counts.
        row: matches one device, with the group ``id`` and maybe ``name``, ``bus_id``, ``used`` and ``total`` (MiB).
        variable: the environment variable that restricts the visible devices.
    """

    commands: tuple[tuple[str, ...], ...]
    row: re.Pattern[str]
    variable: str

    def parse(self, kind: str, output: str) -> list[FoundDevice]:
        """Return the devices in a tool's output, each id once."""
        devices: dict[int, FoundDevice] = {}
        for match in self.row.finditer(output):
            fields = match.groupdict()
            devices.setdefault(
                int(fields["id"]),
                FoundDevice(
                    Device(kind, int(fields["id"])),
                    fields.get("name"),
                    memory_used_mb=_int(fields.get("used")),
                    memory_total_mb=_int(fields.get("total")),
                    bus_id=fields.get("bus_id"),
                    source=self.commands[0][0],
                ),
            )
        return list(devices.values())


def _int(text: str | None) -> int | None:
    return int(text) if text else None


def _rows(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.MULTILINE | re.ASCII)


_BUS = r"(?:[\da-fA-F]{4,8}:)?[\da-fA-F]{2}:[\da-fA-F]{2}[.:]\d{1,2}(?:\.\d)?"
_IXSMI_QUERY = ("--query-gpu=index,name,memory.used,memory.total", "--format=csv,noheader,nounits")

VENDOR_TOOLS = {
    # One line per device without a header; the 18th and 19th words are the memory used and the memory there is.
    "xpu": VendorTool(
        (("xpu_smi", "-m"), ("xpu-smi", "-m")),
        _rows(r"^\S+\s+(?P<id>\d+)(?:\s+\S+){15}\s+(?P<used>\d+)\s+(?P<total>\d+)\s"),
        "XPU_VISIBLE_DEVICES",
    ),
    # Two rows per device: "| 0     /   MLU370-X8    v1.1.6 | 0000:39:00.0 |", "| ... | 0 MiB/ 23374 MiB | ... |".
    "mlu": VendorTool(
        (("cnmon",),),
        _rows(
            r"^\|\s*(?P<id>\d+)\s+\S+\s+(?P<name>MLU\S+)\s[^|\n]*\|\s*(?P<bus_id>" + _BUS + r")?[^\n]*\n"
            r"[^\n]*?(?P<used>\d+) MiB/\s*(?P<total>\d+) MiB"
        ),
        "MLU_VISIBLE_DEVICES",
    ),
    # Two rows per device: "| 0      S60  | 33.6.2 | 00:01:00.0  Disable |", "| ... | 49120MiB Disable| ... |".
    "gcu": VendorTool(
        (("efsmi",),),
        _rows(
            r"^\|\s*(?P<id>\d+)\s+(?P<name>\S[^|\n]*?)\s*\|[^|\n]*\|\s*(?P<bus_id>" + _BUS + r")[^\n]*\n"
            r"[^|\n]*\|[^|\n]*\|\s*(?P<total>\d+)MiB"
        ),
        "TOPS_VISIBLE_DEVICES",
    ),
    # JSON that is not always valid: '"card0": {"Card Series": "K100_AI", ...}'.
    "dcu": VendorTool(
        (("hy-smi", "--showproductname", "--json"),),
        _rows(r'"card(?P<id>\d+)"\s*:\s*\{(?:[^}]*?"Card Series"\s*:\s*"(?P<name>[^"]*)")?'),
        "HIP_VISIBLE_DEVICES",
    ),
    "iluvatar_gpu": VendorTool(
        (("ixsmi", *_IXSMI_QUERY),),
        _rows(r"^\s*(?P<id>\d+), (?P<name>[^,\n]+), (?P<used>\d+)(?: MiB)?, (?P<total>\d+)"),
        "CUDA_VISIBLE_DEVICES",
    ),
    # "GPU#0    MXC500    0000:06:00.0    Available (UUID: GPU-...)"
    "metax_gpu": VendorTool(
        (("mx-smi", "-L"),),
        _rows(r"^\s*GPU\s*#(?P<id>\d+)\s+(?P<name>\S+)\s+(?P<bus_id>" + _BUS + ")"),
        "CUDA_VISIBLE_DEVICES",
    ),
}

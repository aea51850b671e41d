"""``ascend-parallel devices``: show the devices of this machine and the default devices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ascend_parallel.devices import HARDWARE, Device
from ascend_parallel.devices.discovery import Discovery, FoundDevice, default_devices, discover

__all__ = ["devices_command", "show_devices"]

PIPE_WIDTH_COLUMNS = 200  # a pipe has no width: each device gets one line, which can be searched with grep
TITLES = ("Device", "Name", "Health", "Memory (MB)", "Bus-Id", "Card/chip", "Found by")


def show_devices(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show the devices of this machine and the default devices."""
    devices_command(as_json)


def devices_command(as_json: bool) -> None:
    """Print the devices of this machine, the default devices and the warnings to stdout.

    Args:
        as_json: print one JSON object with ``devices``, ``also``, ``default`` and ``warnings`` instead of a table.

    Raises:
        DeviceSpecError: if ``ASCEND_RT_VISIBLE_DEVICES`` is malformed.
    """
    discovery = discover()
    if as_json:
        print(json.dumps(_as_json(discovery), indent=2))
    else:
        _print_table(discovery)


def _as_json(discovery: Discovery) -> dict[str, object]:
    return {
        "devices": [{**asdict(found), "device": str(found.device)} for found in discovery.devices],
        "also": {str(device): str(device.hardware) for device in _other_names(discovery)},
        "default": [str(device) for device in default_devices(discovery)],
        "warnings": discovery.warnings,
    }


def _other_names(discovery: Discovery) -> list[Device]:
    """Return the names of the same devices with a runtime that onnxruntime may have: ``tensorrt:0`` for ``gpu:0``."""
    found = [found.device for found in discovery.devices]
    return [
        Device(kind, device.id) for kind, hardware in HARDWARE.items() for device in found if device.type == hardware
    ]


def _print_table(discovery: Discovery) -> None:
    # Notes quote other programs: their brackets and colons must not be taken for markup or emoji.
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH_COLUMNS
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in TITLES:
        table.add_column(title, no_wrap=title != "Name", overflow="fold")
    for found in discovery.devices:
        table.add_row(*_cells(found))
    console.print(table, "", sep="\n")
    for line in _lines_under(discovery):
        console.print(line, soft_wrap=True)


def _cells(found: FoundDevice) -> list[str]:
    used, total = found.memory_used_mb, found.memory_total_mb
    return [
        str(found.device),
        found.name or "-",
        found.health or "-",
        "-" if total is None else f"{'?' if used is None else used}/{total}",
        found.bus_id or "-",
        "-" if found.card is None else f"{found.card}/{found.chip}",
        found.source,
    ]


def _lines_under(discovery: Discovery) -> Iterator[str]:
    devices_by_note: dict[str, list[str]] = {}
    for found in discovery.devices:
        devices_by_note.setdefault(found.note, []).append(str(found.device))
    devices_by_note.pop("", None)
    for note, devices in devices_by_note.items():
        yield f"{', '.join(devices)}: {note}"
    others = _other_names(discovery)
    yield f"Also: {', '.join(map(str, others))}, where the workers' onnxruntime has them (see ascend-parallel engines)"
    yield f"Default: {', '.join(map(str, default_devices(discovery)))}"
    for warning in discovery.warnings:
        yield f"Warning: {warning}"

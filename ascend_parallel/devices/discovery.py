"""Discovery of this machine's devices with command line tools, never with a driver's library.

Ascend devices come from ``npu-smi info -m`` (ids) and ``npu-smi info`` (health, memory), else from ``/dev/davinciN``.
GPUs come from ``nvidia-smi``. ``ASCEND_RT_VISIBLE_DEVICES`` and ``CUDA_VISIBLE_DEVICES`` are applied, so that the ids
are those of this process. A tool may be missing, hang, fail or print anything: then the next source is used, and a
note or a warning says so. An import of ``acl`` or ``torch`` would bind the master to a device, and CANN does not
survive a later fork.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ascend_parallel.devices.spec import (
    Device,
    Discovery,
    FoundDevice,
    check_devices_exist,
    default_devices,
    parse_visible_ascend,
    usable_cores,
)
from ascend_parallel.devices.vendor_tools import VENDOR_TOOLS, VendorTool

__all__ = ["Discovery", "FoundDevice", "check_devices_exist", "default_devices", "discover", "remember"]

TOOL_TIMEOUT_S = 10.0  # a healthy npu-smi answers in 1 to 3 s, even with 16 chips
KILL_TIMEOUT_S = 1.0  # a tool that hangs inside the driver cannot be killed: do not wait for it
SHOWN_OUTPUT_CHARS = 200
HEALTHS = {"OK", "Warning", "Alarm", "Critical", "UNKNOWN"}
NVIDIA_QUERY = "--query-gpu=index,name,memory.used,memory.total,pci.bus_id"

Run = Callable[[Sequence[str]], str]

#: What :func:`discover` returns at once; empty: it asks.
_remembered: list[Discovery] = []


class NpuChip(NamedTuple):
    """One chip as npu-smi prints it; ``id``, the device id, is None if the table has no such column."""

    card: int
    chip: int
    id: int | None
    name: str | None = None
    health: str | None = None
    memory_used_mb: int | None = None
    memory_total_mb: int | None = None
    bus_id: str | None = None


def run_tool(command: Sequence[str], timeout_s: float = TOOL_TIMEOUT_S) -> str:
    """Run a vendor's tool in the C locale and return its output (stdout and stderr).

    Raises:
        OSError: if the tool is missing (FileNotFoundError), hangs (TimeoutError) or fails.
    """
    if shutil.which(command[0], os.F_OK) is None:
        raise FileNotFoundError(f"{command[0]} is not on the PATH")
    shown = " ".join(word for word in command if not word.startswith("--"))
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},
            start_new_session=True,
        )
    except FileNotFoundError:
        raise FileNotFoundError(f"{command[0]} is not on the PATH") from None
    try:
        output = process.communicate(timeout=timeout_s)[0].decode(errors="replace")
    except KeyboardInterrupt:
        _kill(process)
        raise
    except subprocess.TimeoutExpired:
        _kill(process)
        raise TimeoutError(f"{shown} did not answer in {timeout_s:g} s") from None
    if process.returncode:
        raise OSError(f"{shown} failed (exit code {process.returncode}): {_shorten(output)}")
    return output


def _kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    if process.stdout:
        process.stdout.close()
    try:
        process.wait(KILL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.returncode = -signal.SIGKILL  # give up: nothing waits for it later either


def _shorten(output: str) -> str:
    return " ".join(output.split())[:SHOWN_OUTPUT_CHARS] or "it printed nothing"


def discover(
    run: Run = run_tool,
    environ: Mapping[str, str] = os.environ,
    dev_dir: Path = Path("/dev"),
) -> Discovery:
    """Find the Ascend devices, the GPUs, Paddle's devices and the CPU of this machine, as this process sees them.

    The arguments are for tests. A tool that fails is a warning, not an error.

    Raises:
        DeviceSpecError: if CANN would ignore a part of ``ASCEND_RT_VISIBLE_DEVICES``.
    """
    if _remembered and run is run_tool:
        return _remembered[-1]
    ascend, gpus = _find_ascend(run, environ, dev_dir), _find_gpus(run, environ)
    others = [_find_with_tool(kind, tool, run, environ) for kind, tool in VENDOR_TOOLS.items()]
    found = [ascend, gpus, *others]
    cores = f"{usable_cores()} usable cores"
    cpu = FoundDevice(Device("cpu", 0), platform.machine(), source="system", note=cores)
    return Discovery(
        [*(device for part in found for device in part.devices), cpu],
        [*_ill_health(ascend.devices), *(warning for part in found for warning in part.warnings)],
        frozenset().union(*(part.complete for part in found)),
    )


@contextlib.contextmanager
def remember(discovery: Discovery) -> Iterator[None]:
    """Let :func:`discover` return this, instead of asking tools that take seconds, or hang."""
    _remembered.append(discovery)
    try:
        yield
    finally:
        _remembered.remove(discovery)


def _ill_health(devices: list[FoundDevice]) -> list[str]:
    ill = [found for found in devices if found.health not in (None, "OK")]
    advice = "leave it out if its worker fails"
    return [f"{found.device} reports health {found.health}: {advice}" for found in ill]


def _find_ascend(run: Run, environ: Mapping[str, str], dev_dir: Path) -> Discovery:
    variable = "ASCEND_RT_VISIBLE_DEVICES"
    # CANN treats an empty variable as unset.
    visible = parse_visible_ascend(environ[variable]) if environ.get(variable) else None
    devices, problem = _ask_npu_smi(run)
    complete = bool(devices)
    devices = [replace(device, note=problem) for device in devices or _davinci_nodes(dev_dir)]
    missing = problem.endswith("not on the PATH")  # true on most machines: not worth a warning
    warnings = [problem] if problem and not missing and not devices else []
    if visible is None:
        return Discovery(devices, warnings, frozenset({"ascend"} if complete else ()))
    restricted, ignored = _restrict("ascend", devices, list(map(str, visible)), variable, complete)
    return Discovery(restricted, warnings + ignored, frozenset({"ascend"}))


def _ask_npu_smi(run: Run) -> tuple[list[FoundDevice], str]:
    """Return the devices that npu-smi lists, and the problems that occurred ("" for none)."""
    outputs, problems = [], []
    for command in (["npu-smi", "info", "-m"], ["npu-smi", "info"]):
        try:
            outputs.append(run(command))
        except OSError as error:
            outputs.append("")
            problems.append(str(error))
            if isinstance(error, FileNotFoundError | TimeoutError):
                break  # the second call would fail too, and two timeouts take twice as long
    devices = _merge(parse_npu_smi_mapping(outputs[0]), parse_npu_smi_info(outputs[-1]))
    if not devices and not problems:
        problems.append(f"npu-smi printed no device ids: {_shorten(''.join(outputs))}")
    return devices, "; ".join(problems)


def _merge(mapped: list[NpuChip], listed: list[NpuChip]) -> list[FoundDevice]:
    """Return the devices: ids from ``npu-smi info -m`` if it has them, everything else from ``npu-smi info``."""
    details = {(chip.card, chip.chip): chip for chip in listed}
    for chip in mapped:
        detail = details.get((chip.card, chip.chip), chip)
        details[chip.card, chip.chip] = detail._replace(id=chip.id, name=chip.name or detail.name)
    chips = [details[chip.card, chip.chip] for chip in mapped] or listed
    by_id = {chip.id: chip for chip in reversed(chips) if chip.id is not None}
    fields = [by_id[number]._asdict() for number in sorted(by_id)]
    return [FoundDevice(Device("ascend", f.pop("id")), source="npu-smi", **f) for f in fields]


def _davinci_nodes(dev_dir: Path) -> list[FoundDevice]:
    names = (re.fullmatch(r"davinci(\d+)", node.name) for node in dev_dir.glob("davinci*"))
    ids = sorted(int(name[1]) for name in names if name)
    return [FoundDevice(Device("ascend", i), source=f"{dev_dir}/davinci{i}") for i in ids]


def _find_gpus(run: Run, environ: Mapping[str, str]) -> Discovery:
    variable = "CUDA_VISIBLE_DEVICES"
    visible = environ.get(variable)
    if visible is not None and visible.strip() in ("", "-1"):
        return Discovery([], [f"{variable}={visible!r} hides all GPUs"], frozenset({"gpu"}))
    try:
        output = run(["nvidia-smi", NVIDIA_QUERY, "--format=csv,noheader,nounits"])
    except OSError as error:
        return Discovery([], [] if isinstance(error, FileNotFoundError) else [str(error)])
    devices = parse_nvidia_smi(output)
    if not devices:
        return Discovery([], [f"nvidia-smi printed no GPUs: {_shorten(output)}"])
    if visible is None:
        return Discovery(devices, [], frozenset({"gpu"}))
    restricted, ignored = _restrict("gpu", devices, visible.split(","), variable, complete=True)
    return Discovery(restricted, ignored, frozenset({"gpu"}))


def _find_with_tool(kind: str, tool: VendorTool, run: Run, environ: Mapping[str, str]) -> Discovery:
    """Return the devices of one of Paddle's types; the tool's output is trusted only where it lists some."""
    warning = ""
    for command in tool.commands:
        try:
            output = run(command)
        except FileNotFoundError:
            continue
        except OSError as error:
            warning = str(error)
            continue
        devices = tool.parse(kind, output)
        if devices:
            break
        warning = f"{command[0]} printed no devices that are known here: {_shorten(output)}"
    else:
        return Discovery([], [warning] if warning else [])
    visible = environ.get(tool.variable)
    if not visible:
        return Discovery(devices, [], frozenset({kind}))
    restricted, ignored = _restrict(kind, devices, visible.split(","), tool.variable, complete=True)
    return Discovery(restricted, ignored, frozenset({kind}))


def _restrict(
    kind: str, found: list[FoundDevice], entries: list[str], variable: str, complete: bool
) -> tuple[list[FoundDevice], list[str]]:
    """Return the devices that ``variable`` leaves visible: device i is its i-th entry.

    CANN and CUDA ignore an entry that does not exist, and all entries after it.
    """
    by_id = {str(device.device.id): device for device in found}
    devices: list[FoundDevice] = []
    for entry in map(str.strip, entries):
        if complete and entry not in by_id and not entry.startswith(("GPU-", "MIG-")):
            problem = f"{variable} names {kind} {entry!r}, which is not on this machine"
            return devices, [f"{problem}: it and all after it are ignored"]
        device = by_id.get(entry, FoundDevice(Device(kind, 0), source="environment"))
        note = "; ".join(filter(None, [f"{entry} in {variable}", device.note]))
        devices.append(replace(device, device=Device(kind, len(devices)), note=note))
    return devices, []


def parse_nvidia_smi(text: str) -> list[FoundDevice]:
    """Parse the output of ``nvidia-smi`` for :data:`NVIDIA_QUERY` as csv; memory is in MiB."""
    devices = []
    for line in text.splitlines():
        row = re.fullmatch(r"\s*(\d+), (.+), ([^,]+), ([^,]+), ([^,]+?)\s*", line)
        if row:
            fields = (row[2], None, _int(row[3]), _int(row[4]), row[5])
            devices.append(FoundDevice(Device("gpu", int(row[1])), *fields, source="nvidia-smi"))
    return devices


def parse_npu_smi_mapping(text: str) -> list[NpuChip]:
    """Parse ``npu-smi info -m``: the chips with a device id; a card's Mcu has none."""
    labels: list[str] = []
    chips = []
    for line in text.splitlines():
        if "NPU ID" in line:
            labels = re.findall(r"\w+(?: \w+)?? (?:Phy-)?(?:ID|Name)", line)
            continue
        # Only the last column, the chip's name, can contain a space.
        row = dict(zip(labels, line.strip().split(None, max(0, len(labels) - 1)), strict=False))
        card, chip = _int(row.get("NPU ID")), _int(row.get("Chip ID", "0"))
        number = _int(row.get("Chip Logic ID", row.get("Chip Phy-ID")))
        if card is not None and chip is not None and number is not None and min(card, number) >= 0:
            chips.append(NpuChip(card, chip, number, row.get("Chip Name")))
    return chips


def parse_npu_smi_info(text: str) -> list[NpuChip]:
    """Parse ``npu-smi info``: two rows per chip, labelled by the two rows of the header."""
    header: list[list[str]] = []
    upper: dict[str, str] | None = None
    chips = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if "Process id" in cells:
            break
        if "|" not in line:  # a rule between rows; some outputs have none
            continue
        if "Health" in cells or len(header) == 1:
            header.append(cells)
        elif header:
            row = _columns(header[0], cells)
            if row.get("health") in HEALTHS or upper is None:
                upper = row
            else:
                chips.append(_chip({**upper, **_columns(header[1], cells)}))
                upper = None
    return [chip for chip in chips if chip]


def _columns(header: list[str], cells: list[str]) -> dict[str, str]:
    """Return label (lower case, without its unit) -> value, for one row under one row of the header."""
    row: dict[str, str] = {}
    for title, cell in zip(header, cells, strict=False):
        labels = re.sub(r"\(.*?\)", "", title).lower().split()
        if "-Usage" in title:  # counted from the right: "1529 / 44280" is one value, and power may be missing
            values = re.sub(r"\s*/\s*", "/", cell).split()
            row.update(zip(reversed(labels), reversed(values), strict=False))
        else:  # counted from the left: the name may contain a space, and the id after it may be missing
            row.update(zip(labels, cell.split(None, max(0, len(labels) - 1)), strict=False))
    return row


def _chip(row: Mapping[str, str]) -> NpuChip | None:
    card, chip = _int(row.get("npu")), _int(row.get("chip", "0"))
    if card is None or chip is None or card < 0:
        return None
    usages = (re.fullmatch(r"(\d+)/([1-9]\d*)", row.get(f"{kind}-usage", "")) for kind in ("hbm", "memory"))
    used, total = next((map(int, usage.groups()) for usage in usages if usage), (None, None))
    number = _int(row.get("device", row.get("phy-id")))
    bus_id = row.get("bus-id") if ":" in row.get("bus-id", "") else None
    return NpuChip(card, chip, number, row.get("name"), row.get("health"), used, total, bus_id)


def _int(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"-?\d{1,9}", text, re.ASCII) else None

"""Drivers, firmware and the vendors' tools."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ascend_parallel.devices import FoundDevice

from .context import Context
from .finding import Finding, failure, ok, warning
from .host import compare_versions

TITLE = "Driver and tools"
DRIVER = "/usr/local/Ascend/driver/version.info"
FIRMWARE = "/usr/local/Ascend/firmware/version.info"


def check(context: Context) -> Iterator[Finding]:
    """Yield the findings of this layer."""
    if context.has_ascend:
        yield check_npu_smi(context)
        yield from check_versions(context)
    if context.has_gpu:
        yield check_nvidia_smi(context)
    yield from check_devices(context)


def check_npu_smi(context: Context) -> Finding:
    """Check that npu-smi answers."""
    found = [found for found in context.discovery.devices if found.device.type == "ascend"]
    if any(device.source == "npu-smi" for device in found):
        names = sorted({device.name or "?" for device in found})
        return ok("npu-smi", f"{len(found)} devices: {', '.join(names)}", devices=len(found))
    problem = next(iter([*(device.note for device in found if device.note), *_problems(context, "npu-smi")]), "")
    if not problem or "not on the PATH" in problem:  # devices may work without it
        return warning("npu-smi", "npu-smi is not on the PATH", _install_advice(context))
    if "did not answer" in problem:
        return failure("npu-smi", problem, "restart the host: a tool that hangs waits for the driver; see dmesg")
    return failure("npu-smi", problem, "run npu-smi info by hand; if it fails there, install the driver again")


def _install_advice(context: Context) -> str:
    if context.host.is_container:
        return "mount it into the container: -v /usr/local/bin/npu-smi:/usr/local/bin/npu-smi"
    return "install the driver (Ascend HDK), which brings it, and put /usr/local/bin on the PATH"


def _problems(context: Context, tool: str) -> list[str]:
    return [text for text in context.discovery.warnings if tool in text]


def check_versions(context: Context) -> Iterator[Finding]:
    """Check the driver against the firmware by what their own version files say of each other."""
    driver, firmware = context.host.read_settings(DRIVER), context.host.read_settings(FIRMWARE)
    if not driver:
        advice = "install the driver; in a container, mount /usr/local/Ascend/driver"
        yield failure("driver", f"there is no {DRIVER}", advice)
        return
    version = driver.get("package_version", driver.get("Version", "unknown"))
    yield ok("driver", version, version=version)
    if not firmware:
        if not context.host.is_container:  # where it is not mounted, as nothing needs it
            yield warning("firmware", f"there is no {FIRMWARE}", "install the firmware of the driver's release")
        return
    yield _check_firmware(version, driver, firmware)


def _check_firmware(version: str, driver: dict[str, str], firmware: dict[str, str]) -> Finding:
    own = firmware.get("Version", "unknown")
    seen = f"{own} (release {firmware.get('package_version', 'unknown')})"
    ranges = re.findall(r"\[([^,\]]+),([^\]]+)\]", driver.get("compatible_version_fw", ""))
    if ranges and not any(compare_versions(a, own) <= 0 <= compare_versions(b, own) for a, b in ranges):
        wanted = ", ".join(f"{low} to {high}" for low, high in ranges)
        advice = "install the driver and the firmware of one release"
        return failure("firmware", f"{seen}; the driver {version} works with {wanted}", advice)
    return ok("firmware", f"{seen}, which the driver names as compatible" if ranges else seen)


def check_nvidia_smi(context: Context) -> Finding:
    """Check that nvidia-smi answers, and tell the driver's version."""
    try:
        text = context.host.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    except OSError as error:
        advice = "install NVIDIA's driver; in a container, start it with --gpus all (NVIDIA Container Toolkit)"
        return failure("nvidia-smi", str(error), advice)
    versions = sorted(set(text.split()))
    return ok("nvidia-smi", f"driver {', '.join(versions)}, {len(text.split())} GPUs")


def check_devices(context: Context) -> Iterator[Finding]:
    """Check that each device that is asked for is here, healthy and not full."""
    found = {device.device: device for device in context.discovery.devices}
    for device in context.devices:
        missing = context.why_missing(device)
        if missing:
            yield failure(str(device), missing, "name devices that `ascend-parallel devices` shows")
        elif device.hardware in found and device.hardware.type != "cpu":
            yield _check_found(str(device), found[device.hardware])


def _check_found(name: str, found: FoundDevice) -> Finding:
    used, total = found.memory_used_mb, found.memory_total_mb
    memory = f", {used} of {total} MB used" if used is not None and total is not None else ""
    seen = f"{found.name or 'unnamed'}{memory}, health {found.health or 'unknown'}"
    if found.health not in (None, "OK"):
        return warning(
            name, seen, f"run npu-smi info -t health -i {found.card or 0}, and leave the device out if it fails"
        )
    if used and total and used > 0.9 * total:
        return warning(name, seen, "end the processes that hold its memory: npu-smi info, or nvidia-smi, lists them")
    return ok(name, seen)

"""Device files: that they are there, and that this user may open them."""

from __future__ import annotations

from collections.abc import Iterator

from ascend_parallel.devices import parse_visible_ascend
from ascend_parallel.errors import DeviceSpecError

from .context import Context
from .finding import Finding, failure, ok

TITLE = "Device files"
#: What every process that uses an Ascend device opens, beside the device's own file.
ASCEND_FILES = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")
GPU_FILES = ("/dev/nvidiactl", "/dev/nvidia-uvm")


def check(context: Context) -> Iterator[Finding]:
    """Yield the findings of this layer; none where no device has a file."""
    if context.asks_for("ascend"):
        numbers = [_number_of(context, device.id) for device in context.devices if device.type == "ascend"]
        yield from (check_file(context, path) for path in (*(f"/dev/davinci{n}" for n in numbers), *ASCEND_FILES))
    if context.asks_for("gpu"):
        numbers = _gpu_numbers(context)
        yield from (check_file(context, path) for path in (*(f"/dev/nvidia{n}" for n in numbers), *GPU_FILES))


def _number_of(context: Context, device: int) -> int:
    """Return the N of /dev/davinciN for a device id of this process."""
    value = context.host.environ.get("ASCEND_RT_VISIBLE_DEVICES", "")
    try:
        visible = parse_visible_ascend(value) if value else []
    except DeviceSpecError:  # reported by the layer of the environment
        visible = []
    return visible[device] if device < len(visible) else device


def _gpu_numbers(context: Context) -> list[int]:
    """Return the N of /dev/nvidiaN; none where CUDA_VISIBLE_DEVICES renumbers the GPUs."""
    if context.host.environ.get("CUDA_VISIBLE_DEVICES"):
        return []
    return [device.id for device in context.devices if device.hardware.type == "gpu"]


def check_file(context: Context, path: str) -> Finding:
    """Check one device file."""
    host = context.host
    try:
        may_open = host.may_open(path)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            return failure(path, "it is not there", _advice_if_missing(context, path))
        return failure(path, f"it cannot be examined ({error.strerror})", "check the permissions of /dev")
    mode = oct(host.path(path).stat().st_mode & 0o777)[2:]
    group = host.group_of(path)
    if may_open:
        return ok(path, f"group {group}, mode {mode}")
    advice = f"add the user to the group: sudo usermod -aG {group} $USER, and log in again"
    return failure(path, f"this user may not open it (group {group}, mode {mode})", advice)


def _advice_if_missing(context: Context, path: str) -> str:
    if context.host.is_container:
        return f"start the container with --device={path}"
    word = "nvidia" if "nvidia" in path else "davinci"
    return f"load the driver, and see why it did not make the file: dmesg | grep -i {word}"

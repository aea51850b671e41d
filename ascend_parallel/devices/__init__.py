"""Device specifications, and the devices of this machine."""

from __future__ import annotations

from .spec import (
    DEVICE_TYPES,
    HARDWARE,
    PADDLE_TYPES,
    Device,
    Discovery,
    FoundDevice,
    check_devices_exist,
    default_devices,
    parse_devices,
    parse_visible_ascend,
    usable_cores,
)

__all__ = [
    "DEVICE_TYPES",
    "HARDWARE",
    "PADDLE_TYPES",
    "Device",
    "Discovery",
    "FoundDevice",
    "check_devices_exist",
    "default_devices",
    "parse_devices",
    "parse_visible_ascend",
    "usable_cores",
]

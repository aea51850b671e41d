"""Device specifications, the list of visible devices, the default choice, and the usable cores."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ascend_parallel.devices import (
    DEVICE_TYPES,
    Device,
    Discovery,
    FoundDevice,
    check_devices_exist,
    default_devices,
    parse_devices,
    parse_visible_ascend,
    usable_cores,
)
from ascend_parallel.devices import spec as devices_module
from ascend_parallel.errors import DeviceSpecError, UsageError

a_device = st.builds(Device, st.sampled_from(DEVICE_TYPES), st.integers(0, 999_999_999))
#: gpu:0 and tensorrt:0 are one card, which may be named once.
some_devices = st.lists(a_device, min_size=1, max_size=20, unique_by=lambda device: device.hardware)


def named(devices: Iterable[Device]) -> str:
    return " ".join(map(str, devices))


# --- parse_devices


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("ascend:0,1", "ascend:0 ascend:1"),
        ("npu:0-3", "ascend:0 ascend:1 ascend:2 ascend:3"),
        ("gpu:0,2", "gpu:0 gpu:2"),
        ("cuda:1", "gpu:1"),
        ("cpu", "cpu:0"),
        ("cpu:0,1", "cpu:0 cpu:1"),
        ("ascend:1,0", "ascend:1 ascend:0"),
        ("ascend:0-1,4,6-7", "ascend:0 ascend:1 ascend:4 ascend:6 ascend:7"),
        ("gpu:0,gpu:1", "gpu:0 gpu:1"),
        ("gpu:0,1,cpu:0", "gpu:0 gpu:1 cpu:0"),
        ("gpu:0,cpu", "gpu:0 cpu:0"),
        ("cpu,1", "cpu:0 cpu:1"),
        ("tensorrt:0-2", "tensorrt:0 tensorrt:1 tensorrt:2"),
        ("gpu:0,tensorrt:1", "gpu:0 tensorrt:1"),
        ("openvino", "openvino:0"),
        ("openvino:0,1,cpu:0", "openvino:0 openvino:1 cpu:0"),
        (" ascend : 0 , 1 - 2 ", "ascend:0 ascend:1 ascend:2"),
        ("ASCEND:0,Npu:1", "ascend:0 ascend:1"),
        ("ascend:007", "ascend:7"),
        ("ascend:3-3", "ascend:3"),
        (["gpu:0,1", "cpu:0"], "gpu:0 gpu:1 cpu:0"),
        (("npu:1", Device("cpu", 4)), "ascend:1 cpu:4"),
        (Device("gpu", 2), "gpu:2"),
        ((spec for spec in ("cpu:1", "cpu:0")), "cpu:1 cpu:0"),
    ],
)
def test_devices_keep_the_order_of_the_specification(
    spec: str | Device | Iterable[str | Device], expected: str
) -> None:
    assert named(parse_devices(spec)) == expected


def test_the_longest_range_is_1024_devices() -> None:
    assert len(parse_devices("simulated:0-1023")) == 1024
    assert len(parse_devices("simulated:0-63")) == 64


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "the device specification is empty: name some, such as 'ascend:0,1'"),
        ("   ", "the device specification is empty"),
        ([], "the list of devices is empty: name some"),
        ([""], "the device specification is empty"),
        ("asend:0", r"unknown device type 'asend' in 'asend:0': did you mean 'ascend'\?"),
        ("nup:0", r"did you mean 'npu'\?"),
        ("tpu:0", "unknown device type 'tpu'.*known are ascend"),
        ("quantum", "unknown device type 'quantum' in 'quantum': known are"),
        (":0", "unknown device type ''"),
        ("gpu:", "'gpu' has no ids in 'gpu:': write 'gpu:0' or 'gpu:0-3'"),
        ("gpu", "'gpu' has no ids in 'gpu'"),
        ("npu:0,npu", "'ascend' has no ids"),
        ("tensorrt", "'tensorrt' has no ids in 'tensorrt': write 'tensorrt:0' or 'tensorrt:0-3'"),
        ("openvno:0", r"did you mean 'openvino'\?"),
        (
            "gpu:0,1,tensorrt:1",
            "tensorrt:1 and gpu:1 are the same card, named twice in 'gpu:0,1,tensorrt:1': name it once",
        ),
        (["tensorrt:0", "cuda:0"], "gpu:0 and tensorrt:0 are the same card"),
        ("openvino:0,openvino:0", "openvino:0 is named twice"),
        ("0,1", "'0' in '0,1' has no device type: write it as 'ascend:0'"),
        (["gpu:0", "1"], "'1' in '1' has no device type"),
        ("ascend:-1", "device id -1 in 'ascend:-1' is negative: ids count from 0"),
        ([Device("ascend", -1)], "device id -1 in 'ascend:-1' is negative"),
        ([Device("tpu", 0)], "unknown device type 'tpu'"),
        ("ascend:0,", "a comma in 'ascend:0,' has no device on one side: remove it"),
        ("ascend:0,,1", "a comma in 'ascend:0,,1' has no device on one side"),
        ("ascend:3-0", "the range 3-0 in 'ascend:3-0' runs backwards: write ascend:0-3"),
        ("ascend:0-1024", "names 1025 devices; expected at most 1024: write a shorter range"),
        ("ascend:0-999999999", "names 1000000000 devices"),
        ("ascend:" + "9" * 5000, "is not a device id"),
        ("ascend:one", "'one' in 'ascend:one' is not a device id: write a number such as ascend:0"),
        ("ascend:0-", "'0-' in 'ascend:0-' is not a device id"),
        ("ascend:0 1", "'0 1' in 'ascend:0 1' is not a device id"),
        ("ascend:0:1", "'0:1' in 'ascend:0:1' is not a device id"),
        ("ascend:0;gpu:0", "is not a device id"),
        ("ascend:0.5", "'0.5' in 'ascend:0.5' is not a device id"),
        ("ascend:\u0664", "is not a device id"),  # a digit, but not an ASCII digit
        ("ascend:0,npu:0", "ascend:0 is named twice in 'ascend:0,npu:0': name it once"),
        (["cpu", "cpu:0"], "cpu:0 is named twice in 'cpu, cpu:0'"),
        ((spec for spec in ("cpu", "cpu")), "cpu:0 is named twice in 'cpu, cpu'"),
        (["gpu:0", 1], "device 1 is of type int: give text such as"),
        (["gpu:0", None], "device None is of type NoneType"),
        (b"gpu:0", "device 103 is of type int"),
        (3, "devices is 3, a int: name some by text such as"),
        (None, "devices is None, a NoneType"),
    ],
)
def test_a_malformed_specification_is_refused_in_one_clear_sentence(spec: str, message: str) -> None:
    with pytest.raises(DeviceSpecError, match=message) as caught:
        parse_devices(spec)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UsageError)


@given(some_devices)
def test_any_devices_survive_the_round_trip_through_text(devices: list[Device]) -> None:
    assert parse_devices(",".join(map(str, devices))) == devices
    assert parse_devices([str(device) for device in devices]) == devices
    assert parse_devices(devices) == devices


@given(st.text(alphabet="acdegnpsu:,-0123 ", max_size=20) | st.text())
def test_any_text_is_either_parsed_or_refused(text: str) -> None:
    try:
        devices = parse_devices(text)
    except DeviceSpecError:
        return
    assert devices
    assert parse_devices(",".join(map(str, devices))) == devices


# --- parse_visible_ascend


@pytest.mark.parametrize(("value", "ids"), [("0", [0]), ("1,3", [1, 3]), ("0,2,10", [0, 2, 10])])
def test_a_visible_list_is_parsed(value: str, ids: list[int]) -> None:
    assert parse_visible_ascend(value) == ids


@pytest.mark.parametrize(
    "value",
    ["", " ", "1,0", "0,0", "0, 1", "0,1 ", "0,", ",0", "-1", "0,-1", "a", "0-1", "0;1", "\u0661"],
)
def test_a_visible_list_that_cann_would_partly_ignore_is_refused(value: str) -> None:
    with pytest.raises(DeviceSpecError, match="ASCEND_RT_VISIBLE_DEVICES is ") as caught:
        parse_visible_ascend(value)
    assert repr(value) in str(caught.value)
    assert "such as '0,1'" in str(caught.value)


# --- default_devices, check_devices_exist


def a_discovery(*specs: str, complete: Iterable[str] = ()) -> Discovery:
    found = [FoundDevice(device) for device in parse_devices(specs)] if specs else []
    return Discovery(found, [], frozenset(complete))


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (["ascend:0,1", "gpu:0", "cpu"], "ascend:0 ascend:1"),
        (["gpu:0,1", "cpu"], "gpu:0 gpu:1"),
        (["cpu"], "cpu:0"),
        ([], "cpu:0"),
    ],
)
def test_the_default_is_every_device_of_the_best_type(there: list[str], expected: str) -> None:
    assert named(default_devices(a_discovery(*there))) == expected


def test_a_device_known_to_be_absent_is_refused_with_the_available_ones() -> None:
    discovery = a_discovery("ascend:0,1", "cpu", complete=["ascend", "gpu"])
    check_devices_exist(parse_devices("ascend:0,1"), discovery)
    with pytest.raises(DeviceSpecError, match=r"no device ascend:5 here.*only ascend:0, ascend:1"):
        check_devices_exist(parse_devices("ascend:0,5"), discovery)
    with pytest.raises(DeviceSpecError, match=r"no device gpu:0 here: this process shows no gpu"):
        check_devices_exist(parse_devices("gpu:0"), discovery)


def test_tensorrt_is_the_gpus_by_their_numbers() -> None:
    discovery = a_discovery("gpu:0,1", "cpu", complete=["ascend", "gpu"])
    check_devices_exist(parse_devices("tensorrt:0,1"), discovery)
    with pytest.raises(DeviceSpecError, match=r"no device tensorrt:2 here: this process has only gpu:0, gpu:1 "):
        check_devices_exist(parse_devices("tensorrt:2"), discovery)
    with pytest.raises(DeviceSpecError, match=r"no device tensorrt:0 here: this process shows no gpu "):
        check_devices_exist(parse_devices("tensorrt:0"), a_discovery("cpu", complete=["gpu"]))


def test_nothing_is_refused_if_the_list_may_be_incomplete() -> None:
    check_devices_exist(parse_devices("ascend:5,gpu:7"), a_discovery("ascend:0", "cpu"))


def test_ids_of_cpu_and_simulated_are_only_labels() -> None:
    discovery = a_discovery("ascend:0", "cpu", complete=["ascend", "gpu"])
    check_devices_exist(parse_devices("cpu:0-7,openvino:0-7,simulated:0-63"), discovery)


# --- usable_cores

FILES_AND_CORES = {
    "no cgroup files": ("", {}, 8),
    "v2": ("0::/", {"cpu.max": "200000 100000"}, 2),
    "v2, rounded up": ("0::/", {"cpu.max": "150000 100000"}, 2),
    "v2, less than one": ("0::/", {"cpu.max": "10000 100000"}, 1),
    "v2, no limit": ("0::/", {"cpu.max": "max 100000"}, 8),
    "v2, more than the affinity": ("0::/", {"cpu.max": "6400000 100000"}, 8),
    "v2, own group": ("0::/a/b", {"a/b/cpu.max": "300000 100000"}, 3),
    "v2, group above": (
        "0::/a/b",
        {"a/b/cpu.max": "max 100000", "a/cpu.max": "400000 100000"},
        4,
    ),
    "v2, unified mount": ("0::/a", {"unified/a/cpu.max": "500000 100000"}, 5),
    "v2, rubbish": ("0::/", {"cpu.max": "soon"}, 8),
    "v1": (
        "4:memory:/m\n3:cpu,cpuacct:/c",
        {"cpu,cpuacct/c/cpu.cfs_quota_us": "250000", "cpu,cpuacct/c/cpu.cfs_period_us": "100000"},
        3,
    ),
    "v1, mounted as cpu": (
        "3:cpu,cpuacct:/c",
        {"cpu/c/cpu.cfs_quota_us": "250000", "cpu/c/cpu.cfs_period_us": "100000"},
        3,
    ),
    "v1 in a container, with the host's path": (
        "3:cpu:/docker/0123",
        {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "25000"},
        2,
    ),
    "v1, no limit": (
        "3:cpu:/",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        8,
    ),
    "v1, cpuset is no cpu": (
        "3:cpuset:/",
        {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"},
        8,
    ),
    "v1, no period": ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "1", "cpu/cpu.cfs_period_us": "0"}, 8),
}


@pytest.mark.parametrize(("own", "files", "expected"), FILES_AND_CORES.values(), ids=FILES_AND_CORES.keys())
def test_usable_cores_are_the_affinity_limited_by_the_quota(
    own: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    (tmp_path / "self").write_text(own + "\n")
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    cores = usable_cores(cgroup_root=tmp_path / "cgroup", own_cgroups=tmp_path / "self")
    assert cores == expected


def test_this_process_has_a_core() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_without_affinity_all_cores_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert usable_cores(cgroup_root=tmp_path, own_cgroups=tmp_path / "none") == 5


def test_all_public_names_are_listed() -> None:
    public = {
        name
        for name, value in vars(devices_module).items()
        if getattr(value, "__module__", "") == devices_module.__name__ and not name.startswith("_")
    }
    assert public | {"DEVICE_TYPES", "HARDWARE", "PADDLE_TYPES"} == set(devices_module.__all__)

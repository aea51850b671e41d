"""The output of ``ascend-parallel devices``, as a table and as JSON."""

from __future__ import annotations

import json

import pytest

from ascend_parallel.cli import devices as command
from ascend_parallel.devices import Device
from ascend_parallel.devices.discovery import Discovery, FoundDevice

CHIP = FoundDevice(
    Device("ascend", 0),
    "Ascend 310P3",
    "OK",
    1529,
    44280,
    "0000:01:00.0",
    2,
    0,
    "npu-smi",
    "a note",
)
ILL_CHIP = FoundDevice(Device("ascend", 1), "Ascend 310P3", "Alarm", None, 43693, None, 2, 1, "npu-smi", "a note")
GPU = FoundDevice(Device("gpu", 0), "NVIDIA H200", None, 0, 143771, source="nvidia-smi")
CPU = FoundDevice(Device("cpu", 0), "aarch64", source="system", note="64 usable cores")
DUO = Discovery(
    [CHIP, ILL_CHIP, GPU, CPU],
    ["ascend:1 reports health Alarm", "nvidia-smi said [bold]no[/bold] :bug: " + "x" * 300],
    frozenset({"ascend"}),
)


@pytest.fixture(autouse=True)
def a_duo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "discover", lambda: DUO)


def test_the_table_has_a_line_for_each_device(capsys: pytest.CaptureFixture[str]) -> None:
    command.devices_command(as_json=False)
    title, _rule, *rows = capsys.readouterr().out.splitlines()[:6]
    assert title.split()[::2] == ["Device", "Health", "(MB)", "Card/chip", "by"]
    assert [row.split() for row in rows] == [
        ["ascend:0", "Ascend", "310P3", "OK", "1529/44280", "0000:01:00.0", "2/0", "npu-smi"],
        ["ascend:1", "Ascend", "310P3", "Alarm", "?/43693", "-", "2/1", "npu-smi"],
        ["gpu:0", "NVIDIA", "H200", "-", "0/143771", "-", "-", "nvidia-smi"],
        ["cpu:0", "aarch64", "-", "-", "-", "-", "system"],
    ]


def test_notes_default_and_warnings_follow_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    command.devices_command(as_json=False)
    captured = capsys.readouterr()
    assert captured.out.splitlines()[6:] == [
        "",
        "ascend:0, ascend:1: a note",
        "cpu:0: 64 usable cores",
        "Also: tensorrt:0, openvino:0, where the workers' onnxruntime has them (see ascend-parallel engines)",
        "Default: ascend:0, ascend:1",
        *(f"Warning: {warning}" for warning in DUO.warnings),  # brackets, colons and length kept
    ]
    assert "\x1b" not in captured.out
    assert captured.err == ""


def test_at_80_columns_only_a_name_is_wrapped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "PIPE_WIDTH_COLUMNS", 80)
    command.devices_command(as_json=False)
    printed = capsys.readouterr().out
    for whole in ("ascend:0", "1529/44280", "0000:01:00.0", "npu-smi"):
        assert whole in printed


def test_json_is_one_object_with_all_fields(capsys: pytest.CaptureFixture[str]) -> None:
    command.devices_command(as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == ["devices", "also", "default", "warnings"]
    assert printed["also"] == {"tensorrt:0": "gpu:0", "openvino:0": "cpu:0"}
    assert printed["default"] == ["ascend:0", "ascend:1"]
    assert printed["warnings"] == DUO.warnings
    assert printed["devices"][1] == {
        "device": "ascend:1",
        "name": "Ascend 310P3",
        "health": "Alarm",
        "memory_used_mb": None,
        "memory_total_mb": 43693,
        "bus_id": None,
        "card": 2,
        "chip": 1,
        "source": "npu-smi",
        "note": "a note",
    }


def test_this_machine_can_be_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    command.devices_command(as_json=False)
    assert "cpu:0" in capsys.readouterr().out

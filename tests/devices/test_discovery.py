"""What discovery parses from npu-smi and nvidia-smi, and what it does when they fail.

``fixtures/npu-smi/NN_*`` are real captures. ``made_*`` were written by hand in the same formats.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest

from ascend_parallel.devices import Device, Discovery, check_devices_exist, default_devices
from ascend_parallel.devices.discovery import (
    NpuChip,
    discover,
    parse_npu_smi_info,
    parse_npu_smi_mapping,
    parse_nvidia_smi,
    run_tool,
)
from ascend_parallel.errors import DeviceSpecError

FIXTURES = Path(__file__).parent / "fixtures" / "npu-smi"
DUO = "01_300I_Duo_1card_2chips_npu-smi-25.2.0.txt"
B3 = "05_910B3_npu-smi-25.5.1_no_Device_column.txt"
DCMI_FAILURE = "DrvMngGetConsoleLogLevel failed. (ret=4)\ndcmi module initialize failed. ret is -8005"
TWO_GPUS = """\
0, NVIDIA H200, 1024, 143771, 00000000:18:00.0
1, NVIDIA A100-SXM4-80GB, 0, 81920, 00000000:3B:00.0
"""


def fixture(name: str) -> str:
    return (FIXTURES / name).read_text()


def four_cards(with_names: str) -> list[tuple[int, int, int | None, str | None]]:
    cards = (0, 96, 32768, 32896)
    return [(c, chip, 2 * i + chip, with_names) for i, c in enumerate(cards) for chip in (0, 1)]


# --- npu-smi info


def test_a_duo_is_two_devices_on_one_card() -> None:
    assert parse_npu_smi_info(fixture(DUO)) == [
        NpuChip(2, 0, 0, "310P3", "OK", 1529, 44280, "0000:01:00.0"),
        NpuChip(2, 1, 1, "310P3", "OK", 1411, 43693, "0000:01:00.0"),
    ]


def test_the_layout_without_a_version_line_and_process_table_is_parsed() -> None:
    old = fixture("04_310P3_single_chip_cards_CANN5.1_old_layout.txt")
    assert parse_npu_smi_info(old) == [
        NpuChip(0, 0, 0, "310P3", "OK", 1074, 21534, "0000:82:00.0"),
        NpuChip(1, 0, 1, "310P3", "OK", 1070, 21534, "0000:89:00.0"),
    ]


def test_a_910b_has_hbm_and_no_device_id() -> None:
    assert parse_npu_smi_info(fixture(B3)) == [
        NpuChip(0, 0, None, "910B3", "OK", 3445, 65536, "0000:C1:00.0"),
        NpuChip(5, 0, None, "910B3", "OK", 60156, 65536, "0000:02:00.0"),
    ]


def test_phy_id_is_the_device_id_of_an_a3() -> None:
    chips = parse_npu_smi_info(fixture("made_A3_Phy-ID.txt"))
    assert [(chip.card, chip.chip, chip.id) for chip in chips] == [
        (0, 0, 0),
        (0, 1, 1),
        (1, 0, 2),
        (1, 1, 3),
    ]
    assert [chip.memory_used_mb for chip in chips] == [46536, 2890, 3143, 65535]


@pytest.mark.parametrize("name", ["made_four_300I_Duo.txt", "made_four_300I_Duo_no_rule_lines.txt"])
def test_device_ids_are_not_npu_ids_and_processes_are_not_devices(name: str) -> None:
    chips = parse_npu_smi_info(fixture(name))
    assert [chip[:4] for chip in chips] == four_cards("310P3")
    assert {chip.memory_total_mb for chip in chips} == {44280, 43693}


def test_glued_missing_and_odd_values_are_parsed() -> None:
    chips = parse_npu_smi_info(fixture("made_310P3_ill_glued_NA.txt"))
    seen = [(c.id, c.health, c.memory_used_mb, c.memory_total_mb, c.bus_id) for c in chips]
    assert seen == [
        (0, "UNKNOWN", 35552, 44278, "0000:01:00.0"),
        (1, "Alarm", None, None, "0000:01:00.0"),
        (2, "Warning", 35552, 44278, "0000:02:00.0"),
        (3, "Critical", None, None, None),
        (5, "OK", 0, 43693, "0000:03:00.0"),
    ]


def test_hbm_is_preferred_over_ddr() -> None:
    (chip,) = parse_npu_smi_info(fixture("made_910A_DDR_and_HBM.txt"))
    assert (chip.memory_used_mb, chip.memory_total_mb) == (1234, 32768)


def test_separate_columns_for_npu_id_and_name_are_parsed() -> None:
    assert parse_npu_smi_info(fixture("made_950_NPU_ID_columns.txt")) == [
        NpuChip(0, 0, None, "Ascend950", "OK", 3129, 114688, "0000:9D:00.0"),
        NpuChip(1, 0, None, "Ascend950", "OK", 3130, 114688, None),
    ]


@pytest.mark.parametrize("health", ["OK", "Warning", "Alarm", "Critical", "UNKNOWN"])
@pytest.mark.parametrize("lost", ["| 2       310P3", "| 0       0  "])
def test_a_missing_row_drops_its_chip_and_no_other(lost: str, health: str) -> None:
    lines = fixture(DUO).replace("| OK      ", f"| {health:<8}").splitlines()
    lines.remove(next(line for line in lines if line.startswith(lost)))
    (chip,) = parse_npu_smi_info("\n".join(lines))
    assert (chip.card, chip.chip, chip.id, chip.health) == (2, 1, 1, health)


# --- npu-smi info -m


def test_the_mapping_skips_the_mcu_and_keeps_names_with_spaces() -> None:
    assert parse_npu_smi_mapping(fixture("07_info_-m_910B3.txt")) == [
        NpuChip(0, 0, 0, "Ascend 910B3"),
        NpuChip(1, 0, 1, "Ascend 910B3"),
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("made_info_-m_four_300I_Duo.txt", four_cards("Ascend 310P3")),
        ("made_info_-m_card_-1.txt", [(3, 0, 1, "Ascend 310P3")]),
        (
            "made_info_-m_A3_Chip_Phy-ID.txt",  # the physical ids are 8 to 11
            [(i // 2, i % 2, i, "Ascend910") for i in range(4)],
        ),
        (
            "made_info_-m_950_no_Chip_Logic_ID.txt",
            [(0, 0, 0, "Ascend950"), (1, 0, 1, "Ascend950")],
        ),
        ("made_info_-m_no_ids_at_all.txt", []),
        (
            "made_info_-m_single_spaces.txt",
            [(0, 0, 0, "Ascend 910B3"), (1, 0, 1, "Ascend 910B3")],
        ),
    ],
)
def test_the_mapping_is_parsed_by_its_labels(name: str, expected: list[tuple[object, ...]]) -> None:
    assert [chip[:4] for chip in parse_npu_smi_mapping(fixture(name))] == expected


RUBBISH = [
    "",
    "\n",
    "|",
    "| |\n" * 5,
    "NPU ID\n1 2 3",
    DCMI_FAILURE,
    "\x00\ufffd| Health |\n|",
    "|a" * 99,
]


@pytest.mark.parametrize("text", [*RUBBISH, *(fixture(f"1{n}") for n in ("0_info_-l.txt", "1_info_-t_topo_910B3.txt"))])
def test_rubbish_contains_no_devices(text: str) -> None:
    assert parse_npu_smi_info(text) == []
    assert parse_npu_smi_mapping(text) == []
    assert parse_nvidia_smi(text) == []


def test_a_table_cut_anywhere_never_raises() -> None:
    for path in FIXTURES.glob("*.txt"):
        text = path.read_text()
        for end in range(0, len(text), 7):
            parse_npu_smi_info(text[:end])
            parse_npu_smi_mapping(text[:end])


# --- nvidia-smi


def test_nvidia_smi_is_parsed() -> None:
    found = parse_nvidia_smi(TWO_GPUS + "2, NVIDIA GB10, [N/A], [Not Supported], 0000000F:01:00.0\n")
    assert [(str(f.device), f.name, f.memory_used_mb, f.memory_total_mb) for f in found] == [
        ("gpu:0", "NVIDIA H200", 1024, 143771),
        ("gpu:1", "NVIDIA A100-SXM4-80GB", 0, 81920),
        ("gpu:2", "NVIDIA GB10", None, None),
    ]
    assert found[1].bus_id == "00000000:3B:00.0"


# --- discover, with the tools' output


class Tools:
    """Replaces run_tool: a tool's output, the error that it raises, or no such tool."""

    def __init__(self, outputs: Mapping[str, str | OSError]) -> None:
        self.outputs = outputs
        self.calls: list[str] = []

    def __call__(self, command: Sequence[str]) -> str:
        name = " ".join(word for word in command if not word.startswith("--"))
        self.calls.append(name)
        output = self.outputs.get(name, FileNotFoundError(f"{command[0]} is not on the PATH"))
        if isinstance(output, OSError):
            raise output
        return output


def discover_with(
    tmp_path: Path,
    *,
    mapping: str | OSError | None = None,
    info: str | OSError | None = None,
    nvidia: str | OSError | None = None,
    nodes: Sequence[str] = (),
    **environ: str,
) -> Discovery:
    given = {"npu-smi info -m": mapping, "npu-smi info": info, "nvidia-smi": nvidia}
    for node in nodes:
        (tmp_path / node).touch()
    tools = Tools({name: output for name, output in given.items() if output is not None})
    return discover(tools, environ, tmp_path)


def ids(discovery: Discovery, kind: str = "ascend") -> list[int]:
    return [found.device.id for found in discovery.devices if found.device.type == kind]


def test_a_machine_without_accelerators_has_its_cpu_and_no_warnings(tmp_path: Path) -> None:
    discovery = discover_with(tmp_path)
    (cpu,) = discovery.devices
    assert cpu.device == Device("cpu", 0)
    assert cpu.note.endswith("usable cores")
    assert discovery.warnings == []
    assert default_devices(discovery) == [Device("cpu", 0)]
    check_devices_exist([Device("ascend", 3)], discovery)  # the list may be incomplete, so nothing is refused


def test_ids_come_from_the_mapping_and_the_rest_from_info(tmp_path: Path) -> None:
    discovery = discover_with(tmp_path, mapping=fixture("made_info_-m_910B3_ids_0_5.txt"), info=fixture(B3))
    found = discovery.devices[1]
    assert ids(discovery) == [0, 1]
    assert (found.card, found.chip, found.bus_id) == (5, 0, "0000:02:00.0")
    assert (found.name, found.health) == ("Ascend 910B3", "OK")
    assert (found.memory_used_mb, found.memory_total_mb) == (60156, 65536)
    assert (found.source, found.note) == ("npu-smi", "")
    assert discovery.warnings == []


def test_four_duos_are_ascend_0_to_7(tmp_path: Path) -> None:
    discovery = discover_with(
        tmp_path,
        mapping=fixture("made_info_-m_four_300I_Duo.txt"),
        info=fixture("made_four_300I_Duo.txt"),
    )
    assert ids(discovery) == list(range(8))
    assert default_devices(discovery) == [Device("ascend", i) for i in range(8)]
    assert {found.card for found in discovery.devices[:8]} == {0, 96, 32768, 32896}
    with pytest.raises(DeviceSpecError, match="no device ascend:96 here"):
        check_devices_exist([Device("ascend", 96)], discovery)


def test_info_alone_is_enough_if_it_prints_device_ids(tmp_path: Path) -> None:
    failed = OSError("npu-smi info -m failed (exit code 1): unknown option")
    discovery = discover_with(tmp_path, mapping=failed, info=fixture(DUO))
    assert ids(discovery) == [0, 1]
    assert all("info -m failed" in found.note for found in discovery.devices[:2])


def test_the_mapping_alone_is_enough_and_the_note_says_what_is_missing(tmp_path: Path) -> None:
    hung = TimeoutError("npu-smi info did not answer in 10 s")
    discovery = discover_with(tmp_path, mapping=fixture("07_info_-m_910B3.txt"), info=hung)
    assert ids(discovery) == [0, 1]
    assert discovery.devices[0].health is None
    assert discovery.devices[0].note == str(hung)


def test_a_hanging_tool_is_not_run_twice(tmp_path: Path) -> None:
    tools = Tools({"npu-smi info -m": TimeoutError("npu-smi info -m did not answer in 10 s")})
    discovery = discover(tools, {}, tmp_path)
    assert tools.calls[:2] == ["npu-smi info -m", "nvidia-smi"]
    assert discovery.warnings == ["npu-smi info -m did not answer in 10 s"]


def test_missing_ids_are_a_warning(tmp_path: Path) -> None:
    discovery = discover_with(tmp_path, mapping="", info=fixture(B3))
    assert ids(discovery) == []
    assert "npu-smi printed no device ids: +----" in discovery.warnings[0]


def test_device_nodes_are_the_last_source_and_may_have_two_digits(tmp_path: Path) -> None:
    nodes = ["davinci0", "davinci2", "davinci10", "davinci_manager", "davinci", "davinci3x"]
    discovery = discover_with(tmp_path, mapping=OSError(DCMI_FAILURE), info=OSError(DCMI_FAILURE), nodes=nodes)
    assert ids(discovery) == [0, 2, 10]
    assert discovery.devices[2].source == f"{tmp_path}/davinci10"
    assert "dcmi module initialize failed" in discovery.devices[0].note
    check_devices_exist([Device("ascend", 1)], discovery)  # nodes do not prove what is absent


def test_a_missing_npu_smi_is_noted_if_there_are_nodes(tmp_path: Path) -> None:
    discovery = discover_with(tmp_path, nodes=["davinci0"])
    assert ids(discovery) == [0]
    assert discovery.devices[0].note == "npu-smi is not on the PATH"


@pytest.mark.parametrize("text", RUBBISH)
def test_rubbish_is_a_warning_that_quotes_it(text: str, tmp_path: Path) -> None:
    discovery = discover_with(tmp_path, mapping=text, info=text, nvidia=text)
    assert [str(found.device) for found in discovery.devices] == ["cpu:0"]
    npu, gpu = discovery.warnings
    assert npu.startswith("npu-smi printed no device ids: ") and len(npu) < 300
    assert gpu.startswith("nvidia-smi printed no GPUs: ")


def test_bad_health_is_a_warning(tmp_path: Path) -> None:
    discovery = discover_with(tmp_path, mapping="", info=fixture("made_310P3_ill_glued_NA.txt"))
    assert ids(discovery) == [0, 1, 2, 3, 5]
    assert [warning.split(":")[1].split()[-1] for warning in discovery.warnings] == [
        "UNKNOWN",
        "Alarm",
        "Warning",
        "Critical",
    ]


def test_a_chip_listed_twice_is_one_device(tmp_path: Path) -> None:
    twice = fixture(DUO).replace("| 1       1  ", "| 1       0  ")
    discovery = discover_with(tmp_path, mapping="", info=twice)
    assert ids(discovery) == [0]
    assert discovery.devices[0].chip == 0


# --- discover, with visible devices


def test_visible_ascend_devices_are_renumbered_from_0(tmp_path: Path) -> None:
    discovery = discover_with(
        tmp_path,
        mapping=fixture("made_info_-m_four_300I_Duo.txt"),
        info=fixture("made_four_300I_Duo.txt"),
        ASCEND_RT_VISIBLE_DEVICES="3,6",
    )
    assert ids(discovery) == [0, 1]
    assert [found.card for found in discovery.devices[:2]] == [96, 32896]
    assert discovery.devices[1].note == "6 in ASCEND_RT_VISIBLE_DEVICES"
    with pytest.raises(DeviceSpecError, match="only ascend:0, ascend:1"):
        check_devices_exist([Device("ascend", 6)], discovery)


def test_visible_devices_are_used_without_npu_smi(tmp_path: Path) -> None:
    discovery = discover_with(tmp_path, ASCEND_RT_VISIBLE_DEVICES="2,3")
    assert ids(discovery) == [0, 1]
    assert discovery.devices[0].source == "environment"
    with pytest.raises(DeviceSpecError, match="no device ascend:2 here"):
        check_devices_exist([Device("ascend", 2)], discovery)


def test_a_visible_device_that_is_absent_ends_the_list_as_in_cann(tmp_path: Path) -> None:
    discovery = discover_with(tmp_path, mapping="", info=fixture(DUO), ASCEND_RT_VISIBLE_DEVICES="1,3,8")
    assert ids(discovery) == [0]
    assert discovery.warnings == [
        "ASCEND_RT_VISIBLE_DEVICES names ascend '3', which is not on this machine: it and all after it are ignored"
    ]


def test_an_empty_visible_list_counts_as_unset_as_in_cann(tmp_path: Path) -> None:
    discovery = discover_with(tmp_path, mapping="", info=fixture(DUO), ASCEND_RT_VISIBLE_DEVICES="")
    assert ids(discovery) == [0, 1]


def test_a_malformed_visible_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceSpecError, match="ASCEND_RT_VISIBLE_DEVICES is '1,0'"):
        discover_with(tmp_path, ASCEND_RT_VISIBLE_DEVICES="1,0")


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["NVIDIA H200", "NVIDIA A100-SXM4-80GB"]),
        ("0,1", ["NVIDIA H200", "NVIDIA A100-SXM4-80GB"]),
        ("1,0", ["NVIDIA A100-SXM4-80GB", "NVIDIA H200"]),
        ("1", ["NVIDIA A100-SXM4-80GB"]),
        (" 1 ", ["NVIDIA A100-SXM4-80GB"]),
        ("1,-1,0", ["NVIDIA A100-SXM4-80GB"]),
        ("0,9,1", ["NVIDIA H200"]),
        ("GPU-8932f937-d72c,0", [None, "NVIDIA H200"]),
        ("MIG-8932f937-d72c", [None]),
        ("", []),
        ("-1", []),
        ("none", []),
    ],
)
def test_visible_gpus_are_renumbered_from_0(visible: str | None, names: list[str | None], tmp_path: Path) -> None:
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    discovery = discover_with(tmp_path, nvidia=TWO_GPUS, **environ)
    assert ids(discovery, "gpu") == list(range(len(names)))
    assert [found.name for found in discovery.devices[:-1]] == names
    with pytest.raises(DeviceSpecError, match="no device gpu:2 here"):
        check_devices_exist([Device("gpu", 2)], discovery)


@pytest.mark.parametrize("visible", ["", " ", "-1"])
def test_hidden_gpus_are_absent_even_without_nvidia_smi(visible: str, tmp_path: Path) -> None:
    discovery = discover_with(tmp_path, CUDA_VISIBLE_DEVICES=visible)
    assert discovery.warnings == [f"CUDA_VISIBLE_DEVICES={visible!r} hides all GPUs"]
    with pytest.raises(DeviceSpecError, match="this process shows no gpu"):
        check_devices_exist([Device("gpu", 0)], discovery)


def test_a_uuid_is_kept_in_the_note(tmp_path: Path) -> None:
    discovery = discover_with(tmp_path, nvidia=TWO_GPUS, CUDA_VISIBLE_DEVICES="GPU-8932f937")
    assert discovery.devices[0].note == "GPU-8932f937 in CUDA_VISIBLE_DEVICES"


def test_a_failing_nvidia_smi_is_a_warning(tmp_path: Path) -> None:
    failed = OSError("nvidia-smi failed (exit code 9): no driver")
    discovery = discover_with(tmp_path, nvidia=failed)
    assert discovery.warnings == [str(failed)]
    check_devices_exist([Device("gpu", 0)], discovery)


# --- real processes


def fake_tool(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(exist_ok=True)
    tool = folder / name
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_real_tool_is_run_in_the_c_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    script = f'[ "$LC_ALL" = C ] && [ "$*" = info ] && cat "{FIXTURES / DUO}"'
    fake_tool(tmp_path / "bin", "npu-smi", script, monkeypatch)
    fake_tool(tmp_path / "bin", "nvidia-smi", f"printf '{TWO_GPUS}'", monkeypatch)
    discovery = discover(environ={}, dev_dir=tmp_path)
    assert ids(discovery) == [0, 1]
    assert ids(discovery, "gpu") == [0, 1]


@pytest.mark.timeout(20)
def test_a_hanging_tool_and_its_children_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 600 &\necho $$ $! > '{pids}'\nwait"
    fake_tool(tmp_path / "bin", "npu-smi", script, monkeypatch)
    start = time.monotonic()
    discovery = discover(partial(run_tool, timeout_s=1.0), {}, tmp_path)
    assert time.monotonic() - start < 10
    assert discovery.warnings == ["npu-smi info -m did not answer in 1 s"]
    for pid in pids.read_text().split():
        wait_until_dead(int(pid))


def wait_until_dead(pid: int) -> None:
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([watch], [], [], 5)[0], f"process {pid} is still there"
    finally:
        os.close(watch)


FAILURES = {  # id -> (the tool's script, the warning)
    "fails": (f"echo '{DCMI_FAILURE}'; exit 255", r"info -m failed \(exit code 255\): Drv.*-8005"),
    "fails on stderr": ("echo broken >&2; exit 3", r"failed \(exit code 3\): broken"),
    "fails silently": ("exit 1", r"failed \(exit code 1\): it printed nothing"),
    "is killed": ("kill -9 $$", r"failed \(exit code -9\)"),
    "complains but exits 0": (f"echo '{DCMI_FAILURE}'", "printed no device ids: .*dcmi module"),
    "prints bytes that are not text": (r"printf '\377\376\000|'", "printed no device ids"),
    "prints megabytes": ("head -c 3000000 /dev/zero", "printed no device ids"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("script", "warning"), FAILURES.values(), ids=FAILURES.keys())
def test_a_tool_that_fails_is_a_warning_and_the_nodes_are_used(
    script: str, warning: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tool(tmp_path / "bin", "npu-smi", script, monkeypatch)
    without = discover(environ={}, dev_dir=tmp_path)
    assert ids(without) == []
    assert re.search(warning, without.warnings[0])
    (tmp_path / "davinci0").touch()
    assert ids(discover(environ={}, dev_dir=tmp_path)) == [0]


def test_missing_tools_are_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert discover(environ={}, dev_dir=tmp_path).warnings == []
    with pytest.raises(FileNotFoundError, match="npu-smi is not on the PATH"):
        run_tool(["npu-smi", "info"])


def test_a_tool_that_is_not_executable_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_tool(tmp_path / "bin", "npu-smi", "", monkeypatch)
    (tmp_path / "bin" / "npu-smi").chmod(0o644)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert "Permission denied" in discover(environ={}, dev_dir=tmp_path).warnings[0]


def test_no_vendor_library_is_imported() -> None:
    code = (
        "import sys, ascend_parallel.devices.discovery as d; d.discover();"
        "sys.exit(bool({'acl', 'torch', 'torch_npu', 'mindspore_lite'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

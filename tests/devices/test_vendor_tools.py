"""The devices that only Paddle's libraries run on. The outputs are written by hand after those in public documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ascend_parallel.devices import PADDLE_TYPES, Device, check_devices_exist, default_devices, parse_devices
from ascend_parallel.devices.discovery import discover
from ascend_parallel.devices.vendor_tools import VENDOR_TOOLS
from ascend_parallel.errors import DeviceSpecError

CNMON = """\
+------------------------------------------------------------------------------+
| CNMON v5.10.13                                               Driver v5.10.13 |
+-------------------------------+----------------------+-----------------------+
| Card  VF  Name       Firmware |               Bus-Id | Util        Ecc-Error |
| Fan   Temp      Pwr:Usage/Cap |         Memory-Usage | SR-IOV   Compute-Mode |
|===============================+======================+=======================|
| 0     /   MLU370-X8    v1.1.6 |         0000:39:00.0 | 0%                N/A |
|  0%   32C        106 W/ 250 W |     0 MiB/ 23374 MiB | N/A           Default |
+-------------------------------+----------------------+-----------------------+
| 1     /   MLU370-X8    v1.1.6 |         0000:3D:00.0 | 0%                N/A |
|  0%   39C        106 W/ 250 W |    12 MiB/ 23374 MiB | N/A           Default |
+-------------------------------+----------------------+-----------------------+
"""
EFSMI = """\
+2024-12-06, 11:33:56 CST--------------------------------------------------+
|EFSMI    V1.2.0.301       Driver Ver: 1.2.0.301                           |
|--------------------------------------------------------------------------|
| DEV    NAME                | FW VER          | BUS-ID      ECC           |
| TEMP   Dpm   Pwr(Usage/Cap)| Mem     GCU Virt| DUsed       SN            |
|--------------------------------------------------------------------------|
| 0      S60                 | 33.6.2          | 00:01:00.0  Disable       |
| 39 C   Sleep    105W  300W | 49120MiB Disable|   0.0%      A073640510015 |
|--------------------------------------------------------------------------|
| 1      Enflame S60G        | 33.6.2          | 00:2e:00.0  Disable       |
| 34     LP0      N/A        | 23552MiB  SRIOV |   0%        A018K30520031 |
+--------------------------------------------------------------------------+
"""
HY_SMI = """\
{"card0": {"Card Series": "K100_AI", "Card Vendor": "Chengdu Haiguang IC Design Co., Ltd."
"card1": {"Card Series": "K100_AI"}}
"""
IXSMI = "0, Iluvatar MR-V50, 116, 16384\n1, Iluvatar MR-V100, 27996, 32768\n"
MX_SMI = """\
mx-smi  version: 2.1.9
GPU#0    MXC500    0000:06:00.0    Available (UUID: GPU-a)
GPU#1    MXC600-AL    0000:0f:00.0    Available (UUID: GPU-b)
"""
XPU_SMI = "\n".join(
    f"0000:{bus}:00.0 {number} " + " ".join(["0"] * 15) + f" {used} 32768 0 " + " ".join(["0"] * 12)
    for number, bus, used in ((0, "53", 0), (1, "56", 1024))
)

# type -> the command's first words, its output, and (id, name, used MiB, total MiB, bus id) of its devices
CASES = {
    "xpu": ("xpu_smi -m", XPU_SMI, [(0, None, 0, 32768, None), (1, None, 1024, 32768, None)]),
    "mlu": (
        "cnmon",
        CNMON,
        [(0, "MLU370-X8", 0, 23374, "0000:39:00.0"), (1, "MLU370-X8", 12, 23374, "0000:3D:00.0")],
    ),
    "gcu": ("efsmi", EFSMI, [(0, "S60", None, 49120, "00:01:00.0"), (1, "Enflame S60G", None, 23552, "00:2e:00.0")]),
    "dcu": ("hy-smi", HY_SMI, [(0, "K100_AI", None, None, None), (1, "K100_AI", None, None, None)]),
    "iluvatar_gpu": (
        "ixsmi",
        IXSMI,
        [(0, "Iluvatar MR-V50", 116, 16384, None), (1, "Iluvatar MR-V100", 27996, 32768, None)],
    ),
    "metax_gpu": (
        "mx-smi -L",
        MX_SMI,
        [(0, "MXC500", None, None, "0000:06:00.0"), (1, "MXC600-AL", None, None, "0000:0f:00.0")],
    ),
}


class OneTool:
    """Stands for run_tool on a machine that has one tool."""

    def __init__(self, words: str, output: str | OSError) -> None:
        self.words, self.output = words, output

    def __call__(self, command: Sequence[str]) -> str:
        if not " ".join(command).startswith(self.words):
            raise FileNotFoundError(f"{command[0]} is not on the PATH")
        if isinstance(self.output, OSError):
            raise self.output
        return self.output


def test_each_type_has_a_tool_and_a_case() -> None:
    assert tuple(VENDOR_TOOLS) == PADDLE_TYPES == tuple(CASES)


@pytest.mark.parametrize("kind", CASES)
def test_devices_are_listed_and_are_the_default(kind: str, tmp_path: Path) -> None:
    words, output, expected = CASES[kind]
    discovery = discover(OneTool(words, output), {}, tmp_path)
    found = discovery.devices[:-1]
    assert [
        (each.device.id, each.name, each.memory_used_mb, each.memory_total_mb, each.bus_id) for each in found
    ] == expected
    assert {each.device.type for each in found} == {kind}
    assert default_devices(discovery) == [Device(kind, 0), Device(kind, 1)] == parse_devices(f"{kind}:0,1")
    with pytest.raises(DeviceSpecError, match=f"there is no device {kind}:7 here"):
        check_devices_exist([Device(kind, 7)], discovery)


def test_the_variable_of_a_type_renumbers_its_devices(tmp_path: Path) -> None:
    discovery = discover(OneTool("cnmon", CNMON), {"MLU_VISIBLE_DEVICES": "1"}, tmp_path)
    assert [(each.device, each.bus_id) for each in discovery.devices[:-1]] == [(Device("mlu", 0), "0000:3D:00.0")]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("cannot open the driver", "efsmi printed no devices that are known here: cannot open"),
        (TimeoutError("hung"), "hung"),
    ],
)
def test_a_tool_that_is_not_understood_is_a_warning_and_its_devices_may_be_named(
    output: str | OSError, words: str, tmp_path: Path
) -> None:
    discovery = discover(OneTool("efsmi", output), {}, tmp_path)
    assert discovery.warnings[0].startswith(words)
    check_devices_exist([Device("gcu", 3)], discovery)


def test_without_tools_devices_may_be_named(tmp_path: Path) -> None:
    discovery = discover(OneTool("nothing", ""), {}, tmp_path)
    assert discovery.warnings == []
    check_devices_exist([Device(kind, 3) for kind in PADDLE_TYPES], discovery)

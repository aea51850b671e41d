"""Machines for the doctor: a root folder with what an Atlas 300I Duo's host has, and tools on the PATH."""

import os
import sys
from pathlib import Path

from ascend_parallel.doctor.host import Host
from ascend_parallel.doctor.trial import MODELS

STANDINS = Path(__file__).parent / "standins"
DUO = Path(__file__).parents[1] / "devices/fixtures/npu-smi/01_300I_Duo_1card_2chips_npu-smi-25.2.0.txt"
NOBODY = 65534

DRIVER = """\
Version=24.1.rc3
ascendhal_version=7.35.23
compatible_version_fw=[7.0.0,7.5.99]
package_version=24.1.rc3
"""
FIRMWARE = "Version=7.5.0.1.129\nfirmware_version=1.0\npackage_version=24.1.rc3\n"
RUNTIME = 'Version=7.6.0.1.220\nversion_dir=8.0.0\nrequired_driver_ascendhal_version="4.0.0"\n'
HOME = "/usr/local/Ascend/ascend-toolkit/latest"
MEMORY = "MemTotal: 64000000 kB\nMemAvailable:   32000000 kB\n"


def write(root, path, text=""):
    """Write a file below a root."""
    target = Path(root) / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    return target


def remove(root, path):
    """Remove a file below a root."""
    (Path(root) / path.lstrip("/")).unlink()


def tool(folder, name, script):
    """Write a shell script; return its path."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def duo_root(root):
    """Fill a root with what a host of one Duo has, all of it right."""
    for name in ("davinci0", "davinci1", "davinci_manager", "devmm_svm", "hisi_hdc"):
        write(root, f"/dev/{name}").chmod(0o660)
    write(root, "/proc/meminfo", MEMORY)
    write(root, "/usr/local/Ascend/driver/version.info", DRIVER)
    write(root, "/usr/local/Ascend/firmware/version.info", FIRMWARE)
    write(root, "/usr/local/Ascend/driver/lib64/libascend_hal.so")
    write(root, "/usr/local/Ascend/ascend-toolkit/set_env.sh")
    write(root, f"{HOME}/runtime/version.info", RUNTIME)
    write(root, f"{HOME}/lib64/libascendcl.so")
    write(root, f"{HOME}/opp/version.info")
    write(root, "/sys/bus/pci/devices/0000:01:00.0/numa_node", "0\n")
    write(root, "/sys/devices/system/node/node0/cpulist", "0-255\n")
    return root


def duo_host(root, **changes):
    """Return the machine of a root, as a user in the files' group sees it."""
    environ = {"ASCEND_HOME_PATH": HOME, "LD_LIBRARY_PATH": f"/elsewhere:{HOME}/lib64"}
    groups = frozenset([os.getgid()])
    settings = {"root": root, "environ": environ, "uid": NOBODY, "groups": groups, "tool_timeout_s": 20.0}
    return Host(**{**settings, **changes})


def use_npu_smi(monkeypatch, folder, script=f"cat {DUO}"):
    """Put an npu-smi on the PATH."""
    tool(folder, "npu-smi", f'[ "$2" = -m ] && exit 0\n{script}')
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def use_mindspore_lite(monkeypatch, fault=""):
    """Let workers find the stand-in of MindSpore Lite."""
    monkeypatch.setenv("PYTHONPATH", f"{STANDINS}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("DOCTOR_MODELS", str(MODELS))
    monkeypatch.setenv("STANDIN_FAULT", fault)


def module(folder, name, text):
    """Write a module that hides the one of its name."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(text)
    return folder


def worker_python(folder, script):
    """Write an interpreter of its own kind."""
    return tool(folder, "python", f"PYTHON={sys.executable}\n{script}")


def numpy_2(python):
    """Return the folder with numpy 2 beside the Python of onnxruntime-cann."""
    folder = Path(python).parents[1] / "numpy2"
    assert (folder / "numpy").is_dir(), "make cann puts it there"
    return folder

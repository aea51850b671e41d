"""Each check of the layers that only look, right on a healthy host and broken once on purpose."""

import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ascend_parallel.doctor import cann, container, driver, kernel, nodes, pythons, runtimes, surroundings
from ascend_parallel.doctor.context import Context
from ascend_parallel.doctor.host import Host, compare_versions

from . import machines
from .machines import HOME, write


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A healthy host with a Duo: its root folder."""
    machines.use_npu_smi(monkeypatch, tmp_path / "bin")
    for name in ("ASCEND_RT_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return machines.duo_root(tmp_path / "root")


def examine(module, host, devices="ascend:0,1", **options):
    return {finding.check: finding for finding in module.check(Context(host, devices, **options))}


def states(findings):
    return {finding.state for finding in findings.values()}


# ---- a healthy host


@pytest.mark.parametrize("module", [driver, nodes, cann, surroundings, container], ids=lambda module: module.TITLE)
def test_a_healthy_host_has_nothing_to_do(root, module):
    findings = examine(module, machines.duo_host(root))
    assert states(findings) <= {"ok"}, findings
    assert not any(finding.advice for finding in findings.values())


def test_what_a_healthy_host_shows(root):
    host = machines.duo_host(root)
    found = {**examine(driver, host), **examine(cann, host), **examine(surroundings, host)}
    assert found["npu-smi"].seen == "2 devices: 310P3"
    assert found["driver"].seen == "24.1.rc3"
    assert found["firmware"].seen == "7.5.0.1.129 (release 24.1.rc3), which the driver names as compatible"
    assert found["ascend:0"].seen == "310P3, 1529 of 44280 MB used, health OK"
    assert found["version"].seen == "8.0.0; the driver's ascendhal 7.35.23 is enough"
    assert found["ascend:1, NUMA"].seen == "node 0"


def test_a_host_without_ascend_is_not_asked_about_it(tmp_path):
    for module in (driver, nodes, cann, container):
        assert not examine(module, Host(root=tmp_path), devices="cpu:0")


# ---- each check broken once


def _set(**environ):
    return lambda root, host: {"environ": {**host.environ, **environ}}


def _unset(name):
    return lambda root, host: {"environ": {key: value for key, value in host.environ.items() if key != name}}


def _remove(path):
    return lambda root, host: machines.remove(root, path) or {}


def _write(path, text=""):
    return lambda root, host: (write(root, path, text), {})[1]


def _both(*breaks):
    def run(root, host):
        changes = {}
        for one in breaks:
            changes |= one(root, host)
        return changes

    return run


IN_CONTAINER = _write("/.dockerenv")

#: What is broken -> how, the layer, the check, its state, what it shows, what it advises.
FAULTS = {
    "a device's file": (_remove("/dev/davinci1"), nodes, "/dev/davinci1", "failure", "not there", "dmesg"),
    "a device's file in a container": (
        _both(IN_CONTAINER, _remove("/dev/davinci0")),
        nodes,
        "/dev/davinci0",
        "failure",
        "not there",
        "start the container with --device=/dev/davinci0",
    ),
    "the manager": (_remove("/dev/davinci_manager"), nodes, "/dev/davinci_manager", "failure", "not there", "driver"),
    "memory of the device": (_remove("/dev/devmm_svm"), nodes, "/dev/devmm_svm", "failure", "not there", "driver"),
    "host to device": (_remove("/dev/hisi_hdc"), nodes, "/dev/hisi_hdc", "failure", "not there", "driver"),
    "the group": (
        lambda root, host: {"groups": frozenset([NOBODY_GROUP])},
        nodes,
        "/dev/davinci0",
        "failure",
        "this user may not open it (group ",
        "sudo usermod -aG ",
    ),
    "the mode": (
        lambda root, host: (root / "dev/hisi_hdc").chmod(0o600) or {},
        nodes,
        "/dev/hisi_hdc",
        "failure",
        "mode 600",
        "usermod",
    ),
    "the driver": (
        _remove("/usr/local/Ascend/driver/version.info"),
        driver,
        "driver",
        "failure",
        "there is no /usr/local/Ascend/driver/version.info",
        "install the driver",
    ),
    "no firmware": (_remove("/usr/local/Ascend/firmware/version.info"), driver, "firmware", "warning", "no", "install"),
    "an old firmware": (
        _write("/usr/local/Ascend/firmware/version.info", "Version=6.4.12.1.241\npackage_version=23.0.1\n"),
        driver,
        "firmware",
        "failure",
        "6.4.12.1.241 (release 23.0.1); the driver 24.1.rc3 works with 7.0.0 to 7.5.99",
        "install the driver and the firmware of one release",
    ),
    "a mount": (
        _both(IN_CONTAINER, lambda root, host: _remove_tree(root / "usr/local/Ascend/driver/lib64")),
        container,
        "/usr/local/Ascend/driver",
        "failure",
        "there is no /usr/local/Ascend/driver/lib64",
        "-v /usr/local/Ascend/driver:/usr/local/Ascend/driver",
    ),
    "a lesser mount": (IN_CONTAINER, container, "/usr/local/dcmi", "warning", "there is no", "-v /usr/local/dcmi:"),
    "set_env.sh not sourced": (
        _unset("ASCEND_HOME_PATH"),
        cann,
        "ASCEND_HOME_PATH",
        "failure",
        "set_env.sh was not sourced",
        "source /usr/local/Ascend/ascend-toolkit/set_env.sh",
    ),
    "a home that is gone": (
        _set(ASCEND_HOME_PATH="/opt/gone"),
        cann,
        "ASCEND_HOME_PATH",
        "failure",
        "there is no /opt/gone",
        "source",
    ),
    "no version": (_remove(f"{HOME}/runtime/version.info"), cann, "version", "warning", "no version.info", "install"),
    "a driver too old for CANN": (
        _write(f"{HOME}/runtime/version.info", "version_dir=9.0.0\nrequired_driver_ascendhal_version=8.0.0\n"),
        cann,
        "version",
        "failure",
        "9.0.0, which requires ascendhal 8.0.0; the driver 24.1.rc3 has 7.35.23",
        "install a newer driver",
    ),
    "no operators": (
        lambda root, host: _remove_tree(root / HOME.lstrip("/") / "opp"),
        cann,
        "operators (opp)",
        "failure",
        "there is no ",
        "Ascend-cann-kernels",
    ),
    "no libascendcl": (
        _remove(f"{HOME}/lib64/libascendcl.so"),
        cann,
        "libascendcl.so",
        "failure",
        "no folder of LD_LIBRARY_PATH has it",
        "source",
    ),
    "no libascend_hal": (
        _remove("/usr/local/Ascend/driver/lib64/libascend_hal.so"),
        cann,
        "libascend_hal.so",
        "failure",
        "have it",
        "mount /usr/local/Ascend/driver",
    ),
    "visible devices": (
        _set(ASCEND_RT_VISIBLE_DEVICES="1,0"),
        surroundings,
        "ASCEND_RT_VISIBLE_DEVICES",
        "failure",
        "CANN ignores a part of '1,0'",
        "ascending ids",
    ),
    "threads": (
        _set(OMP_NUM_THREADS="512"),
        surroundings,
        "threads",
        "warning",
        "OMP_NUM_THREADS=512: 2 workers on",
        "unset OMP_NUM_THREADS",
    ),
    "another NUMA node": (
        _write("/sys/devices/system/node/node0/cpulist", "4000-4003,4010"),
        surroundings,
        "ascend:0, NUMA",
        "warning",
        "it is on node 0, and this process may use no core of it",
        "numactl --cpunodebind=0",
    ),
    "memory": (
        _write("/proc/meminfo", "MemAvailable: 200000 kB"),
        kernel,
        "memory",
        "warning",
        "0.2 GiB available",
        "free memory",
    ),
    "a container's memory": (
        _both(_write("/sys/fs/cgroup/memory.max", "2147483648"), _write("/sys/fs/cgroup/memory.current", "2040109465")),
        kernel,
        "memory",
        "warning",
        "the container may take 2.0 GiB and has 1.9",
        "docker run --memory",
    ),
    "a container's memory, cgroup 1": (
        _both(
            _write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824"),
            _write("/sys/fs/cgroup/memory/memory.usage_in_bytes", "536870912"),
        ),
        kernel,
        "memory",
        "warning",
        "the container may take 1.0 GiB and has 0.5",
        "docker run --memory",
    ),
    "processes": (_write("/sys/fs/cgroup/pids.max", "100"), kernel, "processes", "warning", "at most 100", "pids"),
}
NOBODY_GROUP = 65533


def _remove_tree(folder):
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink()
    folder.rmdir()
    return {}


@pytest.mark.parametrize(("spoil", "module", "check", "state", "seen", "advice"), FAULTS.values(), ids=FAULTS)
def test_a_broken_host(root, spoil, module, check, state, seen, advice):
    healthy = machines.duo_host(root)
    host = machines.duo_host(root, **spoil(root, healthy))
    finding = examine(module, host)[check]
    assert (finding.state, seen in finding.seen, advice in finding.advice) == (state, True, True), finding
    assert "\n" not in finding.seen


#: What npu-smi does -> what it says, and what is to be done.
TOOLS = {
    "hangs": ("sleep 1000", "npu-smi info did not answer in 0.3 s", "restart the host"),
    "fails": ("echo dcmi module initialize failed. ret is -8005; exit 1", "dcmi module initialize failed", "by hand"),
    "prints rubbish": ("echo hello", "npu-smi printed no device ids", "by hand"),
    "crashes": ("kill -SEGV $$", "npu-smi info failed (exit code -11)", "by hand"),
}


@pytest.mark.parametrize(("script", "seen", "advice"), TOOLS.values(), ids=TOOLS)
def test_a_broken_npu_smi(root, tmp_path, monkeypatch, script, seen, advice):
    machines.use_npu_smi(monkeypatch, tmp_path / "broken", script)
    finding = examine(driver, machines.duo_host(root, tool_timeout_s=0.3 if "sleep" in script else 20.0))["npu-smi"]
    assert finding.state == "failure"
    assert seen in finding.seen and advice in finding.advice, finding


def test_no_npu_smi(root, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    finding = examine(driver, machines.duo_host(root))["npu-smi"]
    assert (finding.state, finding.seen) == ("warning", "npu-smi is not on the PATH")
    write(root, "/.dockerenv")
    assert "-v /usr/local/bin/npu-smi:" in examine(driver, machines.duo_host(root))["npu-smi"].advice


def test_an_ill_device_and_a_full_one(root, tmp_path, monkeypatch):
    ill = machines.DUO.read_text().replace("| OK              | NA           51", "| Alarm           | NA           51")
    ill = ill.replace(" 1411 / 43693", "43000 / 43693")
    (tmp_path / "ill.txt").write_text(ill)
    machines.use_npu_smi(monkeypatch, tmp_path / "ill", f"cat {tmp_path / 'ill.txt'}")
    found = examine(driver, machines.duo_host(root))
    assert found["ascend:0"].state == "warning" and "health Alarm" in found["ascend:0"].seen
    assert found["ascend:1"].state == "warning" and "43000 of 43693 MB used" in found["ascend:1"].seen


def test_a_device_that_is_not_there(root):
    finding = examine(driver, machines.duo_host(root), devices="ascend:5")["ascend:5"]
    assert finding.state == "failure" and "there is no device ascend:5" in finding.seen


def test_visible_devices_tell_the_device_files(root):
    host = machines.duo_host(root, environ={"ASCEND_RT_VISIBLE_DEVICES": "1"})
    assert "/dev/davinci1" in examine(nodes, host, devices="ascend:0")


# ---- GPUs


def test_gpus(root, tmp_path, monkeypatch):
    script = 'case "$1" in *driver*) echo 570.1;; *) echo "0, NVIDIA H100, 10, 81559, 00000000:18:00.0";; esac'
    machines.tool(tmp_path / "bin", "nvidia-smi", script)
    for name in ("nvidia0", "nvidiactl"):
        write(root, f"/dev/{name}").chmod(0o666)
    host = Host(root=root, environ={}, uid=machines.NOBODY)
    assert examine(driver, host, "gpu:0")["nvidia-smi"].seen == "driver 570.1, 1 GPUs"
    found = examine(nodes, host, "gpu:0")
    assert found["/dev/nvidia0"].state == "ok"
    assert found["/dev/nvidia-uvm"].state == "failure" and "grep -i nvidia" in found["/dev/nvidia-uvm"].advice
    hidden = examine(surroundings, Host(root=root, environ={"CUDA_VISIBLE_DEVICES": ""}), "gpu:0")
    assert hidden["CUDA_VISIBLE_DEVICES"].advice == "unset it"


def test_no_nvidia_smi(root, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    finding = examine(driver, Host(root=root, environ={}), "gpu:0")["nvidia-smi"]
    assert finding.state == "failure" and "--gpus all" in finding.advice


# ---- Python, numpy and engines


def test_this_python(tmp_path):
    found = examine(pythons, Host(root=tmp_path), "cpu:0")
    assert states(found) == {"ok"}
    assert found["Python here"].seen.startswith(platform.python_version())


#: The workers' interpreter, as a script -> the check, what it shows, what it advises.
PYTHONS = {
    "too old": (
        """echo '{"python": "3.6.9"}'; echo '{"numpy": "1.21.0"}'""",
        "workers' Python",
        "3.6.9 in ",
        "use Python 3.7 or newer",
    ),
    "no Python": ("exit 3", "workers' Python", "ended with exit code 3", "name a Python 3.7 or newer"),
    "hangs": ("exec sleep 1000", "workers' Python", "did not end in 0.5 s", "--worker-python"),
    "old numpy": (
        """echo '{"python": "3.7.1"}'; echo '{"numpy": "1.19.5"}'""",
        "workers' numpy",
        "1.19.5; expected 1.21 or newer",
        "-m pip install 'numpy>=1.21'",
    ),
}


@pytest.mark.parametrize(("script", "check", "seen", "advice"), PYTHONS.values(), ids=PYTHONS)
def test_a_worker_s_python_that_does_not_do(tmp_path, script, check, seen, advice):
    python = machines.worker_python(tmp_path / "bin", script)
    timeout_s = 0.5 if "sleep" in script else 30.0
    context = Context(Host(root=tmp_path), "cpu:0", python, timeout_s)
    found = {f.check: f for f in pythons.check_interpreter("workers' Python", context.python, "3.7", timeout_s)}
    assert found[check].state == "failure"
    assert seen in found[check].seen and advice in found[check].advice, found[check]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (
            "raise ImportError('libopenblas.so.0: cannot open shared object file')",
            "cannot be imported: ImportError: libope",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "it cannot be imported"),
    ],
    ids=["missing library", "crash"],
)
def test_a_numpy_that_cannot_be_imported(tmp_path, monkeypatch, text, seen):
    monkeypatch.setenv("PYTHONPATH", str(machines.module(tmp_path / "m", "numpy", text)))
    found = {f.check: f for f in pythons.check_interpreter("workers' Python", sys.executable, "3.7", 30.0)}
    assert found["workers' Python"].state == "ok"
    assert found["workers' numpy"].state == "failure" and seen in found["workers' numpy"].seen, found


#: What onnxruntime's import does -> what is shown, what is advised.
RUNTIMES = {
    "crash": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "its import ended with SIGSEGV", "install it"),
    "library": (
        "raise ImportError('libcudart.so.12: cannot open shared object file: No such file or directory')",
        "libcudart.so.12",
        "LD_LIBRARY_PATH",
    ),
    "hang": ("import time; time.sleep(1000)", "its import did not end in", "by hand"),
    "not for this numpy": ("raise ImportError('numpy.core.multiarray failed to import')", "numpy<2", "'numpy<2'"),
}


@pytest.mark.parametrize(("text", "seen", "advice"), RUNTIMES.values(), ids=RUNTIMES)
def test_a_runtime_that_cannot_be_imported(tmp_path, monkeypatch, text, seen, advice):
    monkeypatch.setenv(
        "PYTHONPATH", f"{machines.module(tmp_path / 'm', 'onnxruntime', text)}:{os.environ.get('PYTHONPATH', '')}"
    )
    timeout_s = 2.0 if "sleep" in text else 30.0
    finding = examine(runtimes, Host(root=tmp_path), "cpu:0", timeout_s=timeout_s)["onnxruntime"]
    assert finding.state == "failure"
    assert seen in finding.seen and advice in finding.advice, finding


def test_a_provider_that_is_not_there(root):
    finding = examine(runtimes, machines.duo_host(root))["onnxruntime"]
    assert finding.state == "warning"
    assert "it has no provider for ascend" in finding.seen and "onnxruntime-cann" in finding.advice


# ---- kernel and limits


def test_this_kernel(tmp_path):
    write(tmp_path, "/proc/meminfo", machines.MEMORY)
    assert states(examine(kernel, Host(root=tmp_path), "cpu:0")) == {"ok"}


def test_few_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        finding = kernel.check_descriptors()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert finding.state == "warning" and f"ulimit -n {hard}" in finding.advice


def run_in(before, code, **environ):
    """Run Python code after shell commands, in a mount namespace of its own."""
    script = f'set -e\n{before}\nexec "$0" -c "$1"'
    for isolation in (["unshare", "-m"], ["unshare", "-rm"]):
        done = subprocess.run(
            [*isolation, "sh", "-c", script, sys.executable, code],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **environ},
        )
        if not re.search(r"unshare failed|permission denied|not permitted", done.stderr, re.IGNORECASE):
            return done.stdout + done.stderr
    pytest.skip(f"no file system can be mounted here: {done.stderr}")


def test_a_full_disk():
    folder = tempfile.mkdtemp()
    try:
        output = run_in(
            f"mount -t tmpfs -o size=64k full {folder}",
            "from ascend_parallel.doctor import kernel; print(kernel.check_temporary_files())",
            TMPDIR=folder,
        )
    finally:
        Path(folder).rmdir()
    assert "state='failure'" in output and "No space left on device" in output and "set TMPDIR" in output, output


def test_versions_are_compared_by_number():
    assert compare_versions("7.5.0.1.129", "7.35.0") < 0
    assert compare_versions("24.1.rc3", "24.1.0") < 0
    assert compare_versions("3.10", "3.7") > 0
    assert compare_versions("1.21.6", "1.21.6") == 0

"""The work: a tiny model on each device alone and on all together, with real engines and with a Duo's stand-in."""

import shutil
import subprocess
import sys

import models
import numpy as np
import onnx
import pytest
from faults import procs
from onnx.reference import ReferenceEvaluator

from ascend_parallel.doctor import examine as examination
from ascend_parallel.doctor import speed, trial, work
from ascend_parallel.doctor.context import Context
from ascend_parallel.doctor.finding import Layer, failure, ok
from ascend_parallel.doctor.host import Host

from . import machines


@pytest.fixture(autouse=True)
def _short_measurements(monkeypatch):
    monkeypatch.setattr(trial, "MEASURE_S", 0.05)


@pytest.fixture
def duo(tmp_path, monkeypatch):
    """Return a function that examines the work of a Duo with a fault."""
    machines.use_npu_smi(monkeypatch, tmp_path / "bin")
    monkeypatch.delenv("ASCEND_RT_VISIBLE_DEVICES", raising=False)

    def examine(fault="", timeout_s=60.0):
        machines.use_mindspore_lite(monkeypatch, fault)
        if fault:
            monkeypatch.setattr(speed, "check", lambda _: [])
        context = Context(machines.duo_host(machines.duo_root(tmp_path / "root")), "ascend:0,1", None, timeout_s)
        return {layer.title: {f.check: f for f in layer.findings} for layer in examination.examine(context)}

    return examine


def test_the_stored_results_are_those_of_the_stored_model():
    model = onnx.load(trial.FILES[".onnx"])
    with np.load(trial.MODELS / "tiny.npz") as stored:
        computed = [ReferenceEvaluator(model).run(None, {"x": row[np.newaxis]})[0] for row in stored["x"]]
        np.testing.assert_allclose(np.concatenate(computed), stored["y"], atol=1e-6)
        distances = np.abs(stored["y"][:, np.newaxis] - stored["y"]).max(-1) + np.eye(len(stored["y"]))
        assert distances.min() > trial.TOLERANCE * 10, "rows that change places are noticed"


def test_a_healthy_duo_works(duo, leaves_nothing):
    found = duo()
    assert found["Verdict"]["verdict"].seen == "ascend:0, ascend:1 work with mslite"
    assert list(found["Work"]) == ["ascend:0, mslite", "ascend:1, mslite", "ascend:0 + ascend:1, mslite"]
    assert {finding.state for finding in found["Work"].values()} == {"ok"}
    assert found["Conversion and transport"]["conversion for ascend"].state == "ok"
    states = {f.state for title, layer in found.items() if title != "Engines" for f in layer.values()}
    assert states == {"ok"}, found


#: What goes wrong on which device -> the check, what it shows, what it advises, the verdict.
FAULTS = {
    "busy": ("busy:1", "ascend:1, mslite", "507033", "end the processes that use the device", "ascend:1 does not work"),
    "gone": ("gone:0", "ascend:0, mslite", "died while building (exit code 1)", "last lines", "ascend:0 does not work"),
    "wrong": ("wrong:1", "ascend:1, mslite", "wrong numbers: they differ by", "do not use", "ascend:1 does not work"),
    "hangs": (
        "hang:0",
        "ascend:0, mslite",
        "did not build its model in 4 s",
        "restart the host",
        "ascend:0 does not work",
    ),
}


@pytest.mark.parametrize(("fault", "check", "seen", "advice", "verdict"), FAULTS.values(), ids=FAULTS)
def test_a_device_that_does_not_work(duo, leaves_nothing, fault, check, seen, advice, verdict):
    found = duo(fault, timeout_s=4.0 if "hang" in fault else 60.0)
    finding = found["Work"][check]
    assert finding.state == "failure"
    assert seen in finding.seen and advice in finding.advice, finding
    other = "ascend:0, mslite" if "1" in check else "ascend:1, mslite"
    assert found["Work"][other].state == "ok", "the other one is examined all the same"
    assert found["Verdict"]["verdict"].seen == verdict


def test_a_runtime_that_crashes_on_import(duo, leaves_nothing):
    found = duo("import-crash")
    assert "its import ended with SIGSEGV" in found["Engines"]["mslite"].seen
    assert "no engine that is here runs models on ascend devices" in found["Work"]["ascend"].seen
    verdict = found["Verdict"]["verdict"]
    assert verdict.state == "failure" and verdict.advice.startswith("begin with mslite: install it again"), verdict


def test_a_device_that_hung_is_not_tried_again(monkeypatch):
    tried = []

    def run_trial(one, devices, timeout_s):
        tried.append((one.name, str(devices[0])))
        return trial.Outcome(error="did not answer", hangs=True) if devices[0].id else trial.Outcome()

    monkeypatch.setattr(work, "run_trial", run_trial)
    monkeypatch.setattr(work, "trials_on", lambda *_: [trial.Trial(n, "", "python", trial.MODELS) for n in ("a", "b")])
    work_ = work.Work(Context(Host(), "cpu:0,1"))
    findings = list(work_.check())
    assert tried == [("a", "cpu:0"), ("a", "cpu:1"), ("b", "cpu:0")]
    assert findings[-1].seen == "not tried, as the device hung before"


def test_devices_that_work_alone_only(monkeypatch):
    def run_trial(one, devices, timeout_s):
        return trial.Outcome(error="507033" if len(devices) > 1 else "")

    monkeypatch.setattr(work, "run_trial", run_trial)
    work_ = work.Work(Context(Host(), "cpu:0,1"))
    findings = list(work_.check())
    layers = [Layer("x", [ok("a", "b"), *findings, failure("later", "", "no")])]
    assert work_.verdict(layers).seen == "cpu:0, cpu:1 work alone, but not together"
    assert work_.verdict(layers).advice.startswith("begin with cpu:0 + cpu:1, onnxruntime (cpu): end the processes")


# ---- real engines


def cpu_work(python, devices="cpu:0,1"):
    work_ = work.Work(Context(Host(), devices, python))
    findings = list(work_.check())
    return findings, work_.verdict([Layer("Work", findings)])


@pytest.mark.parametrize("devices", ["cpu:0", "cpu:0,1"])
def test_onnxruntime_on_the_cpu(leaves_nothing, devices):
    findings, verdict = cpu_work(None, devices)
    assert {finding.state for finding in findings} == {"ok"}
    assert len(findings) == (1 if devices == "cpu:0" else 3)
    assert all(finding.data["difference"] < 1e-5 and finding.data["step_ms"] > 0 for finding in findings)
    assert verdict.seen.endswith("with onnxruntime (cpu)")


@pytest.mark.mslite
def test_the_real_mindspore_lite_and_its_converter(leaves_nothing):
    python = models.mslite_python()
    findings, verdict = cpu_work(python)
    assert {finding.state for finding in findings} == {"ok"}, findings
    assert verdict.seen == "cpu:0, cpu:1 work with mslite"
    [conversion] = speed.check_converter(Context(Host(), "cpu:0", python))
    assert conversion.state == "ok" and conversion.data["difference"] < 1e-5, conversion


@pytest.mark.openvino
def test_openvino_runs_all_nodes(leaves_nothing):
    findings, verdict = cpu_work(models.vendor_python("OPENVINO_PYTHON", "onnxruntime-openvino"), "cpu:0")
    assert [finding.check for finding in findings] == ["cpu:0, onnxruntime (cpu)", "cpu:0, onnxruntime (openvino)"]
    assert findings[1].seen.endswith("; 6 nodes on OpenVINOExecutionProvider")
    assert list(findings[1].data["nodes"]) == ["OpenVINOExecutionProvider"]
    assert verdict.state == "ok"


@pytest.mark.openvino
def test_nodes_on_the_cpu_are_a_warning(monkeypatch):
    monkeypatch.setitem(trial.FILES, ".onnx", models.hardmax())
    python = models.vendor_python("OPENVINO_PYTHON", "onnxruntime-openvino")
    with np.load(trial.MODELS / "tiny.npz") as stored:
        x = stored["x"].reshape(-1, 4)[:8]
    monkeypatch.setattr(trial, "load_data", lambda: (x, models.run_onnx(models.hardmax(), {"x": x})["y"]))
    findings, _ = cpu_work(python, "cpu:0")
    assert findings[1].state == "warning" and "1 nodes on CPUExecutionProvider (Hardmax 1)" in findings[1].seen, (
        findings
    )


@pytest.mark.cann
def test_cann_without_its_libraries_names_them(leaves_nothing):
    context = Context(Host(), "ascend:0", models.vendor_python("CANN_PYTHON", "onnxruntime-cann"))
    [finding] = work.Work(context).check()
    assert finding.state == "failure"
    assert "libascendcl.so: cannot open shared object file" in finding.seen
    assert finding.advice == "source CANN's set_env.sh in this shell; if there is no CANN, install it"


@pytest.mark.cann
def test_onnxruntime_cann_with_a_numpy_that_is_too_new(monkeypatch):
    python = models.vendor_python("CANN_PYTHON", "onnxruntime-cann")
    monkeypatch.setenv("PYTHONPATH", str(machines.numpy_2(python)))
    [finding] = [f for f in examination.runtimes.check(Context(Host(), "ascend:0", python)) if f.check == "onnxruntime"]
    assert finding.state == "failure" and finding.advice.endswith("-m pip install 'numpy<2'"), finding


# ---- conversion and transport


def test_a_converter_that_fails_and_one_that_hangs(duo, tmp_path, monkeypatch):
    machines.use_mindspore_lite(monkeypatch, "import-crash")
    pid_file = tmp_path / "pid"
    script = f'case "$*" in *--version*) echo converter_lite 2.3.0;; *) sleep 1000 & echo $! > {pid_file}; wait;; esac'
    machines.tool(tmp_path / "bin", "converter_lite", script)
    context = Context(machines.duo_host(machines.duo_root(tmp_path / "root")), "ascend:0", None, 5.0)
    [finding] = speed.check_converter(context)
    assert finding.state == "failure" and finding.seen == "did not end in 5 s"
    procs.Watch([int(pid_file.read_text())]).wait_gone(5)
    machines.tool(
        tmp_path / "bin", "converter_lite", script.replace("sleep 1000", "echo no kernel for Conv; exit 1; :")
    )
    [finding] = speed.check_converter(context)
    assert finding.state == "failure"
    assert any("no kernel for Conv" in line for line in finding.data["log"]), finding


def test_no_converter_on_an_ascend_host(tmp_path, monkeypatch):
    assert shutil.which("converter_lite") is None
    context = Context(machines.duo_host(machines.duo_root(tmp_path / "root")), "ascend:0")
    [finding] = speed.check_converter(context)
    assert finding.state == "warning" and "put converter_lite" in finding.advice


def test_the_transport_is_measured(leaves_nothing):
    finding = speed.check_transport(Context(Host(), "cpu:0"))
    assert finding.state == "ok"
    assert finding.data["small_ms"] > 0 and finding.data["large_ms"] > 0


@pytest.mark.parametrize("call", ["memfd", "eventfd"])
def test_a_refused_system_call_is_the_first_thing_to_do(call):
    refusing = str(machines.STANDINS.parent / "refusing.py")
    done = subprocess.run(
        [sys.executable, refusing, call, sys.executable, "-m", "ascend_parallel", "doctor", "--devices", "cpu:0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    text = " ".join(done.stdout.split())
    first = "shared memory: allow memfd_create" if call == "memfd" else "eventfd: allow eventfd2"
    assert f"cpu:0 does not work -> begin with {first} in the seccomp profile" in text, done.stdout


def test_a_check_that_fails_itself_does_not_stop_the_others(monkeypatch):
    def broken(context):
        raise ZeroDivisionError("oh")
        yield

    monkeypatch.setattr(examination, "LAYERS", (("First", broken), ("Second", lambda _: [ok("x", "y")])))
    monkeypatch.setattr(speed, "check", lambda _: [])
    layers = list(examination.examine(Context(Host(), "cpu:0")))
    assert [layer.title for layer in layers] == ["First", "Second", "Work", "Verdict"]
    assert layers[0].findings[0].seen == "the check itself failed: ZeroDivisionError: oh"
    assert not procs.children()

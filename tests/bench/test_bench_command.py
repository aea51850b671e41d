"""``ascend-parallel bench`` and :func:`bench`, with real workers: figures, files, and errors."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import models
import numpy as np
import pytest
from faults import procs

from ascend_parallel import EngineError, UsageError
from ascend_parallel.bench import bench

SIMULATED = ["bench", "sim", "--engine", "simulated", "--input-shape", "x:?,3"]
QUICK = [*SIMULATED, "--devices", "simulated:0,1", "--requests", "10"]
DEVICE_MS = 10


def command(*words, cwd, check=0):
    done = subprocess.run(
        [sys.executable, "-m", "ascend_parallel", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == check, done.stdout + done.stderr
    return done


# ---- figures


def test_a_device_of_10_ms_per_row_measures_as_100_rows_per_second():
    """It is never more, because the device sleeps at least that long. How much less depends on the machine."""
    report = bench(
        "sim",
        engine="simulated",
        devices="simulated:0,1",
        engine_options={"ms_per_row": DEVICE_MS},
        input_shape="x:?,3",
        requests=40,
    )
    one, two = report.rows
    assert [row.setting.devices for row in report.rows] == [1, 2]
    assert {row.setting.batch_size for row in report.rows} == {2}, "a row for each device, and the same calls for one"
    assert {row.calls for row in report.rows} == {40}
    assert 40 < one.rows_per_s <= 1000 / DEVICE_MS
    assert 80 < two.rows_per_s <= 2000 / DEVICE_MS
    assert min(one.latency_ms.values()) >= 2 * DEVICE_MS
    assert min(two.latency_ms.values()) >= DEVICE_MS
    for row in report.rows:
        assert row.rows_per_s == pytest.approx(row.setting.batch_size * row.calls_per_s)
        assert row.calls_per_s == pytest.approx(row.calls / row.duration_s)
        assert sum(row.rows_per_s_of.values()) == pytest.approx(row.rows_per_s)
        assert sum(row.breakdown.call.values()) == pytest.approx(1)
        assert row.breakdown.calls == 10
        assert set(row.breakdown.devices) == set(row.rows_per_s_of)
        assert row.host_overhead_us > 0
        assert row.restarts == 0
    assert (one.efficiency, two.efficiency) == (1.0, two.rows_per_s / (2 * one.rows_per_s))
    assert two.rows_per_s_of["simulated:0"] == two.rows_per_s_of["simulated:1"], "each had one row of each call"


def test_every_combination_is_measured_and_the_table_is_sorted_by_setting(tmp_path):
    words = ["--devices", "simulated:0-2", "--requests", 10, "--batch-size", "3,6", "--instances", "1,2"]
    done = command(*SIMULATED, *words, "--in-flight", "1,3", "--json", "-", "--breakdown", cwd=tmp_path)
    rows = json.loads(done.stdout)["rows"]
    settings = [(row["batch_size"], row["instances"], row["in_flight"], row["devices"]) for row in rows]
    expected = [(b, i, f, d) for b in (3, 6) for i in (1, 2) for f in (1, 3) for d in (1, 2, 3)]
    assert sorted(settings) == expected
    rows_by_setting = dict(zip(settings, rows, strict=True))
    for (*setting, devices), row in rows_by_setting.items():
        alone = rows_by_setting[(*setting, 1)]["rows_per_s"]
        assert row["efficiency"] == pytest.approx(row["rows_per_s"] / (devices * alone))
    lines = [line.split() for line in done.stderr.splitlines()]
    table = [
        tuple(map(int, line[:4])) for line in lines if len(line) > 10 and line[0].isdecimal() and "per" not in line
    ]
    main, breakdown = table[: len(expected)], table[len(expected) :]
    assert [(b, i, f, d) for d, b, i, f in main] == expected
    assert breakdown == main


def test_the_files_are_written(tmp_path):
    files = ["--json", "out.json", "--plot", "out.png", "--trace", "trace.json"]
    done = command(*QUICK, "--in-flight", "1,2", "--percentiles", "99.9,50", *files, cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.png", "trace.json"]
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["devices"] == ["simulated:0", "simulated:1"]
    assert list(report["rows"][0]["latency_ms"]) == ["p50", "p99.9"]
    assert report["error"] == ""
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    titles = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert titles[0] == "1 device, 2 rows per call, 1 instance, 1 call in flight: calls"
    assert len(titles) == 2 * len(report["rows"])
    for word in ("rows/s", "calls/s", "p50", "p99.9", "efficiency", "host"):
        assert word in done.stdout
    assert "p99.9 of fewer than 1000 calls is hardly more than the slowest one" in done.stdout


@pytest.mark.parametrize("suffix", ["svg", "pdf"])
def test_plots_of_other_formats(tmp_path, suffix):
    command(*QUICK, "--plot", f"out.{suffix}", cwd=tmp_path)
    assert (tmp_path / f"out.{suffix}").stat().st_size > 1000


def test_a_sweep_prints_three_settings_as_options(tmp_path):
    done = command(*QUICK, "--sweep", "--in-flight", "1,2", cwd=tmp_path)
    assert "efficiency" not in done.stdout  # there is no row for a single device
    best = done.stdout.partition("Best settings:\n")[2].splitlines()
    assert len(best) == 3
    options = best[0].split("    ")[0].split()
    assert options[::2] == ["--batch-size", "--instances", "--in-flight"]
    command(*QUICK, *options, cwd=tmp_path)


def test_inputs_from_a_file_are_one_call(tmp_path):
    np.savez(tmp_path / "in.npz", x=np.ones((5, 3), np.float32))
    words = [
        "bench",
        "sim",
        "--engine",
        "simulated",
        "--devices",
        "simulated:0",
        "--requests",
        "10",
        "--data",
        "in.npz",
    ]
    report = json.loads(command(*words, "--json", "-", cwd=tmp_path).stdout)
    assert [row["batch_size"] for row in report["rows"]] == [5]
    done = command(*words, "--batch-size", "4", cwd=tmp_path, check=2)
    assert "the batch size is 4, but the inputs that were given have 5 rows" in done.stderr


def test_onnxruntime_on_a_small_cnn(tmp_path):
    trace = tmp_path / "trace.json"
    report = bench(str(models.cnn()), devices="cpu:0,1", in_flight=[1, 3], batch_size=4, requests=12, trace=trace)
    assert len(report.rows) == 4
    calls = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("cat") == "call"]
    assert len(calls) == sum(row.breakdown.calls for row in report.rows)
    assert report.engine == "onnxruntime"
    assert all(row.breakdown.call["compute"] > 0 for row in report.rows)


@pytest.mark.mslite
@pytest.mark.parametrize("batch", ["batch", 2])
def test_the_real_mindspore_lite(tmp_path, batch):
    python = models.mslite_python()
    model = models.convert(models.linear(batch))
    words = ["bench", model, "--worker-python", python, "--devices", "cpu:0,1", "--requests", "10", "--breakdown"]
    report = json.loads(command(*words, "--json", "-", cwd=tmp_path).stdout)
    assert report["engine"] == "mslite"
    assert [row["devices"] for row in report["rows"]] == [1, 2]
    assert {row["batch_size"] for row in report["rows"]} == {2 if batch == "batch" else 4}
    assert set(report["rows"][1]["rows_per_s_of"]) == {"cpu:0", "cpu:1"}


# ---- errors and interrupts


ERRORS = {
    "trace": (["--trace", "no/trace.json"], "--trace no/trace.json: there is no folder no; make it first"),
    "json": (["--json", "out.txt"], "--json out.txt does not end in .json"),
    "plot": (["--plot", "out.jpg"], "--plot out.jpg does not end in .png or .svg or .pdf"),
    "plot of a sweep": (["--plot", "out.png", "--sweep"], "leave one out"),
    "batch size": (["--batch-size", "2,x"], "--batch-size is '2,x'; expected whole numbers"),
    "in flight": (["--in-flight", "0"], "--in-flight is '0'; expected whole numbers, at least 1"),
    "percentiles": (["--percentiles", "50,a"], "--percentiles is '50,a'; expected numbers such as"),
    "percentile": (["--percentiles", "101"], "percentiles is [101.0]; expected numbers from above 0 to 100"),
    "two ends": (["--duration-s", "1"], "a duration and a number of requests were both given"),
    "requests": (["--requests", "9"], "the number of requests is 9; figures need at least 10"),
    "warmup": (["--warmup", "-1"], "warmup is -1; expected a number of calls, at least 0"),
    "data": (["--data", "ones"], "--data is 'ones'; expected random, zero, or an .npz file"),
    "no data": (["--data", "in.npz"], "--data in.npz: there is no such file"),
    "shape": (["--input-shape", "x=3"], "--input-shape has 'x=3'; expected NAME:SIZE"),
    "devices": (["--devices", "tpu:0"], "tpu"),
}


@pytest.mark.parametrize(("words", "message"), ERRORS.values(), ids=ERRORS)
def test_invalid_arguments_are_refused_in_one_line_before_anything_starts(tmp_path, words, message):
    done = command(*QUICK, "--engine-option", "build_ms=60000", *words, cwd=tmp_path, check=2)
    assert done.stdout == ""
    assert done.stderr.startswith("ascend-parallel: error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr


def test_a_plot_without_matplotlib_is_refused_before_anything_starts(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['matplotlib'] = None\n")
    done = subprocess.run(
        [sys.executable, "-m", "ascend_parallel", *QUICK, "--plot", "out.png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert done.returncode == 2
    assert done.stderr == "ascend-parallel: error: --plot needs matplotlib: pip install 'ascend-parallel[plot]'\n"


def test_a_duration_that_is_too_short_is_an_error_with_a_sufficient_one(tmp_path):
    words = [*SIMULATED, "--devices", "simulated:0", "--engine-option", "ms_per_row=50", "--duration-s", "0.01"]
    done = command(*words, cwd=tmp_path, check=2)
    assert "error: only 1 call ended in 0.01 s with 1 device, 1 row per call" in done.stderr
    assert "figures need at least 10: give --duration-s" in done.stderr


def test_a_device_that_fails_is_a_one_line_error_after_the_results_so_far(tmp_path):
    fault = ["--engine-option", "fault=raise", "--engine-option", "fault_on=20", "--engine-option", "fault_devices=[1]"]
    done = command(*QUICK, *fault, "--json", "out.json", cwd=tmp_path, check=3)
    assert "simulated:1 failed while predicting sim" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert "simulated:1 failed" in report["error"]
    assert report["rows"][0]["devices"] == 1
    assert "100.0%" in done.stdout
    with pytest.raises(EngineError, match="simulated fault"):
        bench("sim", engine="simulated", devices="simulated:0", engine_options={"fault": "raise"}, input_shape="x:?")


def test_a_restarted_worker_is_reported():
    options = {"fault": "kill", "fault_on": 20, "fault_devices": [1]}
    report = bench(
        "sim", engine="simulated", devices="simulated:0,1", engine_options=options, input_shape="x:?", requests=30
    )
    assert report.rows[0].restarts == 0
    assert report.rows[1].restarts >= 1


def test_ctrl_c_prints_the_results_so_far_and_leaves_nothing(tmp_path):
    words = [*SIMULATED, "--devices", "simulated:0,1", "--engine-option", "ms_per_row=1", "--duration-s", "1000"]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "ascend_parallel",
            *words,
            "--batch-size",
            "1",
            "--trace",
            "trace.json",
            "--json",
            "o.json",
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait_for_calls(process.pid)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "interrupted; results so far:"
    assert "Traceback" not in stderr
    assert "Warning: 1 device, 1 row per call, 1 instance, 1 call in flight: interrupted after" in stdout
    report = json.loads((tmp_path / "o.json").read_text())
    assert (report["error"], report["rows"][0]["is_partial"]) == ("interrupted", True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.json", "trace.json"]


def _wait_for_calls(pid, calls=200):
    """Wait until a worker has slept often enough, by the kernel's count: each call waits at least twice."""

    def has_slept():
        for child in procs.children(pid):
            status = Path(f"/proc/{child}/status").read_text()
            if int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) > 2 * calls:
                return True
        return False

    procs.wait_until(has_slept, "calls were made", 60)


def test_python_refuses_invalid_arguments():
    for options, message in (
        ({"in_flight": 0}, r"in flight is \[0\]; expected whole numbers"),
        ({"batch_size": []}, r"batch size is \[\]"),
        ({"duration_s": 0}, "the duration is 0; expected seconds"),
        ({"data": "ones"}, "data is 'ones'"),
        ({"trace": "no/trace.json"}, "trace no/trace.json: there is no folder no"),
    ):
        with pytest.raises(UsageError, match=message):
            bench("sim", engine="simulated", devices="simulated:0", input_shape="x:?", **options)

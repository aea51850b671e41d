"""``ascend-parallel bench --cluster``: the same figures, by device, by host and in all."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(120)


def bench(*words):
    command = [sys.executable, "-m", "ascend_parallel", "bench", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=110)


def test_the_figures_by_device_by_host_and_in_all(cluster, tmp_path):
    done = bench(
        *("sim", "--engine", "simulated", "--devices", "simulated:*", "--cluster", f"ray={cluster.address}"),
        *("--engine-option", "ms_per_row=5", "--input-shape", "x:?,16", "--batch-size", "12", "--requests", "10"),
        *("--breakdown", "--json", str(tmp_path / "out.json"), "--trace", str(tmp_path / "trace.json")),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert [row["devices"] for row in report["rows"]] == [1, 2, 4, 6]
    last = report["rows"][-1]
    assert len(report["devices"]) == len(last["rows_per_s_of"]) == 6
    assert len(last["rows_per_s_of_hosts"]) == 3
    assert sum(last["rows_per_s_of_hosts"].values()) == pytest.approx(last["rows_per_s"])
    assert last["efficiency"] > 0 and last["host_overhead_us"] > 0
    assert sum(last["breakdown"]["call"].values()) == pytest.approx(1, abs=0.01)
    assert "a host" in done.stdout and "Where a call's time goes" in done.stdout
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]


def test_a_number_of_devices_needs_a_cluster():
    done = bench("sim", "--engine", "simulated", "--num-devices", "2")
    assert done.returncode == 2 and "--num-devices is for --cluster" in done.stderr

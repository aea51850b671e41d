"""The benchmarks run as programs, with small sizes and packages that are always installed. No test asserts a speed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scheduling
import transport
from sides import cpu, host, models, report
from sides.job import Job
from sides.process import Side, SideError

PEERS = Path(scheduling.__file__).with_name("peers.py")
SOME = ("pipes", "executor", "pool", "ort-default", "ort-callers", "threads-ort-callers")


def run_peers(*arguments):
    return subprocess.run([sys.executable, str(PEERS), *arguments], capture_output=True, text=True, timeout=100)


def test_peers_measures_all_metrics():
    done = run_peers("--models", "mlp,identity-1m", "--peers", ",".join(SOME), "--rounds", "1", "--seconds", "0.01")
    assert done.returncode == 0, done.stderr
    call, rest = done.stdout.split("A stream of batches")
    stream, cpu = rest.split("CPU time of all processes")
    for table in (call, stream, cpu):
        for title in (
            "pickled pipes",
            "ProcessPoolExecutor",
            "multiprocessing.Pool",
            "onnxruntime, 2 callers",
            "threads: onnx",
            "ours",
        ):
            assert title in table
    assert "1 rounds of 0.01 s a side; " in done.stdout


@pytest.mark.mslite
def test_peers_runs_the_real_mindspore_lite(mslite):
    done = run_peers("--models", "mlp-mindir", "--peers", "mslite", "--rounds", "1", "--seconds", "0.01")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ModelParallelRunner") == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--models", "resnet"), "--models names 'resnet'; expected some of unet, cnn, mlp"),
        (("--peers", "pools"), "--peers names 'pools'; expected some of pipes, executor"),
        (("--rounds", "0"), "--rounds must be at least 1 and --seconds more than 0"),
        (("--models", "mlp-mindir", "--mslite-python", ""), "the MINDIR models need --mslite-python"),
    ],
)
def test_invalid_arguments_are_refused_in_one_sentence(arguments, sentence):
    done = run_peers(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr


@pytest.fixture
def job(tmp_path):
    return models.write_job("mlp", tmp_path, "")


def test_a_side_with_wrong_results_is_not_timed(job):
    class Wrong:
        def __init__(self, off):
            self.off = off

        def predict(self, feeds):
            return Job(str(job)).expected + self.off

        def stream(self, batches):
            return iter(np.split(self.predict(None), len(list(batches))))

    host.check(Wrong(0), Job(str(job)))
    with pytest.raises(RuntimeError, match="a call differs from onnxruntime's result by"):
        host.check(Wrong(1), Job(str(job)))


def test_a_side_that_cannot_be_built_reports_why(job):
    with pytest.raises(SideError, match="wrong: ModuleNotFoundError: No module named 'sides.wrong'"):
        Side("wrong", "wrong:Wrong", job, sys.executable)


BURN = """
import subprocess, sys, time
while time.process_time() < 0.05:
    pass
if len(sys.argv) > 1:
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
print("burnt", flush=True)
sys.stdin.read()
"""


def test_the_cpu_time_is_that_of_a_process_and_its_children():
    """Each of the two runs for 50 ms of CPU time."""
    command = [sys.executable, "-c", BURN, BURN]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        both, one = cpu.read_times(process.pid), cpu.read_threads(Path(f"/proc/{process.pid}"))
        process.communicate()
    assert cpu.spent_ms({}, one) >= 50
    assert cpu.spent_ms({}, both) >= 100
    assert cpu.spent_ms(both, both) == 0


def test_the_readme_s_section_is_written_between_its_marks(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    readme, plot = tmp_path / "README.md", tmp_path / "peers.png"
    readme.write_text(f"before\n{report.BEGIN}: a mark -->\nold content\n{report.END}\nafter\n")
    monkeypatch.setattr(report, "README", readme)
    monkeypatch.setattr(report, "PLOT", plot)
    rounds = {"latency": [(1.0, 2.0), (1.0, 4.0), (1.0, 3.0)], "stream": [(0.5, 0.25)], "cpu": [(0.2, 0.3)]}
    report.save({"mlp": {"pool": rounds}, "cnn": {}}, "conditions")
    text = readme.read_text()
    assert text.startswith(f"before\n{report.BEGIN}: a mark -->\nconditions\n")
    assert text.endswith(f"{report.END}\nafter\n")
    assert "| multiprocessing.Pool | 3.00 (2.00 to 4.00) |" in text
    assert "| multiprocessing.Pool | 0.50 (0.50 to 0.50) |" in text
    assert "| ours, onnxruntime engine | 1 ms |" in text and "| ours, onnxruntime engine | 2000 batches/s |" in text
    assert "| multiprocessing.Pool | 1.50 (1.50 to 1.50) |" in text
    assert "old content" not in text
    assert plot.read_bytes().startswith(b"\x89PNG")


def run_transport(*arguments):
    return subprocess.run([sys.executable, transport.__file__, *arguments], capture_output=True, text=True, timeout=60)


def test_transport_runs_all_sides():
    """Each side checks that it returns its input."""
    done = run_transport("--rounds", "1", "--sizes", "4k")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    *times, by_pipe, _, by_bare, _, by_memcpy = [cell.strip() for cell in done.stdout.splitlines()[4].split("│")[2:-1]]
    assert [float(time) >= 0 for time in times] == [True] * len(transport.SIDES)
    assert float(by_pipe.split()[0]) > 0 and float(by_bare.split()[0]) > 0
    assert by_memcpy == ""


def test_transport_runs_a_part_only():
    done = run_transport("--rounds", "2", "--sizes", "760k,4k", "--sides", "bare,ours")
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()[4:6]]
    assert [row[0] for row in rows] == ["760 KiB", "4 KiB"]
    for _, pipe, bare, ours, memcpy, by_pipe, _, by_bare, _, _ in rows:
        assert (pipe, memcpy, by_pipe) == ("", "", "")
        assert float(bare) > 0 and float(ours) > 0 and " to " in by_bare


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--sizes", "5k"), "--sizes names '5k'; expected some of 4k,760k,16m,64m"),
        (("--sides", "ours,"), "--sides names ''; expected some of pipe,bare,ours,memcpy"),
        (("--rounds", "0"), "--rounds must be at least 1"),
    ],
)
def test_transport_refuses_wrong_arguments(arguments, sentence):
    done = run_transport(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr


def test_scheduling_runs():
    assert scheduling.throughput(2, 8, {"ms_per_row": 1.0}) > 0
    assert scheduling.build_s(2, 1.0) > 0

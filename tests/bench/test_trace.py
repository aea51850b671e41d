"""The trace of a real runner: a valid file that contains every call, task and row."""

import json
import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest

from ascend_parallel import DiskError, EngineError, ParallelPredictUtils, UsageError
from ascend_parallel.runner import trace as trace_module

pytestmark = pytest.mark.usefixtures("leaves_nothing")
X = {"x": np.zeros((7, 3), np.float32)}


def traced(path, devices="simulated:0,1", engine_options=None, **options):
    return ParallelPredictUtils(
        "sim", devices=devices, engine="simulated", engine_options=engine_options or {}, trace=path, **options
    )


def spans(file, kind):
    return [event for event in file["traceEvents"] if event["ph"] == "X" and event["cat"] == kind]


def names(file, kind="thread_name"):
    events = [event for event in file["traceEvents"] if event["ph"] == "M" and event["name"] == kind]
    return {(event["pid"], event["tid"]): event["args"]["name"] for event in events}


def end(event):
    return round(event["ts"] + event["dur"], 3)


@pytest.fixture
def file(tmp_path):
    """A trace of 5 predicts and 20 submits on two devices with three instances each, in chunks of two rows."""
    path = tmp_path / "trace.json"
    options = {"engine_options": {"ms_per_row": 0.3}, "instances": 3, "chunk_size": 2}
    with traced(path, **options) as runner:
        for _ in range(5):
            runner.predict(X)
        for future in [runner.submit(X) for _ in range(20)]:
            future.result(30)
        busy_us = {label: 1e6 * worker["busy_s"] for label, worker in runner.stats()["workers"].items()}
    assert [entry.name for entry in tmp_path.iterdir()] == ["trace.json"]
    trace = json.loads(path.read_text())
    trace["busy_us"] = busy_us
    return trace


def test_all_calls_and_rows_are_in_the_trace(file):
    calls = spans(file, "call")
    assert sorted(event["args"]["call"] for event in calls) == list(range(1, 26))
    assert {event["args"]["tasks"] for event in calls} == {4}
    rows = defaultdict(list)
    for event in spans(file, "compute"):
        rows[event["args"]["call"]].append(tuple(event["args"]["rows"]))
    assert sorted(rows) == list(range(1, 26))
    assert all(sorted(spans_of_call) == [(0, 2), (2, 4), (4, 6), (6, 7)] for spans_of_call in rows.values())
    assert file["otherData"] == {"dropped_calls": 0}


def test_spans_on_a_line_are_nested_or_sequential(file):
    lines = defaultdict(list)
    for event in file["traceEvents"]:
        if event["ph"] == "X":
            lines[event["pid"], event["tid"]].append(event)
    assert set(lines) == set(names(file)), "each line has a name, and each name a line"
    for events in lines.values():
        open_until = []
        for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
            while open_until and open_until[-1] <= event["ts"]:
                open_until.pop()
            assert not open_until or end(event) <= open_until[-1]
            open_until.append(end(event))


def test_the_phases_of_a_call_are_contiguous_from_its_start_to_its_end(file):
    phases = defaultdict(list)
    calls = {(event["tid"], event["args"]["call"]): event for event in spans(file, "call")}
    for phase in spans(file, "phase"):
        (key,) = [key for key, e in calls.items() if key[0] == phase["tid"] and e["ts"] <= phase["ts"] < end(e)]
        phases[key].append(phase)
    assert len(phases) == 25
    for key, event in calls.items():
        edges = [event["ts"], *map(end, phases[key])]
        assert edges == pytest.approx([*(phase["ts"] for phase in phases[key]), end(event)], abs=0.01)


def test_each_instance_of_each_device_has_a_line_with_all_its_compute_time(file):
    devices = {key: name for key, name in names(file).items() if not name.startswith("caller")}
    assert {name.split()[0] for name in devices.values()} == {"simulated:0", "simulated:1"}
    assert {name.split(" ", 1)[1] for name in devices.values()} <= {"instance 0", "instance 1", "instance 2"}
    compute_us = Counter()
    for event in spans(file, "compute"):
        compute_us[devices[event["pid"], event["tid"]].split()[0]] += event["dur"]
    assert compute_us == pytest.approx(file["busy_us"], abs=0.1), "the same nanoseconds that stats() adds up"
    assert set(names(file, "process_name").values()) == {"sim: calls", "sim: devices"}


def test_an_arrow_connects_each_call_to_each_of_its_tasks_and_back(file):
    steps = defaultdict(dict)
    for event in file["traceEvents"]:
        if event["ph"] in "stf":
            steps[event["id"]][event["ph"]] = event
    assert len(steps) == 25 * 4
    spans_of = defaultdict(list)
    for event in spans(file, "compute") + spans(file, "call"):
        spans_of[event["pid"], event["tid"]].append(event)
    for arrow in steps.values():
        assert arrow["s"]["ts"] <= arrow["t"]["ts"] <= arrow["f"]["ts"]
        hit = [
            [e["args"]["call"] for e in spans_of[step["pid"], step["tid"]] if e["ts"] <= step["ts"] <= end(e)]
            for step in arrow.values()
        ]
        assert len(set.intersection(*map(set, hit))) == 1, "all three are on spans of one call"


def test_failed_calls_and_lost_workers_are_recorded(tmp_path):
    fault = {"fault": "raise", "fault_on": 3, "fault_devices": [1]}  # the first predict of each is the warm-up
    with traced(tmp_path / "raise.json", engine_options=fault, warmup=0) as runner:
        for _ in range(2):
            runner.predict(X)
        with pytest.raises(EngineError):
            runner.predict(X)
        runner.predict(X)
    calls = spans(json.loads((tmp_path / "raise.json").read_text()), "call")
    assert [event["args"]["error"] for event in calls] == ["", "", "EngineError", ""]

    once = tmp_path / "once"
    once.touch()
    fault = {"fault": "kill", "fault_on": 2, "fault_devices": [1], "fault_while": str(once)}
    with traced(tmp_path / "kill.json", engine_options=fault) as runner:
        runner.predict(X)
        runner.predict(X)
        once.unlink()
        runner.predict(X)
    tasks = spans(json.loads((tmp_path / "kill.json").read_text()), "compute")
    assert len(tasks) == 6
    assert [event["args"]["workers_lost"] for event in tasks if event["args"]["call"] != 2] == [0, 0, 0, 0]
    assert sorted(event["args"]["workers_lost"] for event in tasks if event["args"]["call"] == 2) == [0, 1]


def test_a_long_run_keeps_its_latest_calls_and_counts_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(trace_module, "MAX_TASKS", 20)
    path = tmp_path / "trace.json"
    with traced(path) as runner:
        for _ in range(50):
            runner.predict(X)
        assert len(runner.trace.calls()) == 10
    file = json.loads(path.read_text())
    assert [event["args"]["call"] for event in spans(file, "call")] == list(range(41, 51))
    assert file["otherData"] == {"dropped_calls": 40}
    assert "after 40 earlier ones that are not kept" in names(file, "process_name")[1, 0]


def test_each_build_of_a_runner_has_its_own_trace(tmp_path):
    path = tmp_path / "trace.json"
    runner = traced(path)
    for calls in (3, 1):
        runner.build_model()
        for _ in range(calls):
            runner.predict(X)
        runner.close()
        assert len(spans(json.loads(path.read_text()), "call")) == calls


def test_a_program_that_exits_without_close_writes_its_trace(tmp_path):
    code = (
        "import numpy as np\n"
        "from ascend_parallel import ParallelPredictUtils\n"
        "r = ParallelPredictUtils('sim', devices='simulated:0', engine='simulated', trace='trace.json')\n"
        "r.build_model()\n"
        "r.predict({'x': np.zeros((2, 3))})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(spans(json.loads((tmp_path / "trace.json").read_text()), "call")) == 1


def test_a_trace_that_is_not_writable_is_refused_before_anything_starts(tmp_path):
    (tmp_path / "folder.json").mkdir()
    for path, message in (
        (tmp_path / "no" / "trace.json", "there is no folder .*no; make it first"),
        (tmp_path / "trace.txt", r"does not end in \.json"),
        (tmp_path / "folder.json", "is a folder"),
        (7, "trace is 7; expected the path"),
    ):
        with pytest.raises(UsageError, match=message):
            traced(path)


def test_a_trace_whose_folder_was_removed_is_an_error_and_the_workers_end(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    runner = traced(folder / "trace.json")
    runner.build_model()
    runner.predict(X)
    folder.rmdir()
    with pytest.raises(DiskError, match=r"trace\.json could not be written: No such file"):
        runner.close()
    runner.close()


def test_a_failed_build_leaves_an_earlier_trace_unchanged(tmp_path):
    path = tmp_path / "trace.json"
    path.write_text("earlier")
    with pytest.raises(EngineError), traced(path, engine_options={"fault": "raise", "fault_on": "build"}):
        pass
    assert path.read_text() == "earlier"


def test_nothing_is_recorded_by_default(tmp_path):
    with traced(None) as runner:
        runner.predict(X)
        assert runner.trace is None
        runner.trace = trace_module.Trace()
        runner.predict(X)
        recorded = runner.trace.calls()
        runner.trace = None
        runner.predict(X)
    assert [record.number for record in recorded] == [1]
    assert len(recorded[0].tasks) == 2

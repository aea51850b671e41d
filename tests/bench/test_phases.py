"""The breakdown of calls, from records with given times."""

import random

import pytest

from ascend_parallel.bench.breakdown import break_down, host_overhead_us
from ascend_parallel.runner.phases import Phases, find_phases, share_lanes, tasks_by_lane
from ascend_parallel.runner.trace import CallRecord, TaskRecord


def task(worker, written, started, finished, start=0, rows=1):
    return TaskRecord(worker, start, rows, 0, written, started, finished)


def call(number, opened, begun, gather, closed, *tasks, error=""):
    return CallRecord(number, "", opened, begun, gather, closed, tasks, error)


def test_the_phases_of_a_call_are_those_of_its_last_task():
    quick, slow = task("cpu:0", 15, 20, 30), task("cpu:1", 18, 22, 90)
    phases = find_phases([call(1, 0, 10, 95, 100, quick, slow)])[1]
    assert phases == Phases(prepare=10, copy_in=8, queueing=0, dispatch=4, compute=68, reply=5, gather=5)
    assert sum(phases) == 100
    assert phases.host == 32


def test_a_call_that_waits_for_its_device_queues_and_the_rest_of_the_wait_is_host_time():
    first = call(1, 0, 1, 52, 53, task("cpu:0", 2, 10, 50))
    second = call(2, 5, 6, 95, 99, task("cpu:0", 8, 54, 94))  # the device was busy from 10 to 50
    phases = find_phases([first, second])[2]
    assert (phases.queueing, phases.dispatch) == (40, 6)
    assert host_overhead_us([second]) == (99 - 5 - 40) / 1000, "without the first call, the device seems idle"
    assert host_overhead_us([first, second]) == ((53 - 40) + (94 - 40 - 40)) / 2 / 1000


def test_a_second_instance_does_not_wait_for_the_first():
    both = [call(1, 0, 1, 60, 61, task("cpu:0", 2, 10, 50)), call(2, 0, 1, 60, 61, task("cpu:0", 2, 12, 52))]
    assert [find_phases(both)[n].queueing for n in (1, 2)] == [0, 0]
    assert sorted(tasks_by_lane(both)) == [("cpu:0", 0), ("cpu:0", 1)]


def test_a_failed_call_has_no_phases():
    failed = call(1, 0, 1, 60, 61, task("cpu:0", 2, 10, 50), error="EngineError")
    assert find_phases([failed, call(2, 0, 1, 60, 61, error="WorkerDied")]) == {}
    assert break_down([failed], {"cpu:0": 1}) is None
    assert host_overhead_us([failed]) is None


def test_lanes_are_the_lowest_free_ones():
    assert share_lanes([(0, 10), (2, 5), (5, 7), (6, 9), (10, 12)]) == [0, 1, 1, 2, 0]
    assert share_lanes([]) == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("instances", [1, 3])
def test_phases_add_up_to_the_latency_and_lanes_never_overlap(seed, instances):
    """Random calls, as in a queue."""
    dice = random.Random(seed)
    free_ns, calls = [0] * instances, []
    for number in range(1, 200):
        opened = number * 20 + dice.randrange(20)
        begun = opened + dice.randrange(5)
        written = begun + dice.randrange(5)
        started = max(written, min(free_ns)) + dice.randrange(3)
        finished = started + dice.randrange(1, 60)
        free_ns[free_ns.index(min(free_ns))] = finished
        gather = finished + dice.randrange(5)
        calls.append(call(number, opened, begun, gather, gather + 2, task("cpu:0", written, started, finished)))
    phases = find_phases(calls)
    for record in calls:
        assert sum(phases[record.number]) == record.closed_ns - record.opened_ns
        assert min(phases[record.number]) >= 0
    lanes = tasks_by_lane(calls)
    assert len(lanes) <= instances
    for tasks in lanes.values():
        ends = [later.finished_ns for _, later in tasks]
        assert all(end <= later.started_ns for end, (_, later) in zip(ends, tasks[1:], strict=False))
    shares = break_down(calls, {"cpu:0": instances, "cpu:1": 1})
    assert sum(shares.call.values()) == pytest.approx(1.0, abs=1e-12)
    assert shares.devices["cpu:1"] == {"compute": 0.0, "idle": 1.0}
    busy_ns = sum(t.finished_ns - t.started_ns for c in calls for t in c.tasks)
    total_ns = max(c.closed_ns for c in calls) - calls[0].opened_ns
    assert shares.devices["cpu:0"]["compute"] == pytest.approx(busy_ns / total_ns / instances)
    assert sum(shares.devices["cpu:0"].values()) == pytest.approx(1.0)

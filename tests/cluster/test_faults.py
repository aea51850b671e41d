"""Hosts and actors that die, hosts that join, and drivers that die: nothing is lost, doubled or left behind."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from ascend_parallel import ClusterPredictUtils, RunnerClosedError, WorkerDied, WorkerError, WorkerTimeout

pytestmark = pytest.mark.timeout(120)
TIMEOUT_S = 60


def rows(count, width=4):
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


def on_cluster(name, cluster, **options):
    told = {"devices": "cpu:*", "resource": "NPU", "address": cluster.address, **options}
    return ClusterPredictUtils(f"{cluster.models}/actors.py:{name}", **told)


def wait_until(condition, what):
    """Wait for what no event tells: the driver's view of its hosts."""
    end_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end_s, what
        time.sleep(0.05)


def hosts_of(runner):
    return {name.partition("/")[0] for name in runner.devices}


def pids_of(runner):
    return {worker["pid"] for worker in runner.stats()["workers"].values()}


class Gate:
    """Tasks that have begun wait for it."""

    def __init__(self, folder):
        self.folder = folder
        self.options = {"folder": str(folder)}

    def begun(self):
        return {int(path.name.partition("-")[2]) for path in self.folder.glob("begun-*")}

    def open(self):
        (self.folder / "open").touch()


@pytest.fixture
def gate(tmp_path):
    return Gate(tmp_path)


def in_thread(function):
    """Start a call in a thread; return what waits for its result."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()

    def result():
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()
        return results[0]

    return result


@pytest.mark.parametrize("way", ["predict", "submit"])
def test_an_actor_is_killed_in_the_middle(cluster, gate, way):
    with on_cluster("gated", cluster, engine_options=gate.options, num_devices=6) as runner:
        x = rows(6)
        if way == "predict":
            result = in_thread(lambda: runner.predict({"x": x}))
        else:
            result = runner.submit({"x": x}).result
        wait_until(lambda: len(gate.begun()) == 3, "all three hosts compute")
        os.kill(gate.begun().pop(), signal.SIGKILL)
        gate.open()
        assert np.array_equal(result()["y"], x * 2)
        wait_until(lambda: len(pids_of(runner) & gate.begun()) >= 2 and sum_restarts(runner) == 2, "it is back")
        assert np.array_equal(runner.predict({"x": x})["y"], x * 2)


def sum_restarts(runner):
    """Return the restarts of all devices: an actor has two."""
    workers = runner.stats()["workers"].values()
    return sum(worker["restarts"] for worker in workers if worker["state"] == "ready")


def test_a_node_is_removed_in_the_middle_of_predict_and_another_joins(cluster, gate, capfd):
    with on_cluster("gated", cluster, engine_options=gate.options) as runner:
        wait_until(lambda: runner.capacity == 6, "what the test before has held is free")
        before = hosts_of(runner)
        x = rows(12)
        result = in_thread(lambda: runner.predict({"x": x}))
        wait_until(lambda: len(gate.begun()) == 3, "all three hosts compute")
        cluster.remove()
        gate.open()
        assert np.array_equal(result()["y"], x * 2)
        cluster.add()
        wait_until(lambda: len(hosts_of(runner) - before) == 1 and runner.capacity == 6, "the new host is used")
        assert np.array_equal(runner.predict({"x": x})["y"], x * 2)
        workers = runner.stats()["workers"]
        assert {label.partition("/")[0] for label in workers} >= hosts_of(runner)
    assert "is lost" in capfd.readouterr().err


def test_a_node_is_removed_in_the_middle_of_map(cluster):
    with on_cluster("troubled", cluster, engine_options={"trouble": "raise"}) as runner:
        count, removed = 0, False
        for i, out in enumerate(runner.map({"x": np.full((1, 2), i, np.float32)} for i in range(3000))):
            assert out["y"][0, 0] == 2 * i, "in order, nothing lost, nothing doubled"
            count += 1
            if i == 500 and not removed:
                cluster.remove()
                removed = True
        assert count == 3000 and removed


def test_a_host_that_joins_is_used(cluster, monkeypatch):
    """Ray has not noticed yet that one of the three is gone: it is not waited for."""
    from ascend_parallel.cluster import hosts

    monkeypatch.setattr(hosts, "PLACING_TIMEOUT_S", 3.0)
    cluster.remove()
    with on_cluster("troubled", cluster, engine_options={"trouble": "raise"}) as runner:
        assert len(hosts_of(runner)) == 2 and runner.capacity == 4
        before = hosts_of(runner)
        cluster.add()
        wait_until(lambda: runner.capacity == 6, "it is used")
        (new,) = hosts_of(runner) - before
        runner.predict({"x": np.ones((60, 2), np.float32)})
        assert any(worker["rows"] for label, worker in runner.stats()["workers"].items() if label.startswith(new))


def test_a_number_of_devices_does_not_grow(cluster):
    with on_cluster("troubled", cluster, engine_options={"trouble": "raise"}, num_devices=2) as runner:
        assert runner.predict({"x": np.ones((3, 2), np.float32)})["y"].shape == (3, 2)
        time.sleep(2.5)  # twice as long as a runner of "*" takes to see what is free
        assert len(runner.devices) == 2


def test_a_task_that_ends_its_host_fails_alone(cluster):
    options = {"engine_options": {"trouble": "die"}, "max_retries": 1, "max_restarts": 5, "devices_per_actor": 1}
    with on_cluster("troubled", cluster, **options) as runner:
        good, bad = np.ones((1, 2), np.float32), -np.ones((1, 2), np.float32)
        futures = [runner.submit({"x": bad if i == 30 else good}) for i in range(60)]
        with pytest.raises(WorkerDied, match="2 hosts were lost while they computed a task") as caught:
            futures.pop(30).result(TIMEOUT_S)
        assert caught.value.device
        assert all(np.array_equal(future.result(TIMEOUT_S)["y"], good * 2) for future in futures)


@pytest.mark.parametrize("per_actor", [1, 2])
def test_a_task_that_hangs_is_given_up(cluster, monkeypatch, per_actor):
    from ascend_parallel.cluster import service

    monkeypatch.setattr(service, "ANSWER_GRACE_S", 1.0)
    options = {"predict_timeout_s": 1.0, "devices_per_actor": per_actor, "num_devices": 2}
    with on_cluster("troubled", cluster, engine_options={"trouble": "hang"}, **options) as runner:
        good, bad = np.ones((4, 2), np.float32), -np.ones((1, 2), np.float32)
        with pytest.raises(WorkerTimeout, match="did not answer in 1 s"):
            runner.predict({"x": bad})
        assert np.array_equal(runner.predict({"x": good})["y"], good * 2)


def test_an_error_only_when_nothing_is_left_names_the_hosts(cluster):
    options = {"engine_options": {"trouble": "die"}, "max_restarts": 0, "max_retries": 9, "num_devices": 4}
    with on_cluster("troubled", cluster, **options) as runner:
        hosts = hosts_of(runner)
        with pytest.raises(WorkerError, match="no host of the cluster is left") as caught:
            runner.predict({"x": -np.ones((1, 2), np.float32)})
        assert all(host in str(caught.value) for host in hosts)
        with pytest.raises(WorkerError, match="no host of the cluster is left"):
            runner.submit({"x": np.ones((1, 2), np.float32)})


DRIVER = """
import json, sys
import numpy as np
from ascend_parallel import ClusterPredictUtils
model, address, folder = sys.argv[1:]
runner = ClusterPredictUtils(model, devices="cpu:*", resource="NPU", num_devices=6, address=address,
                             engine_options={"folder": folder})
runner.build_model()
print(json.dumps(sorted({worker["pid"] for worker in runner.stats()["workers"].values()})), flush=True)
runner.predict({"x": np.ones((6, 2), np.float32)})
"""


def test_the_driver_s_death_leaves_no_actor_behind(cluster, gate):
    model = f"{cluster.models}/actors.py:gated"
    command = [sys.executable, "-c", DRIVER, model, cluster.address, str(gate.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        pids = json.loads(driver.stdout.readline())
        wait_until(lambda: len(gate.begun()) == 3, "all three hosts compute")
        driver.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids), "all actors are gone")
    with on_cluster("troubled", cluster, engine_options={"trouble": "raise"}, num_devices=6) as runner:
        assert len(runner.devices) == 6


@pytest.mark.parametrize("others", [0, 6])
def test_a_runner_that_is_closed_while_it_is_built_frees_its_builder(cluster, gate, others):
    """It builds its models, or waits for devices that another runner holds."""
    with contextlib.ExitStack() as stack:
        if others:
            holder = on_cluster("troubled", cluster, engine_options={"trouble": "raise"}, num_devices=others)
            stack.enter_context(holder)
        address = None if others else cluster.address
        runner = on_cluster("slow_to_build", cluster, engine_options=gate.options, num_devices=6, address=address)
        errors = []

        def build():
            try:
                runner.build_model()
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=build)
        thread.start()
        wait_until(lambda: runner._end is not None and (others or len(gate.begun()) == 3), "it is being built")
        runner.close()
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()
        assert [type(error) for error in errors] == [RunnerClosedError]
    with on_cluster("troubled", cluster, engine_options={"trouble": "raise"}, num_devices=6) as runner:
        assert len(runner.devices) == 6


def test_ctrl_c_in_the_middle_of_predict(cluster, gate):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        interrupt_a_predict(cluster, gate)
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt_a_predict(cluster, gate):
    with on_cluster("gated", cluster, engine_options=gate.options, num_devices=6) as runner:
        main = threading.main_thread().ident

        def interrupt():
            try:
                wait_until(lambda: len(gate.begun()) == 3, "all three hosts compute")
                signal.pthread_kill(main, signal.SIGINT)
            except BaseException:
                gate.open()  # else the main thread would wait for ever: Ray lets it see no signal but SIGINT
                raise

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            runner.predict({"x": rows(6)})
        thread.join()
        gate.open()
        assert np.array_equal(runner.predict({"x": rows(6)})["y"], rows(6) * 2)

"""The same calls on a cluster of three nodes: the same results, and what it says of its devices."""

import asyncio
import concurrent.futures
import contextlib
import json
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import ray
from models import linear, two

from ascend_parallel import ClusterPredictUtils, ParallelPredictUtils
from ascend_parallel.cluster.messages import BUFFER_BYTES, HEAD_BYTES, MEDIUM_BYTES, pack_arrays, unpack_arrays
from ascend_parallel.errors import DeviceSpecError, EngineError, RunnerClosedError, ShapeError, UsageError

pytestmark = pytest.mark.timeout(120)
ACTORS = "actors.py"


def rows(count, width=8, seed=0):
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def on_cluster(model, cluster, **options):
    told = {"devices": "cpu:*", "resource": "NPU", "address": cluster.address, **options}
    return ClusterPredictUtils(model, **told)


@pytest.fixture(params=["any batch", "batch of 2", "chunk_size"])
def pair(request, cluster):
    """The same model on one host with six devices, and on three hosts with two each."""
    model = str(linear(2 if request.param == "batch of 2" else "batch"))
    options = {"chunk_size": 3} if request.param == "chunk_size" else {}
    local = ParallelPredictUtils(model, devices="cpu:0-5", workers="threads", engine_options={"threads": 1}, **options)
    with local, on_cluster(model, cluster, engine_options={"threads": 1}, **options) as remote:
        yield local, remote


def test_results_are_those_of_one_host_to_the_last_bit(pair):
    local, remote = pair
    for count in (1, 2, 3, 5, 6, 7, 13, 64, 1000):
        x = rows(count, seed=count)
        assert np.array_equal(remote.predict({"x": x})["y"], local.predict({"x": x})["y"]), count
    x = rows(7)
    (y,) = remote.predict([x])
    assert np.array_equal(y, local.predict([x])[0])
    many = [{"x": rows(i % 9 + 1, seed=i)} for i in range(300)]
    for got, expected in zip(remote.map(iter(many)), local.map(iter(many)), strict=True):
        assert np.array_equal(got["y"], expected["y"])
    futures = [remote.submit(item) for item in many]
    for future, item in zip(futures, many, strict=True):
        assert np.array_equal(future.result()["y"], local.predict(item)["y"])


@pytest.mark.parametrize("kib", [1, 200, 3000])
def test_arrays_of_all_sizes_through_each_way(cluster, kib):
    """Within the message, in parts beside it, and through the object store."""
    x = rows(6 * 4, width=kib * 1024 // 16)
    assert (x.nbytes / 3 > MEDIUM_BYTES) == (kib == 3000) and (x.nbytes / 3 > HEAD_BYTES) == (kib > 1)
    with on_cluster("simulated", cluster, engine="simulated", devices="simulated:*") as runner:
        for _ in range(3):  # the sizes of outputs are known after the first
            assert np.array_equal(runner.predict({"x": x})["output"], x)
        held = x.copy()
        future = runner.submit({"x": x})
        x[:] = 0  # it was copied before submit returned
        assert np.array_equal(future.result()["output"], held)
        assert all(np.array_equal(out["output"], held) for out in runner.map([{"x": held}] * 5))
        output = runner.predict({"x": held})["output"]
        with pytest.raises(ValueError, match="read-only"):
            output[0] = 1


def test_ray_lays_the_buffers_of_an_object_one_behind_the_other(cluster):
    """Else large arrays would be copied once more when they are read; they would be right, but slower."""
    x, following = np.random.default_rng(0).random((3, BUFFER_BYTES // 8)), []
    packed = pack_arrays([x, np.zeros(3, bool)], following)
    with on_cluster("simulated", cluster, engine="simulated", devices="simulated:*", num_devices=1):
        buffers = ray.get(ray.put(tuple(following)))
        y, _ = unpack_arrays(packed, buffers)
        assert len(buffers) > 2 and np.shares_memory(y, buffers[0]) and np.array_equal(x, y)
        del y, _, buffers


def test_inputs_that_are_not_sliced_and_several_models(cluster):
    with on_cluster({"linear": str(linear()), "two": str(two())}, cluster, num_devices=4) as runner:
        x, a = rows(9), rows(9, 4)
        assert runner.predict({"x": x}, model="linear")["y"].shape == (9, 5)
        sums = runner.predict({"a": a, "b": a}, model="two")
        assert np.array_equal(sums["total"], a + a) and np.array_equal(sums["product"], a * a)
        with pytest.raises(UsageError, match="this runner holds 'linear', 'two'"):
            runner.predict({"x": x})
        assert len(runner.devices) == 4


@pytest.mark.parametrize("per_actor", [None, 1])
def test_ray_s_variables_are_renumbered_once(cluster, per_actor):
    options = {"devices": "ascend:*", "resource": None, "devices_per_actor": per_actor, "num_devices": 6}
    with on_cluster(f"{cluster.models}/{ACTORS}:where", cluster, **options) as runner:
        told = runner.predict({"x": rows(6)})
        actors = {}
        for pid, device, visible, first in zip(*(told[n] for n in ("pid", "device", "visible", "first")), strict=True):
            actors.setdefault(int(pid), []).append((int(device), int(visible), int(first)))
        seen = [{(visible, first) for _, visible, first in told} for told in actors.values()]
        numbers = {device for told in actors.values() for device, _, _ in told}
        if per_actor is None:  # a host's two devices, which threads share the tasks of
            assert seen == [{(2, 0)}] * 3 and numbers <= {0, 1}
        else:
            assert sorted(map(list, seen)) == [[(1, 0)]] * 3 + [[(1, 1)]] * 3 and numbers == {0}
        hosts = {}
        for name in runner.devices:
            host, _, device = name.partition("/")
            hosts.setdefault(host, set()).add(device)
        assert list(hosts.values()) == [{"ascend:0", "ascend:1"}] * 3
        workers = runner.stats()["workers"]
        assert set(workers) == set(runner.devices)
        assert sum(worker["rows"] for worker in workers.values()) == 6
        assert {worker["state"] for worker in workers.values()} == {"ready"}


def test_many_threads_call_at_once(cluster):
    with on_cluster(str(linear()), cluster) as runner:
        x = rows(32)
        expected = runner.predict({"x": x})["y"]

        def work(seed):
            picked = np.random.default_rng(seed).permutation(32)
            return [runner.predict({"x": x[picked]})["y"] for _ in range(20)], picked

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for results, picked in pool.map(work, range(8)):
                for result in results:
                    assert np.allclose(result, expected[picked], atol=1e-5)


def test_an_event_loop_goes_on_while_hosts_compute(cluster):
    async def run(runner):
        calls = [runner.predict_async({"x": rows(i % 5 + 1, seed=i)}) for i in range(40)]
        return await asyncio.gather(*calls)

    with on_cluster(str(linear()), cluster, num_devices=2) as runner:
        for i, out in enumerate(asyncio.run(run(runner))):
            assert np.array_equal(out["y"], runner.predict({"x": rows(i % 5 + 1, seed=i)})["y"])


def test_an_error_of_one_call_is_that_call_s_alone(cluster):
    model = f"{cluster.models}/{ACTORS}:troubled"
    with on_cluster(model, cluster, engine_options={"trouble": "raise"}) as runner:
        good, bad = np.ones((1, 2), np.float32), -np.ones((1, 2), np.float32)
        futures = [runner.submit({"x": bad if i % 10 == 3 else good}) for i in range(60)]
        for i, future in enumerate(futures):
            if i % 10 == 3:
                with pytest.raises(EngineError, match=r"host .*ValueError: a row of -1") as caught:
                    future.result()
                assert caught.value.device in runner.devices
                assert "in predict" in caught.value.remote_traceback
            else:
                assert np.array_equal(future.result()["y"], good * 2)


def test_predict_in_a_callback_is_refused(cluster, tmp_path):
    model = f"{cluster.models}/{ACTORS}:gated"
    with on_cluster(model, cluster, engine_options={"folder": str(tmp_path)}, num_devices=2) as runner:
        called = threading.Event()
        refusal = []

        def call_back(done):
            try:
                runner.predict({"x": np.ones((1, 2), np.float32)})
            except UsageError as error:
                refusal.append(str(error))
            called.set()

        runner.submit({"x": np.ones((1, 2), np.float32)}).add_done_callback(call_back)
        (tmp_path / "open").touch()  # the call was not done when it got its callback
        assert called.wait(30)
        assert "in a future's callback" in refusal[0]


SECOND_DRIVER = """
import json, sys
import numpy as np
from ascend_parallel import ClusterPredictUtils
model, address = sys.argv[1:]
with ClusterPredictUtils(model, devices="cpu:*", resource="NPU", num_devices=2, address=address) as runner:
    print(json.dumps({"devices": runner.devices}), flush=True)
    sys.stdin.readline()
    out = runner.predict({"x": np.ones((4, 8), np.float32)})
    print(json.dumps({"shape": out["y"].shape}), flush=True)
"""


def test_two_drivers_at_once(cluster):
    with on_cluster(str(linear()), cluster, num_devices=4) as runner:
        with subprocess.Popen(
            [sys.executable, "-c", SECOND_DRIVER, str(linear()), cluster.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as other:
            devices = json.loads(other.stdout.readline())["devices"]
            assert len(devices) == 2 and len(runner.devices) == 4
            assert runner.predict({"x": rows(12)})["y"].shape == (12, 5)
            other.communicate("go\n", timeout=60)
        assert other.returncode == 0
        # What the other has given back is no part of num_devices=4.
        assert len(runner.devices) == 4


DRIVER_OUTSIDE = """
import sys
import numpy as np
from ascend_parallel import ClusterPredictUtils
options = {"engine": "simulated", "devices": "simulated:*", "resource": "NPU", "address": sys.argv[1]}
with ClusterPredictUtils("sim", **options) as runner:
    for width in (2, 20_000, 700_000):  # within the message, in parts beside it, and through the object store
        x = np.random.default_rng(0).random((6, width), np.float32)
        assert np.array_equal(runner.predict({"x": x})["output"], x)
        assert all(np.array_equal(out["output"], x) for out in runner.map([{"x": x}] * 3))
    assert len(runner.stats()["workers"]) == 6
"""


@pytest.fixture
def client_address(cluster):
    """The address of a server for Ray clients: drivers that are not in the cluster."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    command = ["-m", "ray.util.client.server", "--address", cluster.address, "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(
        [sys.executable, *command, "--mode", "specific-server"], stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert any("Starting Ray Client server" in line for line in server.stderr)
            while server.poll() is None:
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                    break
            yield f"ray://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.stderr.close()


def test_a_driver_that_is_a_ray_client(client_address):
    subprocess.run([sys.executable, "-c", DRIVER_OUTSIDE, client_address], check=True, timeout=60)


def test_closing_gives_the_devices_back(cluster):
    for _ in range(2):
        runner = on_cluster(str(linear()), cluster, num_devices=6)
        runner.build_model()
        future = runner.submit({"x": rows(3)})
        future.result()
        runner.close()
        runner.close()
        with pytest.raises(RunnerClosedError):
            runner.predict({"x": rows(3)})


# ---- model files


def test_models_are_shipped_once_and_checked(cluster, tmp_path, monkeypatch):
    cache = cluster.cache
    model = tmp_path / "mine.onnx"
    model.write_bytes(linear().read_bytes())
    for _ in range(2):
        with on_cluster(str(model), cluster, ship_model=True, num_devices=2) as runner:
            assert runner.predict({"x": rows(2)})["y"].shape == (2, 5)
    copies = list(cache.glob("ascend-parallel/models/*/mine.onnx"))
    assert len(copies) == 1 and copies[0].read_bytes() == model.read_bytes()
    copies[0].write_bytes(b"rotten")
    with on_cluster(str(model), cluster, ship_model=True, num_devices=2) as runner:
        assert runner.predict({"x": rows(2)})["y"].shape == (2, 5)
    assert copies[0].read_bytes() == model.read_bytes()


# ---- errors before anything is started


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"devices": "ascend:0,1"}, DeviceSpecError, "Ray chooses the devices of a cluster: write ascend:*"),
        ({"devices": "asend:*"}, DeviceSpecError, "expected a type, such as ascend:*"),
        ({"devices": "simulated:*"}, DeviceSpecError, "onnxruntime does not run on simulated devices"),
        ({"num_devices": 0}, UsageError, "num_devices is 0; expected a whole number, at least 1, or '*'"),
        ({"num_devices": 5, "devices_per_actor": 2}, UsageError, "do not add up to"),
        ({"devices": "ascend:*", "resource": "CPU"}, UsageError, "leave resource out"),
        ({"workers": "fibres"}, UsageError, "expected threads or processes"),
        ({"address": ""}, UsageError, "the address of a Ray cluster"),
        ({"ship_model": True, "model": "none.onnx"}, UsageError, "there is no model file"),
        ({"engine_options": {"thread": 1}}, UsageError, "has no option 'thread'"),
        ({"max_retries": -1}, UsageError, "max_retries is -1"),
    ],
)
def test_wrong_arguments_are_refused_before_ray_is_called(options, error, words, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "init", None)
    with pytest.raises(error) as caught:
        ClusterPredictUtils(**{"model": str(linear()), **options})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"num_devices": 8}, UsageError, "8 cpu devices are wanted, more than the cluster has"),
        ({"devices_per_actor": 3}, UsageError, "in actors of 3 are wanted, more than the cluster has"),
        ({"resource": "TPU"}, UsageError, "no host of the Ray cluster has the resource TPU"),
        ({"model": "/nowhere/model.onnx"}, UsageError, "there is no model file /nowhere/model.onnx"),
        ({"batch_axes": {"z": 1}}, UsageError, "batch_axes names 'z'"),
        ({"model": "actors:none", "engine": None}, EngineError, "none"),
        ({"address": "127.0.0.1:1"}, UsageError, "there is no Ray cluster at '127.0.0.1:1'"),
    ],
)
def test_what_the_cluster_does_not_have_is_named_and_nothing_is_left(cluster, options, error, words):
    options = {"model": str(linear()), **options}
    runner = on_cluster(options.pop("model"), cluster, **options)
    with pytest.raises(error) as caught:
        runner.build_model()
    assert words in str(caught.value)


def test_a_wrong_shape_is_refused_by_the_driver(cluster):
    with on_cluster(str(linear()), cluster, num_devices=2) as runner:
        with pytest.raises(ShapeError, match=r"the model takes \(batch, 8\)"):
            runner.predict({"x": rows(2, 3)})


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else real(name, *rest))
    with pytest.raises(UsageError, match=r"needs ray: pip install 'ascend-parallel\[ray\]'"):
        ClusterPredictUtils(str(linear()))

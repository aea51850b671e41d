"""The models of a configuration as an application of Ray Serve, on the cluster of three nodes."""

import concurrent.futures
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
import yaml
from models import linear
from tritonclient.utils import InferenceServerException

from ascend_parallel import ParallelPredictUtils
from ascend_parallel.ray_serve import build

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Ray Serve's own modules
]
TIMEOUT_S = 60
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cluster" / "serve.yml"


def rows(count, width=8, seed=0):
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def wait_until(condition, what):
    """Wait for what no event tells."""
    end_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end_s, what
        time.sleep(0.05)


class RayServe:
    """Ray Serve on the cluster, with one proxy.

    Attributes:
        cluster: the cluster.
        port: of HTTP.
    """

    def __init__(self, cluster):
        import ray
        from ray import serve

        self.cluster = cluster
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        ray.init(cluster.address, logging_level="ERROR", log_to_driver=False)
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": self.port})
        self._serve = serve

    def run(self, name, **args):
        """Deploy an application at /NAME, and wait until it runs; return its URL."""
        args = {"graceful_shutdown_wait_loop_s": 0.1, **args}
        self._serve.run(build(args), name=name, route_prefix=f"/{name}")
        return f"127.0.0.1:{self.port}/{name}"

    def delete(self, name):
        self._serve.delete(name)

    def details(self, name):
        """Return what Ray Serve's controller says of the deployments of an application."""
        import ray

        controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
        return ray.get(controller.get_serve_instance_details.remote())["applications"][name]["deployments"]

    def close(self):
        import ray

        self._serve.shutdown()
        ray.shutdown()


@pytest.fixture(scope="module")
def ray_serve(_cluster):
    _cluster.restore()
    made = RayServe(_cluster)
    yield made
    made.close()


def request(url, method, path, body=None, headers=None):
    """Return status, headers and body of one request; url is HOST:PORT/PREFIX."""
    host, _, prefix = url.partition("/")
    with contextlib.closing(http.client.HTTPConnection(host, timeout=TIMEOUT_S)) as connection:
        connection.request(method, f"/{prefix}{path}", body, headers or {})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()


def infer(client, model, x, version="", **options):
    """Return the outputs of a request with binary tensors."""
    tensor = triton.InferInput("x", x.shape, "FP32")
    tensor.set_data_from_numpy(x, binary_data=True)
    return client.infer(model, [tensor], model_version=version, **options)


def infer_once(url, model, x):
    """Return the outputs of a request on a connection of its own: Triton's client belongs to one thread."""
    with triton.InferenceServerClient(url, network_timeout=TIMEOUT_S) as client:
        answer = infer(client, model, x)
        return {output["name"]: answer.as_numpy(output["name"]) for output in answer.get_response()["outputs"]}


@pytest.fixture(scope="module")
def hosts(ray_serve, tmp_path_factory):
    """An application with a replica for each host; returns its URL."""
    folder = tmp_path_factory.mktemp("hosts")
    models = ray_serve.cluster.models
    cpu = {"devices": "cpu:0", "workers": "threads", "engine_options": {"threads": 1}}
    config = {
        "max_body_bytes": 1 << 20,
        "models": [
            {"path": str(linear()), "name": "linear", **cpu},
            {"path": str(linear(2)), "name": "linear", "version": 2, **cpu},
            {"path": f"{models}/actors.py:where", "name": "where"},
            {"path": f"{models}/actors.py:troubled", "name": "troubled", **cpu, "engine_options": {"trouble": "raise"}},
            {"path": f"{models}/actors.py:gated", "name": "gated", **cpu, "engine_options": {"folder": str(folder)}},
        ],
    }
    config["models"][-1]["batching"] = {"max_batch_size": 1}
    op = {"path": f"{models}/actors.py:troubled", "devices": "cpu:0", "engine_options": {"trouble": "raise"}}
    ops = [{"name": "first", **op, "workers": "threads"}, {"name": "second", "inputs": {"x": "first.y"}, **op}]
    config["pipelines"] = [{"name": "fourfold", "ops": ops}]
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    return ray_serve.run("hosts", config=str(folder / "config.yml"), num_replicas="3"), folder


@pytest.fixture
def client(hosts):
    with triton.InferenceServerClient(hosts[0], network_timeout=TIMEOUT_S) as made:
        yield made


def test_answers_are_those_of_a_local_runner_to_the_last_bit(client):
    for version, batch in (("1", "batch"), ("2", 2)):
        options = {"devices": "cpu:0", "workers": "threads", "engine_options": {"threads": 1}}
        with ParallelPredictUtils(str(linear(batch)), **options) as local:
            for count in (1, 2, 16):
                x = rows(count, seed=count)
                answer = infer(client, "linear", x, version).as_numpy("y")
                assert np.array_equal(answer, local.predict({"x": x})["y"]), (version, count)


def test_json_compressed_and_large_bodies(client, hosts):
    x = rows(2)
    expected = infer(client, "linear", x).as_numpy("y")
    tensor = triton.InferInput("x", x.shape, "FP32")
    tensor.set_data_from_numpy(x, binary_data=False)
    wanted = triton.InferRequestedOutput("y", binary_data=False)
    assert np.allclose(client.infer("linear", [tensor], outputs=[wanted]).as_numpy("y"), expected)
    zipped = infer(client, "linear", x, request_compression_algorithm="gzip")
    assert np.array_equal(zipped.as_numpy("y"), expected)
    large = rows(4000)  # received where the workers read it, and answered in many parts
    whole = infer(client, "troubled", large).as_numpy("y")
    assert np.array_equal(whole, large * 2)


def test_a_pipeline(client):
    x = rows(3)
    assert np.array_equal(infer(client, "fourfold", x).as_numpy("y"), x * 4)
    with pytest.raises(InferenceServerException, match="first.*ValueError: a row of -1"):
        infer(client, "fourfold", np.full((1, 2), -1, np.float32))


def test_what_the_protocol_tells(client, hosts):
    url, _ = hosts
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("linear", "2")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "model_configuration"]
    assert client.get_model_metadata("linear")["versions"] == ["1", "2"]
    names = {(model["name"], model["version"]) for model in client.get_model_repository_index()}
    assert ("linear", "2") in names and ("fourfold", "1") in names and len(names) == 6
    status, headers, body = request(url, "GET", "/metrics")
    assert status == 404 and "each replica has its own figures" in json.loads(body)["error"]
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/v2/models/linear/infer", b"{", 400, "the body is not JSON"),
        ("/v2/models/linear/infer", b'{"inputs": []}', 400, "inputs do not fit the model: 'x' missing; it takes x"),
        ("/v2/models/nothing/infer", b"{}", 404, "there is no model 'nothing'"),
        ("/v2/models/linear/versions/7/infer", b"{}", 404, "has no version '7'"),
        ("/v2/nothing", b"{}", 404, "there is no route"),
        ("/v2/models/linear/infer", b" " * (1 << 21), 413, "max_body_bytes"),
    ],
)
def test_errors_have_their_status_and_a_sentence(hosts, path, body, status, text):
    told, _, content = request(hosts[0], "POST", path, body)
    assert told == status and text in json.loads(content)["error"]


def test_an_engine_s_error_is_that_request_s_alone(client):
    with pytest.raises(InferenceServerException, match="ValueError: a row of -1") as caught:
        infer(client, "troubled", np.full((1, 2), -1, np.float32))
    assert caught.value.status() == "500"
    assert infer(client, "troubled", np.ones((1, 2), np.float32)).as_numpy("y")[0, 0] == 2


def test_a_replica_has_the_devices_of_its_host_and_numbers_them_once(hosts):
    url, _ = hosts
    seen = {}
    deadline_s = time.monotonic() + TIMEOUT_S
    while len(seen) < 6:  # the workers of three hosts, each with two devices
        assert time.monotonic() < deadline_s, seen
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for told in pool.map(lambda _: infer_once(url, "where", rows(1)), range(24)):
                seen[told["pid"][0]] = tuple(int(told[name][0]) for name in ("device", "visible", "first"))
    # Each sees both devices of its host by Ray's variable, and is on its own, counted from 0.
    assert sorted(seen.values()) == [(0, 2, 0)] * 3 + [(1, 2, 0)] * 3


def test_without_an_ingress_and_with_options_of_ray_serve(ray_serve, hosts):
    model = {"path": str(linear()), "name": "linear", "devices": "cpu:0", "engine_options": {"threads": 1}}
    scaling = {"min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 7}
    options = {"max_ongoing_requests": "50", "health_check_period_s": 3, "autoscaling_config": scaling}
    url = ray_serve.run("direct", config={"models": [model]}, max_retries="0", **options)
    deployments = ray_serve.details("direct")
    assert set(deployments) == {"models"}
    told = deployments["models"]["deployment_config"]
    assert {name: told["autoscaling_config"][name] for name in scaling} == scaling
    assert (told["max_ongoing_requests"], told["health_check_period_s"]) == (50, 3)
    deployments = ray_serve.details("hosts")
    assert set(deployments) == {"models", "ingress"}
    assert deployments["models"]["deployment_config"]["ray_actor_options"]["resources"] == {"NPU": 2}
    with triton.InferenceServerClient(url) as direct, triton.InferenceServerClient(hosts[0]) as other:
        for count in (1, 16):
            x = rows(count, seed=count)
            y = infer(direct, "linear", x).as_numpy("y")
            assert np.array_equal(y, infer(other, "linear", x).as_numpy("y"))
        assert infer(direct, "linear", rows(10_000)).as_numpy("y").shape == (10_000, 5)
        assert direct.is_model_ready("linear")
        with pytest.raises(InferenceServerException, match="there is no model 'nothing'") as caught:
            infer(direct, "nothing", rows(1))
        assert caught.value.status() == "404"
    ray_serve.delete("direct")


def test_a_replica_without_a_ready_model_is_replaced(ray_serve, hosts):
    """Its only worker is given up; Ray Serve asks the replica for its health."""
    model = {
        "path": f"{ray_serve.cluster.models}/actors.py:troubled",
        "name": "frail",
        "devices": "cpu:0",
        "engine_options": {"trouble": "die"},
        "max_restarts": 0,
        "max_retries": 0,
    }
    url = ray_serve.run("frail", config={"models": [model]}, health_check_period_s=0.5, max_retries=0)
    with triton.InferenceServerClient(url, network_timeout=TIMEOUT_S) as frail:
        with pytest.raises(InferenceServerException, match="died"):
            infer(frail, "frail", np.full((1, 2), -1, np.float32))

        def answers():
            with contextlib.suppress(InferenceServerException):
                return infer(frail, "frail", np.ones((1, 2), np.float32)).as_numpy("y")[0, 0] == 2

        assert not answers()
        wait_until(answers, "another replica answers")
    ray_serve.delete("frail")


def test_serve_run_with_a_configuration_file(ray_serve, hosts, tmp_path):
    model = {"path": str(linear()), "name": "linear", "devices": "cpu:0", "workers": "threads"}
    (tmp_path / "config.yml").write_text(yaml.safe_dump({"models": [model]}))
    told = yaml.safe_load(EXAMPLE.read_text())
    (application,) = told["applications"]
    application.update(name="file", route_prefix="/file", args={"config": str(tmp_path / "config.yml")})
    application["deployments"] = [{"name": "models", "num_replicas": 1}]
    told["http_options"] = {"host": "127.0.0.1", "port": ray_serve.port}
    told["proxy_location"] = "HeadOnly"
    (tmp_path / "serve.yml").write_text(yaml.safe_dump(told))
    command = [Path(sys.executable).with_name("serve"), "run", "--non-blocking", tmp_path / "serve.yml"]
    command += ["--address", ray_serve.cluster.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    url = f"127.0.0.1:{ray_serve.port}/file"
    wait_until(lambda: request(url, "GET", "/v2/health/ready")[0] == 200, "it runs")
    with triton.InferenceServerClient(url) as client:
        assert infer(client, "linear", rows(3)).as_numpy("y").shape == (3, 5)
    ray_serve.delete("file")


def test_a_replica_is_killed_and_a_node_is_removed_under_load(hosts, ray_serve):
    """Every request is answered rightly, and once: those that a lost replica had are computed by another."""
    url, folder = hosts

    def begun():
        return {int(path.name.partition("-")[2]) for path in folder.glob("begun-*")}

    def ask(number):
        x = np.full((1, 2), number, np.float32)
        return infer_once(url, "gated" if number % 2 else "troubled", x)["y"][0, 0]

    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        answers = [pool.submit(ask, number) for number in range(40)]
        wait_until(lambda: len(begun()) == 3, "all three replicas compute")
        os.kill(min(begun()), signal.SIGKILL)
        ray_serve.cluster.remove()
        more = [pool.submit(ask, number) for number in range(40, 80)]
        (folder / "open").touch()
        assert [answer.result(TIMEOUT_S) for answer in [*answers, *more]] == [2 * number for number in range(80)]
    ray_serve.cluster.restore()

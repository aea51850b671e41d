"""Token, TLS, what is off unless asked for, and the end of a server."""

import contextlib
import queue
import signal
import socket
import subprocess
import sys

import grpc
import models
import numpy as np
import pytest
import tritonclient.grpc as triton
import trustme
from faults.procs import wait_until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from ..servers import serving
from ..serving_models import write_factories
from .conftest import Gate, rows, tensor

TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def safe_server(tmp_path_factory, authority):
    """A server with a token and TLS, and nothing else that is not there by itself."""
    folder = tmp_path_factory.mktemp("safe")
    pair = authority.issue_cert("localhost")
    pair.private_key_pem.write_to_path(folder / "key.pem")
    for number, part in enumerate(pair.cert_chain_pems):
        part.write_to_path(folder / "cert.pem", append=number > 0)
    (folder / "token").write_text(TOKEN)
    options = ["--tls-cert", folder / "cert.pem", "--tls-key", folder / "key.pem", "--token-file", folder / "token"]
    options += ["--devices", "cpu:0", "--workers", "threads", "--name", "m", "--grpc-port", "0", "--access-log"]
    with serving(models.linear(), *options) as server:
        yield server


@pytest.fixture(scope="module")
def safe_channel(safe_server, authority):
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with grpc.secure_channel(f"localhost:{safe_server.grpc_port}", credentials) as channel:
        yield channel


@pytest.fixture(scope="module")
def safe_client(safe_server, authority, tmp_path_factory):
    root = tmp_path_factory.mktemp("root") / "root.pem"
    authority.cert_pem.write_to_path(root)
    with triton.InferenceServerClient(
        f"localhost:{safe_server.grpc_port}", ssl=True, root_certificates=str(root)
    ) as client:
        yield client


@pytest.fixture
def own_gate(tmp_path):
    with contextlib.closing(Gate(tmp_path)) as gate:
        yield gate


def test_a_token_opens_what_needs_one(safe_client, safe_server):
    x = [tensor("x", np.zeros((1, 8), np.float32))]
    right = {"authorization": f"Bearer {TOKEN}"}
    assert safe_client.infer("m", x, headers=right).as_numpy("y").shape == (1, 5)
    for headers in (None, {"authorization": TOKEN}, {"authorization": f"Bearer {TOKEN}0"}, {"authorization": ""}):
        for call in (
            lambda headers=headers: safe_client.infer("m", x, headers=headers),
            lambda headers=headers: safe_client.get_server_metadata(headers=headers),
            lambda headers=headers: safe_client.get_system_shared_memory_status(headers=headers),
        ):
            with pytest.raises(InferenceServerException, match="the request has no valid token") as caught:
                call()
            assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
    wait_until(lambda: any('"gRPC ModelInfer" OK' in line for line in safe_server.lines), "the access log", 5)
    assert any('"gRPC ModelInfer" UNAUTHENTICATED' in line for line in safe_server.lines)


def test_a_stream_needs_the_token_too(safe_client):
    answers = queue.Queue()
    safe_client.start_stream(lambda result, error: answers.put(error))
    assert "the request has no valid token" in answers.get(timeout=10).message()
    safe_client.stop_stream()


def test_probes_need_no_token(safe_client, safe_channel):
    assert safe_client.is_server_live() and safe_client.is_server_ready()
    answer = health_pb2_grpc.HealthStub(safe_channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_without_tls_nothing_is_answered(safe_server):
    with grpc.insecure_channel(f"localhost:{safe_server.grpc_port}") as channel:
        with pytest.raises(grpc.RpcError):
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)


def test_what_is_not_asked_for_is_off(safe_client):
    headers = {"authorization": f"Bearer {TOKEN}"}
    given = triton.InferInput("x", [1, 8], "FP32")
    given.set_shared_memory("r", 32)
    cases = [
        (lambda: safe_client.load_model("m", headers=headers), "start the server with allow_control"),
        (lambda: safe_client.unload_model("m", headers=headers), "start the server with allow_control"),
        (
            lambda: safe_client.register_system_shared_memory("r", "/x", 32, headers=headers),
            "start the server with a shared_memory_prefix",
        ),
        (lambda: safe_client.infer("m", [given], headers=headers), "start the server with a shared_memory_prefix"),
    ]
    for call, text in cases:
        with pytest.raises(InferenceServerException, match=text) as caught:
            call()
        assert caught.value.status() == "StatusCode.PERMISSION_DENIED"
    assert "system_shared_memory" not in safe_client.get_server_metadata(headers=headers).extensions


def test_a_port_that_is_taken_is_told(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "ascend_parallel", "serve", models.linear(), "--devices", "cpu:0"]
        command += ["--workers", "threads", "--port", "0", "--grpc-port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    text = f"cannot listen on 127.0.0.1:{port} (Address already in use); choose another port with --grpc-port, or 0 for"
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_what_was_accepted_is_answered_at_the_end(own_gate):
    """SIGTERM: clients that watch hear of it first; then accepted requests are answered, those of streams too."""
    factories = write_factories(own_gate.folder)
    done, answers = queue.Queue(), queue.Queue()
    with serving(f"{factories}:guarded", "--devices", "cpu:0", "--name", "m", "--grpc-port", "0") as server:
        address = f"127.0.0.1:{server.grpc_port}"
        with triton.InferenceServerClient(address) as client, grpc.insecure_channel(address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            client.start_stream(lambda result, error: answers.put((result, error)))
            client.async_infer("m", [tensor("x", rows(1))], lambda result, error: done.put((result, error)))
            go_on = own_gate.wait_for_batch()
            client.async_stream_infer("m", [tensor("x", rows(2))])
            server.process.send_signal(signal.SIGTERM)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert not client.is_server_ready()
            go_on()
            own_gate.wait_for_batch()()
            result, error = done.get(timeout=10)
            assert error is None and result.as_numpy("y")[0, 0] == 2
            result, error = answers.get(timeout=10)
            assert error is None and result.as_numpy("y")[0, 0] == 4
            result, error = answers.get(timeout=10)
            assert "the server is about to end; the stream's requests until now were answered" in error.message()
            with pytest.raises(grpc.RpcError, match="the server is about to end"):
                next(watch)
            assert server.end() == 0
            client.stop_stream()


def test_requests_that_hang_do_not_hold_the_end_up(tmp_path, own_gate):
    factories = write_factories(own_gate.folder)
    config = tmp_path / "config.yml"
    config.write_text(
        f'{{grpc_port: 0, drain_timeout_s: 1, models: [{{path: "{factories}:guarded", name: m, devices: "cpu:0"}}]}}'
    )
    done = queue.Queue()
    with serving(config) as server:
        with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
            client.async_infer("m", [tensor("x", rows(1))], lambda result, error: done.put(error))
            own_gate.wait_for_batch()
            assert server.end() == 0
            assert done.get(timeout=10) is not None


def test_all_messages_together_are_bounded(own_gate, tmp_path):
    """One large message waits; a second one is refused at once, and taken when the first is answered."""
    factories = write_factories(own_gate.folder)
    config = tmp_path / "config.yml"
    config.write_text(
        f"grpc_port: 0\nport: 0\nmax_body_bytes: 50000\nmax_pending_bytes: 50000\n"
        f"models:\n- {{path: '{factories}:guarded', name: m, devices: 'cpu:0'}}\n"
    )
    large = np.ones((1, 10_000), np.float32)
    done = queue.Queue()
    with serving(config) as server, triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        client.async_infer("m", [tensor("x", large)], lambda result, error: done.put((result, error)))
        go_on = own_gate.wait_for_batch()
        with pytest.raises(InferenceServerException, match="max_pending_bytes"):
            client.infer("m", [tensor("x", large)])
        with grpc.insecure_channel(
            f"127.0.0.1:{server.grpc_port}"
        ) as channel:  # an error in a stream names its request
            given = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=large.shape)
            request = service_pb2.ModelInferRequest(
                model_name="m", id="two", inputs=[given], raw_input_contents=[large.tobytes()]
            )
            (answer,) = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([request]))
        assert "max_pending_bytes" in answer.error_message and answer.infer_response.id == "two"
        go_on()
        assert done.get(timeout=10)[1] is None
        client.async_infer("m", [tensor("x", large)], lambda result, error: done.put((result, error)))
        own_gate.wait_for_batch()()
        assert done.get(timeout=10)[1] is None

"""The gRPC service, asked by Triton's own client and by gRPC's health client."""

import json
import queue
import re
import threading

import grpc
import models
import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as triton
import tritonclient.http
from faults.procs import wait_until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from .conftest import DATATYPES, rows, tensor


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    """The bare methods: for what the client would not send."""
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def failures(client, model):
    return client.get_inference_statistics(model).model_stats[0].inference_stats.fail.count


def pending(server, model):
    """Return how many requests of a model wait."""
    text = server.request("GET", "/metrics")[2].decode()
    return float(re.search(rf'pending_request_count{{model="{model}",version="1"}} (\S+)', text)[1])


def refused(call, *arguments, **options):
    """Return (name of the status, message) of an RPC that fails."""
    with pytest.raises((grpc.RpcError, InferenceServerException)) as caught:
        call(*arguments, **options)
    error = caught.value
    if isinstance(error, InferenceServerException):
        return error.status().removeprefix("StatusCode."), error.message()
    return error.code().name, error.details()


# ---- inference


@pytest.mark.parametrize("dtype", DATATYPES)
def test_each_datatype_comes_back_as_it_was_sent(client, dtype):
    x = np.arange(-6, 6).reshape(4, 3).astype(dtype)
    answer = client.infer("echo", [tensor("x", x)]).as_numpy("x_out")
    assert answer.dtype == x.dtype
    np.testing.assert_array_equal(answer, x)


@pytest.mark.parametrize("dtype", [dtype for dtype in DATATYPES if dtype != "float16"])
def test_elements_may_be_numbers_of_the_message(stub, dtype):
    x = np.array([[0, 1, 2], [3, 4, 120]]).astype(dtype)
    name = {"int64": "int64", "uint64": "uint64", "float32": "fp32", "float64": "fp64", "bool": "bool"}.get(
        dtype, "uint" if dtype.startswith("u") else "int"
    )
    given = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype=DATATYPES[dtype], shape=[2, 3])
    getattr(given.contents, f"{name}_contents").extend(x.ravel().tolist())
    answer = stub.ModelInfer(service_pb2.ModelInferRequest(model_name="echo", inputs=[given]))
    np.testing.assert_array_equal(np.frombuffer(answer.raw_output_contents[0], dtype), x.ravel())


def test_an_answer_is_the_models_bit_by_bit(client):
    x = models.weights(3, 8)
    expected = onnxruntime.InferenceSession(models.linear(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    np.testing.assert_array_equal(client.infer("linear", [tensor("x", x)]).as_numpy("y"), expected)


def test_id_version_and_requested_outputs(client):
    a, b = models.weights(2, 4), models.weights(4, 2).reshape(2, 4)
    wanted = [triton.InferRequestedOutput(name) for name in ("product", "total")]
    for identity in ("seven", ""):
        answer = client.infer(
            "two", [tensor("b", b), tensor("a", a)], model_version="1", outputs=wanted, request_id=identity
        )
        response = answer.get_response()
        assert (response.model_name, response.model_version, response.id) == ("two", "1", identity)
        assert [output.name for output in response.outputs] == ["product", "total"]
        np.testing.assert_array_equal(answer.as_numpy("total"), a + b)
        np.testing.assert_array_equal(answer.as_numpy("product"), a * b)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_messages_may_be_compressed(client, algorithm):
    x = np.zeros((1000, 8), np.float32)
    answer = client.infer("linear", [tensor("x", x)], compression_algorithm=algorithm)
    assert answer.as_numpy("y").shape == (1000, 5)


def test_many_clients_get_each_their_own_answer(server, client):
    done = queue.Queue()
    given = {}
    for number in range(200):
        given[str(number)] = rows(*range(number, number + number % 5 + 1))
        client.async_infer(
            model_name="moody",
            inputs=[tensor("x", given[str(number)])],
            callback=lambda result, error: done.put((result, error)),
            request_id=str(number),
        )
    while given:
        result, error = done.get(timeout=30)
        assert error is None
        np.testing.assert_array_equal(result.as_numpy("y"), 2 * given.pop(result.get_response().id))


# ---- streams


class Stream:
    """A client's stream: what comes is put into a queue."""

    def __init__(self, server):
        self._client = triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
        self._answers = queue.Queue()

    def __enter__(self):
        self._client.start_stream(lambda result, error: self._answers.put((result, error)))
        return self

    def __exit__(self, *exc_info):
        self._client.stop_stream()
        self._client.close()

    def send(self, model, x, identity="", **options):
        self._client.async_stream_infer(model, [tensor("x", x)], request_id=identity, **options)

    def receive(self):
        result, error = self._answers.get(timeout=30)
        return error.message() if error is not None else result


def test_answers_of_a_stream_are_in_the_order_of_its_requests(server):
    with Stream(server) as stream:
        for number in range(300):  # a slow model between quick ones; more than may be pending
            stream.send("moody" if number % 7 else "echo", rows(number), str(number))
        for number in range(300):
            answer = stream.receive()
            assert answer.get_response().id == str(number)
            assert answer.get_response().parameters["triton_final_response"].bool_param
            output, factor = ("y", 2) if number % 7 else ("x_out", 1)
            np.testing.assert_array_equal(answer.as_numpy(output), rows(number) * factor)


def test_an_error_in_a_stream_is_an_answer_and_the_stream_goes_on(server):
    with Stream(server) as stream:
        stream.send("moody", rows(1))
        stream.send("moody", rows(-1))
        stream.send("nothing", rows(1))
        stream.send("linear", rows(1))
        stream.send("moody", rows(2))
        assert stream.receive().as_numpy("y")[0, 0] == 2
        assert "a row of -1" in stream.receive()
        assert "there is no model 'nothing'" in stream.receive()
        assert "input 'x'" in stream.receive()
        assert stream.receive().as_numpy("y")[0, 0] == 4


def test_the_error_of_a_stream_names_its_request(stub):
    request = service_pb2.ModelInferRequest(model_name="nothing", id="seven")
    (answer,) = stub.ModelStreamInfer(iter([request]))
    assert answer.error_message.startswith("there is no model 'nothing'")
    assert answer.infer_response.id == "seven"


def test_what_a_client_has_sent_before_it_closed_its_side_is_answered(stub, gate):
    request = service_pb2.ModelInferRequest(model_name="gated")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    request.raw_input_contents.append(rows(1).tobytes())
    answers = stub.ModelStreamInfer(iter([request]))
    gate.wait_for_batch()()
    (answer,) = answers
    assert np.frombuffer(answer.infer_response.raw_output_contents[0], np.float32)[0] == 2


# ---- the end of requests


def test_a_request_that_is_cancelled_is_not_computed(server, client, gate):
    done = queue.Queue()

    def infer():
        return client.async_infer("gated", [tensor("x", rows(1))], lambda result, error: done.put(error))

    before = client.get_inference_statistics("gated").model_stats[0].inference_count
    failed = failures(client, "gated")
    infer()
    go_on = gate.wait_for_batch()
    waits = infer()
    wait_until(lambda: pending(server, "gated") == 1, "the second one waits", 10)
    waits.cancel()
    assert done.get(timeout=10) is not None
    wait_until(lambda: failures(client, "gated") == failed + 1, "the server has heard of it", 10)
    infer()
    go_on()
    assert done.get(timeout=10) is None
    gate.wait_for_batch()()
    assert done.get(timeout=10) is None
    assert client.get_inference_statistics("gated").model_stats[0].inference_count == before + 2


def test_the_requests_of_a_client_that_is_gone_are_dropped(server, client, gate):
    failed = failures(client, "gated")
    with Stream(server) as stream:
        stream.send("gated", rows(1))
        go_on = gate.wait_for_batch()
        stream.send("gated", rows(2))
        wait_until(lambda: pending(server, "gated") == 1, "the second one waits", 10)
        stream._client._stream._response_iterator.cancel()
        wait_until(lambda: failures(client, "gated") == failed + 2, "the server has heard of it", 10)
        go_on()
    client.infer("echo", [tensor("x", rows(1))])


def test_deadlines_are_kept(client, gate):
    """The deadline of gRPC, and Triton's parameter timeout, which the server keeps."""
    failed = failures(client, "gated")
    thread = threading.Thread(target=client.infer, args=("gated", [tensor("x", rows(1))]))
    thread.start()
    go_on = gate.wait_for_batch()
    assert refused(client.infer, "gated", [tensor("x", rows(2))], client_timeout=0.2)[0] == "DEADLINE_EXCEEDED"
    status, text = refused(client.infer, "gated", [tensor("x", rows(2))], timeout=200_000)
    assert status == "DEADLINE_EXCEEDED"
    assert text.startswith("the request was not answered in time: it has spent")
    wait_until(lambda: failures(client, "gated") == failed + 2, "the server has dropped both", 10)
    go_on()
    thread.join(10)


def test_a_full_queue_refuses_at_once_and_says_when_to_try_again(server, client, stub, gate):
    done = queue.Queue()

    def infer():
        client.async_infer("gated", [tensor("x", rows(1))], lambda result, error: done.put(error))

    infer()
    go_on = gate.wait_for_batch()
    infer()
    infer()
    wait_until(lambda: pending(server, "gated") == 2, "the queue is full", 10)
    request = service_pb2.ModelInferRequest(model_name="gated")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 3])
    request.raw_input_contents.append(rows(1).tobytes())
    with pytest.raises(grpc.RpcError, match="the queue is full: 2 requests wait; try again later") as caught:
        stub.ModelInfer(request)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
    go_on()
    gate.wait_for_batch()()
    assert [done.get(timeout=10) for _ in range(3)] == [None] * 3


def test_a_worker_that_dies_is_replaced(client):
    assert refused(client.infer, "moody", [tensor("x", rows(-2))])[0] == "INTERNAL"
    np.testing.assert_array_equal(client.infer("moody", [tensor("x", rows(4))]).as_numpy("y"), rows(8))


# ---- errors


def _request(**changes):
    request = service_pb2.ModelInferRequest(model_name="linear")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 8])
    request.raw_input_contents.append(bytes(32))
    for name, value in changes.items():
        setattr(request.inputs[0], name, value) if name != "raw" else request.raw_input_contents.__setitem__(0, value)
    return request


def _with_shape(*shape):
    request = _request()
    request.inputs[0].shape[:] = shape
    return request


def _with_parameter(holder_of, **parameters):
    request = _request()
    request.outputs.add(name="y")
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(holder_of(request).parameters[name], kind, value)
    return request


def _twice(what):
    request = _request()
    if what == "input":
        request.inputs.append(request.inputs[0])
        request.raw_input_contents.append(bytes(32))
    else:
        request.outputs.add(name="y")
        request.outputs.add(name="y")
    return request


def _with_contents(datatype="FP32", shape=(1, 8), **contents):
    request = service_pb2.ModelInferRequest(model_name="linear")
    request.inputs.add(name="x", datatype=datatype, shape=shape)
    for name, values in contents.items():
        getattr(request.inputs[0].contents, name).extend(values)
    return request


def _output(name):
    request = _request()
    request.outputs.add(name=name)
    return request


INVALID = "INVALID_ARGUMENT"
MISTAKES = [
    (_request(name="z"), INVALID, "'z'"),
    (_request(name=""), INVALID, "inputs[0] has no name"),
    (_request(datatype="FP31"), INVALID, "input 'x' has the datatype 'FP31'; expected one of BOOL"),
    (
        _request(datatype="BYTES"),
        INVALID,
        "input 'x' has the datatype BYTES, but 'linear' is a model, and no engine",
    ),
    (_request(datatype="INT32"), INVALID, "input 'x' is int32, the model takes float32"),
    (_with_shape(1, 7), INVALID, "input 'x' has 32 bytes of raw_input_contents, but its shape [1, 7]"),
    (_with_shape(8), INVALID, "input 'x'"),
    (_with_shape(-1, 8), INVALID, "input 'x': shape is [-1, 8]; expected up to 32 whole numbers of at least 0"),
    (_with_shape(0, 1 << 62, 1 << 62), INVALID, "which is too large"),
    (_with_shape(*[1] * 33), INVALID, "expected up to 32"),
    (_request(raw=b""), INVALID, "input 'x' has 0 bytes of raw_input_contents"),
    (_twice("input"), INVALID, "an input is given twice: x, x"),
    (_twice("output"), INVALID, "an output is asked for twice"),
    (_output("z"), INVALID, "the model has no output 'z'; it has y"),
    (_output(""), INVALID, "an output that is asked for has no name"),
    (service_pb2.ModelInferRequest(model_name="linear"), INVALID, "input"),
    (service_pb2.ModelInferRequest(model_name="nothing"), "NOT_FOUND", "there is no model 'nothing'; the models are:"),
    (
        service_pb2.ModelInferRequest(model_name="linear", model_version="7"),
        "NOT_FOUND",
        "has no version '7'; it has 1",
    ),
    (_with_contents(), INVALID, "input 'x' has no elements: neither raw_input_contents nor contents"),
    (_with_contents(fp32_contents=[1, 2]), INVALID, "input 'x' has 2 elements, but its shape is [1, 8]"),
    (_with_contents(int_contents=[1] * 8), INVALID, "its elements go to fp32_contents; it has int_contents"),
    (_with_contents("FP16", fp32_contents=[1] * 8), INVALID, "input 'x' is FP16, which has no contents"),
    (_with_contents("INT8", int_contents=[128] * 8), INVALID, "its elements go from 128 to 128, beyond int8"),
    (_with_parameter(lambda r: r, sequence_id=3), INVALID, "sequence_id is given, but this server has no sequences"),
    (_with_parameter(lambda r: r, timeout="soon"), INVALID, "timeout is 'soon'; expected a number of microseconds"),
    (_with_parameter(lambda r: r.outputs[0], classification=3), INVALID, "no classification extension"),
    (_with_parameter(lambda r: r.inputs[0], shared_memory_region="r"), INVALID, "shared_memory_byte_size and"),
]


@pytest.mark.parametrize("request_, status, text", MISTAKES, ids=[text for _, _, text in MISTAKES])
def test_what_is_wrong_is_told(stub, request_, status, text):
    code, details = refused(stub.ModelInfer, request_)
    assert code == status
    assert text in details
    stub.ModelInfer(_request())


def test_raw_contents_are_one_for_each_input(stub):
    request = _request()
    request.raw_input_contents.append(b"more")
    assert refused(stub.ModelInfer, request) == (
        INVALID,
        "there are 2 raw_input_contents for 1 inputs that have neither contents nor a shared-memory region; expected "
        "one for each",
    )


def test_what_is_no_message_is_told(channel):
    for method, name in (("ModelInfer", "ModelInferRequest"), ("ModelMetadata", "ModelMetadataRequest")):
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        assert refused(call, b"\xff\xff") == (INVALID, f"the message is no {name}")


def test_a_message_above_the_limit_is_refused(client):
    x = np.zeros((1 << 18, 8), np.float32)
    assert refused(client.infer, "linear", [tensor("x", x)])[0] == "RESOURCE_EXHAUSTED"
    assert refused(client.infer, "linear", [tensor("x", x)], compression_algorithm="gzip")[0] == "RESOURCE_EXHAUSTED"
    client.infer("linear", [tensor("x", x[:10])])


def test_an_engine_s_long_error_fits_into_a_status(client):
    status, text = refused(client.infer, "moody", [tensor("x", rows(-1))])
    assert status == "INTERNAL"
    assert "a row of -1" in text


def test_methods_that_the_server_does_not_have_are_unimplemented(client):
    assert refused(client.get_trace_settings)[0] == "UNIMPLEMENTED"
    assert refused(client.get_cuda_shared_memory_status)[0] == "UNIMPLEMENTED"


# ---- what the server tells


def test_both_protocols_tell_the_same(server, client):
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}") as http:
        pairs = [
            (client.get_server_metadata(as_json=True), http.get_server_metadata()),
            (client.get_model_metadata("two", as_json=True), http.get_model_metadata("two")),
            (client.get_model_repository_index(as_json=True)["models"], http.get_model_repository_index()),
        ]
        for grpc_side, http_side in pairs:
            assert _plain(grpc_side) == _plain(http_side)
        config = client.get_model_config("linear").config
        assert json.loads(http._get("v2/models/linear/config", None, None).read())["max_batch_size"] == 16
    assert (config.name, config.max_batch_size, config.backend) == ("linear", 16, "ascend_parallel")
    assert [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in config.input] == [("x", 11, [8])]
    assert [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in config.output] == [("y", 11, [5])]


def _plain(value):
    """Return JSON without what is empty, and numbers for the text that JSON has for 64 bits."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items() if part not in ("", [])}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return int(value) if isinstance(value, str) and value.lstrip("-").isdigit() else value


def test_readiness(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("linear") and client.is_model_ready("linear", "1")
    assert not client.is_model_ready("nothing") and not client.is_model_ready("linear", "7")


def test_statistics(client):
    before = client.get_inference_statistics("two").model_stats[0]
    client.infer("two", [tensor("a", models.weights(3, 4)), tensor("b", models.weights(3, 4))])
    after = client.get_inference_statistics("two").model_stats[0]
    assert after.inference_count == before.inference_count + 3
    assert after.execution_count == before.execution_count + 1
    assert after.inference_stats.success.ns > before.inference_stats.success.ns
    names = [stats.name for stats in client.get_inference_statistics().model_stats]
    assert names == ["linear", "two", "echo", "moody", "gated"]


def test_models_are_loaded_and_unloaded(client):
    client.unload_model("two")
    assert not client.is_model_ready("two")
    client.load_model("two")
    assert client.is_model_ready("two")
    assert refused(client.load_model, "nothing") == ("NOT_FOUND", "the configuration has no model 'nothing'")
    assert refused(client.load_model, "two", config="{}")[0] == INVALID


def test_health(server, channel):
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "inference.GRPCInferenceService"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert refused(stub.Check, health_pb2.HealthCheckRequest(service="nothing"))[0] == "NOT_FOUND"
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="nothing"))
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()

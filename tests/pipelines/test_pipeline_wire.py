"""Pipelines over the wire, with real clients: text in and out, what is a tensor, and what is refused."""

import concurrent.futures
import json
import shutil
import struct
import subprocess
import threading
import uuid

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
import tritonclient.utils.shared_memory as shm
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from ascend_parallel.errors import RefusedError, ShapeError
from ascend_parallel.serving.bytes_tensor import MAX_ELEMENTS, decode, encode, to_bytes_array
from ascend_parallel.serving.http.app import error_response

from . import wire_ops
from .wire_ops import model, python

TEXTS = np.array([b"hello", b"", "gr\u00fcn".encode(), b"a\x00b"], object)
CLIENTS = {"http": triton_http, "grpc": triton_grpc}
PREFIX = f"ascend-parallel-test-{uuid.uuid4().hex[:8]}-"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wire")
    graph = [
        model("twice", inputs={"x": "request.x"}),
        python("thrice", "Moody"),
        python("sums", "Sums", inputs={"x": "request.x", "y": "twice.y", "z": "thrice.y"}),
    ]
    pipelines = [
        {"name": "echo", "ops": [python("echo", "Echo")]},
        {"name": "words", "ops": [python("words", "Words")]},
        {"name": "kinds", "ops": [python("kinds", "Kinds")], "outputs": "kinds"},
        {"name": "logged", "ops": [python("kinds", "Kinds")]},
        {"name": "graph", "ops": graph},
        {"name": "model_first", "ops": [model("twice")]},
    ]
    models = [{"path": "wire_test_ops.py:twice", "name": "m", "devices": "cpu:0"}]
    settings = {"grpc_port": 0, "shared_memory_prefix": PREFIX, "max_body_bytes": 4 << 20, "models": models}
    with wire_ops.serving_pipelines(folder, *pipelines, **settings) as server:
        yield server


@pytest.fixture(scope="module")
def clients(server):
    http = triton_http.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=16)
    grpc_client = triton_grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
    yield {"http": http, "grpc": grpc_client}
    http.close()
    grpc_client.close()


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="module")
def web(server):
    with httpx.Client(base_url=server.url, timeout=30) as web:
        yield web


def post(web, pipeline, *inputs, **more):
    body = json.dumps({"inputs": list(inputs), **more}).encode()
    return web.post(f"/v2/models/{pipeline}/infer", content=body)


def numbers(value, name="x"):
    return {"name": name, "datatype": "FP32", "shape": [1, 2], "data": [value, value]}


def text(data, shape=None, name="text"):
    return {"name": name, "datatype": "BYTES", "shape": shape or [len(data)], "data": data}


def outputs_of(answer):
    return {output["name"]: output for output in answer.json()["outputs"]}


# ---- text in and out


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("protocol", CLIENTS)
def test_text_comes_back_through_nvidias_clients(clients, protocol, binary):
    triton = CLIENTS[protocol]
    given = triton.InferInput("text", [2, 2], "BYTES")
    how = {} if protocol == "grpc" else {"binary_data": binary}
    given.set_data_from_numpy(TEXTS.reshape(2, 2), **how)
    wanted = [triton.InferRequestedOutput(name, **how) for name in ("raw", "upper", "lengths", "count")]
    answer = clients[protocol].infer("words", [given], outputs=wanted)
    raw = answer.as_numpy("raw")
    assert raw.shape == (2, 2)
    as_bytes = [each if isinstance(each, bytes) else each.encode() for each in raw.ravel()]
    assert as_bytes == TEXTS.tolist()  # JSON has strings
    upper = [each if isinstance(each, bytes) else each.encode() for each in answer.as_numpy("upper")]
    assert upper == [each.decode().upper().encode() for each in TEXTS]
    assert answer.as_numpy("lengths").tolist() == [5, 0, 5, 3]
    assert answer.as_numpy("count").tolist() == [4] and answer.as_numpy("count").dtype == np.int64


def test_bytes_that_are_no_text_come_back_as_bytes(clients):
    picture = np.array([bytes(range(256)) * 400], object)  # 100 KB: they arrive in shared memory
    for protocol, triton in CLIENTS.items():
        given = triton.InferInput("x", [1], "BYTES")
        given.set_data_from_numpy(picture)
        assert clients[protocol].infer("echo", [given]).as_numpy("x_out").tolist() == picture.tolist()


def test_text_as_contents_of_grpc(stub):
    given = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="BYTES", shape=[2])
    given.contents.bytes_contents.extend([b"\xff", b"b"])
    empty = service_pb2.ModelInferRequest.InferInputTensor(name="y", datatype="BYTES", shape=[0, 3])
    answer = stub.ModelInfer(service_pb2.ModelInferRequest(model_name="echo", inputs=[given, empty]))
    assert {output.name: (output.datatype, list(output.shape)) for output in answer.outputs} == {
        "x_out": ("BYTES", [2]),
        "y_out": ("BYTES", [0, 3]),
    }
    assert list(answer.raw_output_contents) == [b"\x01\0\0\0\xff\x01\0\0\0b", b""]


def test_curl(server):
    curl = shutil.which("curl")
    assert curl
    body = json.dumps({"id": "7", "inputs": [text(["a", "\u00fc"])]})
    command = [curl, "-s", "--data", body, f"{server.url}/v2/models/words/infer"]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)
    assert answer == {
        "model_name": "words",
        "model_version": "1",
        "id": "7",
        "outputs": [
            {"name": "upper", "datatype": "BYTES", "shape": [2], "data": ["A", "\u00dc"]},
            {"name": "lengths", "datatype": "INT64", "shape": [2], "data": [1, 2]},
            {"name": "count", "datatype": "INT64", "shape": [1], "data": [2]},
            {"name": "raw", "datatype": "BYTES", "shape": [2], "data": ["a", "\u00fc"]},
        ],
    }


@pytest.mark.parametrize(("data", "shape"), [([["a"], ["b"]], [2, 1]), (["a", "b"], [1, 2]), ([], [0]), (["a"], [])])
def test_strings_are_flat_or_nested_by_shape(web, data, shape):
    answer = post(web, "echo", text(data, shape or [1], "x") if shape else {**text(data, name="x"), "shape": []})
    assert answer.status_code == 200, answer.text
    output = outputs_of(answer)["x_out"]
    assert (output["shape"], output["data"]) == (shape or [1], [each for row in data for each in row])


def test_bytes_that_are_no_text_have_no_json(clients, web):
    given = triton_http.InferInput("x", [2], "BYTES")
    given.set_data_from_numpy(np.array([b"a", b"\xff"], object))
    wanted = triton_http.InferRequestedOutput("x_out", binary_data=False)
    with pytest.raises(
        InferenceServerException, match="element 1 is no UTF-8 text.* ask for it as binary data"
    ) as seen:
        clients["http"].infer("echo", [given], outputs=[wanted])
    assert seen.value.status() == "400"


@pytest.mark.parametrize("protocol", CLIENTS)
def test_text_in_shared_memory(clients, protocol):
    triton, client = CLIENTS[protocol], clients[protocol]
    data = serialize_byte_tensor(TEXTS).item()
    region = shm.create_shared_memory_region("texts", f"/{PREFIX}{protocol}", 1024)
    try:
        shm.set_shared_memory_region(region, [serialize_byte_tensor(TEXTS)])
        client.register_system_shared_memory("texts", f"/{PREFIX}{protocol}", 1024)
        given = triton.InferInput("x", [4], "BYTES")
        given.set_shared_memory("texts", len(data))
        wanted = triton.InferRequestedOutput("x_out")
        wanted.set_shared_memory("texts", 512, offset=512)
        answer = client.infer("echo", [given], outputs=[wanted])
        assert shm.get_contents_as_numpy(region, np.uint8, [len(data)], 512).tobytes() == data
        assert _size_in_region(answer.get_response()) == len(data)
        given.set_shared_memory("texts", len(data) - 1)
        with pytest.raises(InferenceServerException, match="element 3 is to have 3 bytes, but only 2 follow"):
            client.infer("echo", [given])
        given.set_shared_memory("texts", len(data))
        wanted.set_shared_memory("texts", 8, offset=512)
        with pytest.raises(
            InferenceServerException, match=f"has {len(data)} bytes, but its shared_memory_byte_size is 8"
        ):
            client.infer("echo", [given], outputs=[wanted])
    finally:
        client.unregister_system_shared_memory("texts")
        shm.destroy_shared_memory_region(region)


def _size_in_region(response):
    if isinstance(response, dict):
        return response["outputs"][0]["parameters"]["shared_memory_byte_size"]
    return response.outputs[0].parameters["shared_memory_byte_size"].int64_param


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_the_bytes_are_those_of_nvidias_clients(elements):
    array = to_bytes_array(elements, (len(elements), 1))
    serialized = serialize_byte_tensor(array)
    theirs = serialized.item() if serialized.size else b""
    assert encode(array).tobytes() == theirs
    assert decode("x", theirs, array.shape).tolist() == array.tolist()


@given(st.binary(max_size=64), st.integers(0, 9))
def test_whatever_bytes_come_they_are_read_or_refused(data, count):
    try:
        array = decode("x", data, (count,))
    except ShapeError:
        return
    assert encode(array).tobytes() == data


def binary(web, size, data, *, shape=(1,), declared=True, pipeline="echo"):
    tensor = {"name": "x", "datatype": "BYTES", "shape": list(shape)}
    tensor["parameters"] = {"binary_data_size": size}
    head = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return web.post(f"/v2/models/{pipeline}/infer", content=head + data, headers=headers)


@pytest.mark.parametrize(
    ("shape", "size", "data", "error"),
    [
        ((1,), 5, b"\x09\0\0\0a", "element 0 is to have 9 bytes, but only 1 follow"),
        ((1,), 5, b"\xff\xff\xff\xffa", "element 0 is to have 4294967295 bytes"),
        ((2,), 8, b"\x02\0\0\0abcd", "bytes end before element 1 of 2"),
        ((1,), 6, b"\x01\0\0\0ab", "1 bytes follow its 1 elements"),
        ((1 << 19,), 4, b"\0\0\0\0", "makes 524288 elements, for which 4 bytes are too few"),
        ((MAX_ELEMENTS + 1,), 4, b"\0\0\0\0", f"at most {MAX_ELEMENTS} a tensor"),
        ((1 << 40, 1 << 40), 4, b"\0\0\0\0", "too large"),
        ((1,), 7, b"\x01\0\0\0a", "5 bytes follow the JSON, but its binary_data_size values add up to 7"),
        ((1,), -1, b"", "binary_data_size is -1"),
        ((1,), "5", b"\x01\0\0\0a", "binary_data_size is '5'"),
        ((1,), 1 << 70, b"\x01\0\0\0a", "5 bytes follow the JSON"),
    ],
)
def test_lengths_that_lie(web, shape, size, data, error):
    answer = binary(web, size, data, shape=shape)
    assert answer.status_code == 400 and error in answer.json()["error"], answer.text


@pytest.mark.parametrize(
    ("tensor", "error"),
    [
        (text([1], name="x"), "data holds what is no string"),
        (text(["a", 1], name="x"), "data holds what is no string"),
        (text(["a"], [2], "x"), "data has 1 elements (1,); its shape is [2]"),
        (text([["a"], ["b", "c"]], [3], "x"), "ragged"),
        ({**text([], name="x"), "datatype": "FP32", "data": ["1"], "shape": [1]}, "data holds what is no number"),
        ({**text([], name="x"), "datatype": "STRING"}, "expected one of BOOL"),
    ],
)
def test_strings_that_are_wrong(web, tensor, error):
    answer = post(web, "echo", tensor)
    assert answer.status_code == 400 and error in answer.json()["error"], answer.text


def test_the_limit_of_the_body_holds_for_text(web):
    answer = binary(web, (4 << 20) + 4, struct.pack("<I", 4 << 20) + bytes(4 << 20))
    assert answer.status_code == 413 and "max_body_bytes" in answer.text


def test_raw_contents_of_grpc_that_lie(stub):
    given = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="BYTES", shape=[2])
    for raw, error in [(b"\x01\0\0\0a", "too few"), (b"\x01\0\0\0a\x09\0\0\0", "only 0 follow")]:
        with pytest.raises(grpc.RpcError, match=error) as seen:
            stub.ModelInfer(service_pb2.ModelInferRequest(model_name="echo", inputs=[given], raw_input_contents=[raw]))
        assert seen.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    given.contents.bytes_contents.extend([b"a"])
    with pytest.raises(grpc.RpcError, match="has 1 elements, but its shape is"):
        stub.ModelInfer(service_pb2.ModelInferRequest(model_name="echo", inputs=[given]))


@pytest.mark.parametrize(
    ("served", "error"),
    [
        ("m", "input 'x' has the datatype BYTES, but 'm' is a model, and no engine takes text"),
        ("model_first", "op 'twice': input 'x' holds object elements; expected numbers or booleans"),
    ],
)
def test_a_model_takes_no_text(web, clients, served, error):
    answer = post(web, served, text(["a"], name="x"))
    assert answer.status_code == 400 and error in answer.json()["error"], answer.text
    given = triton_grpc.InferInput("x", [1], "BYTES")
    given.set_data_from_numpy(np.array([b"a"], object))
    with pytest.raises(InferenceServerException, match=error):
        clients["grpc"].infer(served, [given])


# ---- what is a tensor


KINDS = {
    "flag": ("BOOL", [1], [True]),
    "number": ("INT64", [1], [7]),
    "share": ("FP64", [1], [0.25]),
    "narrow": ("FP32", [1], [1.5]),
    "text": ("BYTES", [1], ["gr\u00fcn"]),
    "numbers": ("INT64", [3], [1, 2, 3]),
    "rows": ("FP64", [2, 2], [1.5, 2.5, 3.5, 4.5]),
    "texts": ("BYTES", [2, 2], ["a", "b", "c", "d"]),
    "arrays": ("INT8", [2, 2], [0, 0, 1, 1]),
    "words": ("BYTES", [2], ["x", "yz"]),
    "none": ("FP64", [0], []),
    "no_texts": ("BYTES", [0], []),
    "array": ("UINT8", [2, 3], [0, 1, 2, 3, 4, 5]),
}


def test_what_ops_give_is_a_tensor(web, clients):
    answer = post(web, "kinds", numbers(0), outputs=[{"name": name} for name in KINDS])
    assert answer.status_code == 200, answer.text
    outputs = outputs_of(answer)
    assert {name: (o["datatype"], o["shape"], o["data"]) for name, o in outputs.items()} == KINDS
    given = triton_grpc.InferInput("x", [1], "FP32")
    given.set_data_from_numpy(np.zeros(1, np.float32))
    assert clients["grpc"].infer("kinds", [given]).as_numpy("bytes").tolist() == [b"\x00\xff"]


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (1, "is None, which is no tensor"),
        (2, "is a dict, which is no tensor"),
        (3, "is a list that is ragged"),
        (4, "is a list with None"),
        (5, "is a list with text and an int"),
        (6, "is a number that is too large"),
        (7, "is an array of complex128"),
        (8, "which UTF-8 does not have"),
    ],
)
def test_what_is_no_tensor_is_an_error_that_names_op_and_output(web, value, error):
    answer = post(web, "kinds", numbers(value))
    assert answer.status_code == 500, answer.text
    assert answer.json()["error"].startswith("op 'kinds': the output 'wrong' ") and error in answer.json()["error"]


def test_what_is_no_tensor_is_logged_once(web, server):
    identity = uuid.uuid4().hex
    assert post(web, "logged", numbers(1), id=identity).status_code == 500
    wire_ops.wait_until(lambda: any(identity in line for line in server.lines), "nothing is logged")
    (line,) = [line for line in server.lines if identity in line]
    assert "for model logged version 1 failed (error): EngineError: op 'kinds': the output 'wrong'" in line


def test_an_output_that_is_not_there(web):
    answer = post(web, "kinds", numbers(0), outputs=[{"name": "nothing"}])
    assert answer.status_code == 400 and "has no output 'nothing'" in answer.json()["error"]


# ---- refused


def test_an_app_of_another_server_tells_the_code_too():
    response = error_response(RefusedError("the picture is too dark", code=77))
    assert (response.status_code, json.loads(response.body)) == (422, {"error": "the picture is too dark", "code": 77})


def test_an_op_refuses_with_its_code(web, stub):
    answer = post(web, "graph", numbers(-5))
    assert (answer.status_code, answer.json()) == (422, {"error": "the picture is too dark", "code": 77})
    given = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1])
    given.contents.fp32_contents.append(-5)
    request = service_pb2.ModelInferRequest(model_name="graph", inputs=[given], id="a")
    with pytest.raises(grpc.RpcError) as seen:
        stub.ModelInfer(request)
    assert seen.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert seen.value.details() == "the picture is too dark"
    assert ("error-code", "77") in [tuple(pair) for pair in seen.value.trailing_metadata()]
    (streamed,) = stub.ModelStreamInfer(iter([request]))
    assert streamed.error_message == "the picture is too dark"
    assert streamed.infer_response.parameters["error_code"].string_param == "77"


# ---- many at once


@pytest.mark.parametrize("protocol", CLIENTS)
def test_64_clients_at_once_each_get_their_own(server, protocol):
    triton = CLIENTS[protocol]
    port = server.port if protocol == "http" else server.grpc_port
    start = threading.Barrier(64)

    def ask(number):
        rng = np.random.default_rng(number)
        found = []
        client = triton.InferenceServerClient(f"127.0.0.1:{port}")  # that of HTTP is not thread-safe
        start.wait(30)
        for _ in range(3):
            x = rng.standard_normal((rng.integers(1, 6), rng.integers(1, 9))).astype(np.float32)
            refused = number % 8 == 0
            if refused:
                x[0, 0] = -5
            given = triton.InferInput("x", x.shape, "FP32")
            given.set_data_from_numpy(x)
            try:
                answer = client.infer("graph", [given], request_id=str(number))
            except InferenceServerException as error:
                found.append(refused and "too dark" in str(error))
            else:
                expected = x + x * 2 + x * 3
                same = answer.as_numpy("sum").tobytes() == expected.tobytes() and not refused
                found.append(same and answer.as_numpy("rows").tolist() == [len(x)])
        client.close()
        return found

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        assert all(all(found) for found in pool.map(ask, range(64)))

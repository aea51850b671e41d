"""The Open Inference Protocol over REST, with real clients, and what is no request."""

import gzip
import json
import shutil
import subprocess
import zlib

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from ascend_parallel.serving.datatypes import DTYPES

from .servers import encode_request, serving
from .serving_models import write_factories


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rest")
    write_factories(folder)
    config = folder / "config.yml"
    model = "{{path: 'serving_factories.py:{}', name: {}, version: {}, devices: 'cpu:0'}}"
    models = [model.format("echo", "echo", 1), model.format("twice", "m", 2), model.format("twice", "m", 10)]
    config.write_text("port: 0\nmodels: [{}]\n".format(", ".join(models)))
    with serving(config) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    client = triton.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=8)
    yield client
    client.close()


@pytest.fixture(scope="module")
def web(server):
    with httpx.Client(base_url=server.url, timeout=30) as web:
        yield web


def post(web, body, model="echo", **arguments):
    return web.post(f"/v2/models/{model}/infer", content=body, **arguments)


def tensor(name="x", datatype="FP32", shape=(1, 2), **more):
    return {"name": name, "datatype": datatype, "shape": list(shape), **more}


def request(*inputs, **more):
    return json.dumps({"inputs": list(inputs), **more}).encode()


def samples(dtype):
    if dtype.kind == "b":
        return np.array([[True, False, True]])
    if dtype.kind == "f":
        return np.array([[0.5, -1.25, 3]], dtype)
    info = np.iinfo(dtype)
    return np.array([[info.min, 7, info.max]], dtype)


# ---- real clients


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", DTYPES)
def test_each_datatype_comes_back(client, datatype, binary):
    x = samples(DTYPES[datatype])
    given = triton.InferInput("x", x.shape, np_to_triton_dtype(x.dtype))
    wanted = triton.InferRequestedOutput("x_out", binary_data=binary)
    if datatype == "FP16" and not binary:
        given.set_data_from_numpy(x)
        with pytest.raises(InferenceServerException, match="FP16, which has no JSON form"):
            client.infer("echo", [given], outputs=[wanted])
        return
    given.set_data_from_numpy(x, binary_data=binary)
    found = client.infer("echo", [given], outputs=[wanted]).as_numpy("x_out")
    assert found.dtype == x.dtype and np.array_equal(found, x)


def test_tritons_client_sees_the_server(client):
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("m", "2")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("m")["versions"] == ["2", "10"]
    index = {(entry["name"], entry["version"]): entry["state"] for entry in client.get_model_repository_index()}
    assert index == {("echo", "1"): "READY", ("m", "2"): "READY", ("m", "10"): "READY"}


def test_many_requests_of_tritons_client_at_once(client):
    given = []
    for i in range(60):
        x = np.full((1 + i % 5, 3), i, np.float32)
        given.append((x, triton.InferInput("x", x.shape, "FP32")))
        given[-1][1].set_data_from_numpy(x)
    waiting = [client.async_infer("m", [tensor], request_id=str(i)) for i, (_, tensor) in enumerate(given)]
    for i, ((x, _), each) in enumerate(zip(given, waiting, strict=True)):
        result = each.get_result()
        assert result.get_response()["id"] == str(i)
        assert np.array_equal(result.as_numpy("y"), 2 * x)


def test_statistics_count(client):
    before = client.get_inference_statistics("m", "2")["model_stats"][0]
    x = triton.InferInput("x", [3, 1], "FP32")
    x.set_data_from_numpy(np.ones((3, 1), np.float32))
    client.infer("m", [x], model_version="2")
    after = client.get_inference_statistics("m", "2")["model_stats"][0]
    assert after["inference_count"] == before["inference_count"] + 3
    assert after["execution_count"] == before["execution_count"] + 1
    assert after["inference_stats"]["success"]["count"] == before["inference_stats"]["success"]["count"] + 1


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_of_tritons_client(client, algorithm):
    x = np.ones((2, 3), np.float32)
    given = triton.InferInput("x", x.shape, "FP32")
    given.set_data_from_numpy(x)
    result = client.infer(
        "m", [given], request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
    )
    assert np.array_equal(result.as_numpy("y"), 2 * x)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl(server):
    body = request(tensor(data=[[1.5, 2]]), id="seven")
    command = ["curl", "-sS", "--fail-with-body", "-d", body, f"{server.url}/v2/models/m/infer"]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert answer == {
        "model_name": "m",
        "model_version": "10",
        "id": "seven",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [3.0, 4.0]}],
    }


# ---- the protocol


def test_outputs_as_asked_for(web):
    inputs = [tensor("a", data=[1, 2]), tensor("b", data=[3, 4])]
    outputs = [{"name": "b_out"}, {"name": "a_out", "parameters": {"binary_data": True}}]
    answer = post(web, request(*inputs, outputs=outputs))
    assert answer.status_code == 200
    end = int(answer.headers["inference-header-content-length"])
    described = json.loads(answer.content[:end])["outputs"]
    assert [output["name"] for output in described] == ["b_out", "a_out"]
    assert described[0]["data"] == [3.0, 4.0] and described[1]["parameters"] == {"binary_data_size": 8}
    assert np.array_equal(np.frombuffer(answer.content[end:], np.float32), [1, 2])


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]]])
def test_json_data_may_be_flat_or_nested(web, data):
    answer = post(web, request(tensor(shape=[2, 2], data=data)))
    assert answer.json()["outputs"][0]["data"] == [1, 2, 3, 4]


def test_versions(web):
    for path, version in (("m", "10"), ("m/versions/2", "2")):
        assert post(web, request(tensor(data=[1, 2])), path).json()["model_version"] == version
    assert web.get("/v2/models/m/versions/2/ready").status_code == 200
    assert post(web, b"{}", "m/versions/3").status_code == 404
    assert "it has 2, 10" in web.get("/v2/models/m/versions/3").json()["error"]


def test_mixed_forms_of_inputs(web):
    a, b = np.float32([[1, 2]]), np.int64([[5, 6]])
    head = request(
        tensor("a", parameters={"binary_data_size": 8}),
        tensor("j", "INT32", data=[7, 8]),
        tensor("b", "INT64", parameters={"binary_data_size": 16}),
    )
    headers = {"Inference-Header-Content-Length": str(len(head))}
    answer = post(web, head + a.tobytes() + b.tobytes(), headers=headers).json()
    assert [output["data"] for output in answer["outputs"]] == [[1, 2], [7, 8], [5, 6]]


def test_large_bodies_arrive_in_pieces(web):
    x, flags = np.random.rand(300, 1000).astype(np.float32), np.ones((300, 1), bool)
    end, body = encode_request({"flags": flags, "x": x})  # x is not aligned behind 300 flags
    pieces = (body[at : at + 40_000] for at in range(0, len(body), 40_000))
    headers = {"Inference-Header-Content-Length": str(end), "Content-Length": str(len(body))}
    answer = post(web, pieces, headers=headers)
    assert answer.status_code == 200, answer.text
    start = int(answer.headers["inference-header-content-length"]) + flags.nbytes
    assert np.array_equal(np.frombuffer(answer.content[start:], np.float32), x.ravel())


BAD = [
    (b"", "not JSON"),
    (b"[]", "the body is []; expected an object"),
    (b"{}", "inputs is missing; expected an array"),
    (request(), "there are no inputs"),
    (request(3), "inputs[0] is 3; expected an object"),
    (request({"datatype": "FP32"}), "inputs[0].name is missing"),
    (request(tensor(datatype="FP31", data=[1, 2])), "datatype 'FP31'; expected one of BOOL"),
    (request(tensor(datatype="BYTES", data=["a", "b"])), "'echo' is a model, and no engine takes text"),
    (request(tensor(datatype="FP16", data=[1, 2])), "FP16, which has no JSON form"),
    (request(tensor(shape="x", data=[1, 2])), "shape"),
    (request(tensor(shape=[-1, 2], data=[1, 2])), "shape is [-1, 2]"),
    (request(tensor(shape=[1 << 62, 1 << 62], data=[1, 2])), "which is too large"),
    (request(tensor(shape=[1 << 50], data=[1, 2])), "data has 2 elements"),
    (request(tensor(shape=[1] * 40, data=[1])), "up to 32"),
    (request(tensor()), "needs one of data"),
    (request(tensor(data=[1])), "data has 1 elements"),
    (request(tensor(data=[[1], [2, 3]])), "ragged"),
    (request(tensor(data=["1", "2"])), "data holds what is no number"),
    (request(tensor(datatype="INT8", data=[1, 300])), "beyond int8"),
    (request(tensor(datatype="INT8", data=[1, 2.5])), "no whole number"),
    (request(tensor(datatype="BOOL", data=[1, 0])), "no boolean"),
    (request(tensor(data=[1e300, 0])), "beyond float32"),
    (request(tensor(data=[1, 2]), tensor(data=[1, 2])), "given twice"),
    (request(tensor(data=[1, 2]), id=5), "id is 5; expected a string"),
    (request(tensor(data=[1, 2]), outputs=[{"name": "nix"}]), "no output 'nix'; it has x_out"),
    (request(tensor(data=[1, 2]), outputs=[{"name": "y"}, {"name": "y"}]), "asked for twice"),
    (request(tensor(data=[1, 2]), parameters={"sequence_id": 3}), "no sequences"),
    (request(tensor(data=[1, 2]), parameters={"timeout": -1}), "microseconds"),
    (request(tensor(data=[1, 2], parameters={"shared_memory_region": "r", "shared_memory_byte_size": 8})), "one of"),
    (request(tensor(parameters={"binary_data_size": 8})), "0 bytes follow the JSON"),
    (request(tensor(parameters={"binary_data_size": 9})), "binary_data_size is 9"),
    (request(tensor(shape=[0, 2], data=[])), "0 rows"),
    (b'{"inputs": ' + b"[" * 5000 + b"]" * 5000 + b"}", "recursion"),
]


@pytest.mark.parametrize(("body", "error"), BAD, ids=[error for _, error in BAD])
def test_what_is_wrong_is_said(web, body, error):
    answer = post(web, body)
    assert answer.status_code == 400, answer.text
    assert error in answer.json()["error"]


def test_unknown_models_and_routes(web):
    for answer in (post(web, b"{}", "other"), web.get("/v2/models/other"), web.get("/v2/other")):
        assert answer.status_code == 404 and "there is no" in answer.json()["error"]


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_compressed_bodies_are_bounded(web, compress):
    encoding = "gzip" if compress is gzip.compress else "deflate"
    answer = post(web, compress(b" " * (65 << 20)), headers={"Content-Encoding": encoding})
    assert answer.status_code == 413
    cut = compress(request(tensor(data=[1, 2])))[:-6]
    assert post(web, cut, headers={"Content-Encoding": encoding}).status_code == 400


def test_the_requests_own_timeout_is_kept(web):
    answer = post(web, request(tensor(data=[1, 2]), parameters={"timeout": 1}))
    assert answer.status_code == 504 and "was not answered in time" in answer.json()["error"]


# ---- fuzz

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_mutated_request_is_no_fault_of_the_server(web, data):
    body = {
        "inputs": [tensor(data=[1, 2])],
        "outputs": [{"name": "x_out", "parameters": {}}],
        "parameters": {},
        "id": "",
    }
    places = [(body, key) for key in body]
    places += [(body["inputs"][0], key) for key in (*body["inputs"][0], "parameters")]
    places += [(body["outputs"][0], key) for key in body["outputs"][0]]
    for holder, key in data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=2)):
        holder[key] = data.draw(JSON)
    answer = post(web, json.dumps(body).encode())
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        assert answer.json()["error"]


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=64),
    st.integers(-5, 200),
    st.lists(st.tuples(st.integers(0, 150), st.integers(0, 255)), max_size=3),
)
def test_a_mutated_binary_body_is_no_fault_of_the_server(web, tail, shift, mutations):
    end, body = encode_request({"x": np.ones((1, 2), np.float32)})
    mutated = bytearray(body + tail)
    for at, value in mutations:
        mutated[at % len(mutated)] = value
    answer = post(web, bytes(mutated), headers={"Inference-Header-Content-Length": str(end + shift)})
    assert answer.status_code in (200, 400), answer.text

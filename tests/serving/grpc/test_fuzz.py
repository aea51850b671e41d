"""Messages that no client would send: each gets an answer or a status with a sentence, and the server goes on."""

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2, service_pb2_grpc

from .conftest import DATATYPES

Code = grpc.StatusCode
EXPECTED = {Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.RESOURCE_EXHAUSTED}
quick = settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

names = st.sampled_from(["x", "a", "b", "y", "total", "", "z", "\x00", "ü"])
keys = "shared_memory_region shared_memory_byte_size shared_memory_offset timeout sequence_id classification priority"
parameters = st.dictionaries(
    st.sampled_from(keys.split()),
    st.one_of(
        st.builds(service_pb2.InferParameter),
        st.builds(service_pb2.InferParameter, bool_param=st.booleans()),
        st.builds(service_pb2.InferParameter, int64_param=st.sampled_from([-1, 0, 1, 32, (1 << 63) - 1])),
        st.builds(service_pb2.InferParameter, string_param=st.text(max_size=3)),
        st.builds(service_pb2.InferParameter, double_param=st.floats()),
        st.builds(service_pb2.InferParameter, uint64_param=st.sampled_from([0, 7, (1 << 64) - 1])),
    ),
    max_size=2,
)
small = st.integers(-3, 300).filter(lambda n: n >= 0)
contents = st.builds(
    service_pb2.InferTensorContents,
    bool_contents=st.lists(st.booleans(), max_size=2),
    int_contents=st.lists(st.integers(-(1 << 31), (1 << 31) - 1), max_size=2),
    int64_contents=st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=1),
    uint_contents=st.lists(small, max_size=2),
    uint64_contents=st.lists(small, max_size=1),
    fp32_contents=st.one_of(st.just([]), st.lists(st.floats(width=32), min_size=8, max_size=8)),
    fp64_contents=st.lists(st.floats(), max_size=1),
    bytes_contents=st.lists(st.binary(max_size=2), max_size=1),
)
shapes = st.one_of(
    st.sampled_from([[1, 8], [2, 8], [1, 4], [8]]),
    st.lists(st.sampled_from([-1, 0, 1, 2, 3, 8, 1 << 31, 1 << 62, (1 << 63) - 1]), max_size=5),
    st.lists(st.just(1), min_size=31, max_size=34),
)
datatypes = st.one_of(st.just("FP32"), st.sampled_from([*DATATYPES.values(), "BYTES", "BF16", "", "fp32"]))
inputs = st.builds(
    service_pb2.ModelInferRequest.InferInputTensor,
    name=names,
    datatype=datatypes,
    shape=shapes,
    parameters=st.one_of(st.just({}), parameters),
    contents=st.one_of(st.none(), contents),
)
outputs = st.builds(service_pb2.ModelInferRequest.InferRequestedOutputTensor, name=names, parameters=parameters)
requests = st.builds(
    service_pb2.ModelInferRequest,
    model_name=st.sampled_from(["linear", "two", "two", "nothing", "", "../linear"]),
    model_version=st.sampled_from(["", "1", "2", "x" * 1000]),
    id=st.text(max_size=5),
    parameters=st.one_of(st.just({}), parameters),
    inputs=st.lists(inputs, max_size=3),
    outputs=st.one_of(st.just([]), st.lists(outputs, max_size=2)),
    raw_input_contents=st.lists(st.sampled_from([b"", bytes(4), bytes(16), bytes(32), bytes(64)]), max_size=3),
)


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield channel


@pytest.fixture(scope="module")
def good():
    request = service_pb2.ModelInferRequest(model_name="linear")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 8])
    request.raw_input_contents.append(np.zeros(8, np.float32).tobytes())
    return request


def check_answered(channel, call, data):
    """Send a message; check that the answer is one, or an error that says what is wrong."""
    try:
        call(data, timeout=10)
    except grpc.RpcError as error:
        assert error.code() in EXPECTED, (error.code(), error.details())
        assert len(error.details()) > 10


@quick
@given(requests)
def test_any_request_is_answered(channel, good, request_):
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    check_answered(channel, call, request_.SerializeToString())
    assert len(service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(good).raw_output_contents) == 1


@quick
@given(requests, st.data())
def test_a_damaged_request_is_answered(channel, good, request_, data):
    damaged = bytearray(request_.SerializeToString() or b"\x0a")
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    check_answered(channel, call, bytes(damaged))
    assert len(service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(good).raw_output_contents) == 1


@settings(quick, max_examples=60)
@given(st.lists(requests, min_size=1, max_size=8))
def test_a_stream_has_an_answer_for_each_request(channel, good, sent):
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    answers = list(stub.ModelStreamInfer(iter([*sent, good]), timeout=10))
    assert len(answers) == len(sent) + 1
    assert [answer.infer_response.id for answer in answers] == [*[request.id for request in sent], ""]
    assert not answers[-1].error_message
    assert not [answer.error_message for answer in answers if "server failed" in answer.error_message]


@settings(quick, max_examples=100)
@given(
    st.sampled_from(["ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryIndex", "ModelReady"]), st.binary()
)
def test_any_bytes_to_the_other_methods_are_answered(channel, method, data):
    check_answered(channel, channel.unary_unary(f"/inference.GRPCInferenceService/{method}"), data)


@settings(quick, max_examples=100)
@given(
    st.sampled_from(["Register", "Unregister", "Status"]),
    st.text(max_size=3),
    st.text(max_size=12),
    st.sampled_from([0, 1, 1 << 63, (1 << 64) - 1]),
)
def test_any_region_is_answered(channel, method, name, key, size):
    name_of = f"SystemSharedMemory{method}"
    request = getattr(service_pb2, f"{name_of}Request")(name=name)
    if method == "Register":
        request.key, request.offset, request.byte_size = key, size, size
    call = channel.unary_unary(f"/inference.GRPCInferenceService/{name_of}")
    check_answered(channel, call, request.SerializeToString())

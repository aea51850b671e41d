"""Paddle Serving's clients over gRPC, beside the Open Inference Protocol on the same port."""

import io
import os

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from ascend_parallel.serving.grpc.messages import PADDLE, PaddleRequest, PaddleResponse

from .recording import ROW


@pytest.fixture(scope="module")
def infer(services):
    """Call the service; return (err_no, err_msg, name -> text)."""
    with grpc.insecure_channel(f"127.0.0.1:{services.server.grpc_port}") as channel:
        method = channel.unary_unary(f"/{PADDLE}/inference", PaddleRequest.SerializeToString, PaddleResponse.FromString)

        def call(service, inputs=None, tensors=(), timeout=30, **fields):
            inputs = inputs or {}
            request = PaddleRequest(name=service, key=list(inputs), value=list(inputs.values()), **fields)
            for tensor in tensors:
                request.tensors.add(**tensor)
            answer = method(request, timeout=timeout)
            return answer.err_no, answer.err_msg, dict(zip(answer.key, answer.value, strict=True))

        yield call


def test_a_service_is_called_by_its_name(infer):
    code, text, values = infer("uci", {"x": ROW}, logid=7, clientip="1.1.1.1", method="prediction")
    assert (code, text, list(values)) == (0, "", ["price"])
    assert infer("uci", {"x": "1,2"}) == (51, "a house has 13 features", {})


def test_a_name_is_needed_where_there_are_several(infer):
    code, text, _ = infer("", {"x": ROW})
    assert code == 3002 and "the request names no service; the services are: odd, gated, model, tell, uci" in text
    assert infer("nosuch")[0] == 3002


def test_the_open_inference_protocol_is_on_the_same_port(services):
    with triton.InferenceServerClient(f"127.0.0.1:{services.server.grpc_port}") as client:
        assert client.is_server_live() and client.is_model_ready("uci")


KINDS = [  # elem_type, field, elements -> what the op gets
    (0, "int64_data", [2**62, -1], np.int64),
    (1, "float_data", [0.5, -1.5], np.float32),
    (2, "int_data", [1, -2], np.int32),
    (3, "float64_data", [0.1, 2.0], np.float64),
    (4, "int_data", [1, -2], np.int16),
    (5, "float_data", [0.5, 2.0], np.float16),
    (6, "uint32_data", [1, 65535], np.uint16),
    (7, "uint32_data", [1, 255], np.uint8),
    (8, "int_data", [1, -2], np.int8),
    (9, "bool_data", [True, False], np.bool_),
]


@pytest.mark.parametrize(("kind", "field", "elements", "dtype"), KINDS)
def test_tensors_reach_the_op(kind, field, elements, dtype, infer):
    tensor = {"name": "x", "elem_type": kind, "shape": [2, 1], field: elements}
    code, text, values = infer("tell", tensors=[tensor], logid=5)
    array = np.array(elements, dtype).reshape(2, 1)
    assert (code, text) == (0, "")
    assert values == {"ops": "['@DAGExecutor']", "log_id": "5", "x": f"{array.dtype} (2, 1) {array.tolist()}"}


def test_text_files_of_numpy_and_levels_of_detail_reach_the_op(infer):
    file = io.BytesIO()
    np.save(file, np.arange(3, dtype=np.int8))
    tensors = [
        {"name": "text", "elem_type": 12, "str_data": ["one", "two"]},
        {"name": "file", "elem_type": 13, "byte_data": file.getvalue()},
        {"name": "rows", "elem_type": 1, "shape": [3], "float_data": [1, 2, 3], "lod": [0, 1, 1, 3]},
        {"name": "scalar", "elem_type": 1, "float_data": [4]},
    ]
    code, text, values = infer("tell", {"text": "overridden"}, tensors)
    assert (code, text) == (0, "")
    assert (values["text"], values["file"]) == ("'onetwo'", "int8 (3,) [0, 1, 2]")
    assert values["rows.lod"] == "int32 (2, 2) [[0, 1], [1, 3]]"
    assert values["scalar"] == "float32 () 4.0"


class Evil:
    """Makes a folder when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_python_objects_are_refused(infer, tmp_path):
    file = io.BytesIO()
    np.save(file, np.array([Evil(str(tmp_path / "evil"))], object), allow_pickle=True)
    code, text, _ = infer("tell", tensors=[{"name": "x", "elem_type": 13, "byte_data": file.getvalue()}])
    assert code == 8000 and "byte_data of tensor 'x' is no .npy file of numbers" in text
    assert not (tmp_path / "evil").exists()


def test_what_is_no_message_and_what_is_too_late_are_statuses(services, infer):
    with grpc.insecure_channel(f"127.0.0.1:{services.server.grpc_port}") as channel:
        raw = channel.unary_unary(f"/{PADDLE}/inference")
        with pytest.raises(grpc.RpcError) as caught:
            raw(b"\xff\xff", timeout=30)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    try:
        code = infer("odd", {"say": "slow"}, timeout=0.2)[0]
    except grpc.RpcError as error:  # the client was the first to see that it is too late
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    else:
        assert code == 6000
    assert infer("odd", {"say": "text"})[0] == 0

"""The shared-memory extension over both protocols, with Triton's own clients."""

import json
import os
import threading

import models
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

from .conftest import DATATYPES


@pytest.fixture(scope="module", params=["grpc", "http"])
def triton(request):
    """Triton's module for a protocol."""
    return {"grpc": tritonclient.grpc, "http": tritonclient.http}[request.param]


@pytest.fixture(scope="module")
def both(server, triton):
    """A client of that protocol."""
    port = server.grpc_port if triton is tritonclient.grpc else server.port
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        yield client
        client.unregister_system_shared_memory()


@pytest.fixture
def region(both, prefix):
    """Return a function that makes and registers a region."""
    handles = []

    def make(name, size):
        handle = shm.create_shared_memory_region(name, f"/{prefix}{name}", size, create_only=True)
        handles.append(handle)
        both.register_system_shared_memory(name, f"/{prefix}{name}", size)
        return handle

    yield make
    both.unregister_system_shared_memory()
    for handle in handles:
        shm.destroy_shared_memory_region(handle)


def by_region(triton, name, array_or_shape, region, offset=0, dtype="float32"):
    """Return an input that lies in a region, or an output that goes there."""
    shape = getattr(array_or_shape, "shape", array_or_shape)
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if hasattr(array_or_shape, "shape"):
        given = triton.InferInput(name, list(shape), DATATYPES[dtype])
    else:
        given = triton.InferRequestedOutput(name)
    given.set_shared_memory(region, size, offset)
    return given


@pytest.mark.parametrize("count", [3, 16_000], ids=["small", "large"])
def test_inputs_and_outputs_by_region(both, triton, region, count):
    x = models.weights(count, 8)
    given, taken = region("in", x.nbytes + 64), region("out", count * 20 + 128)
    shm.set_shared_memory_region(given, [x], offset=64)
    answer = both.infer(
        "linear",
        [by_region(triton, "x", x, "in", 64)],
        outputs=[by_region(triton, "y", (count, 5), "out", 128)],
        request_id="seven",
    )
    y = shm.get_contents_as_numpy(taken, np.float32, [count, 5], 128)
    np.testing.assert_allclose(y, np.maximum(x @ models.weights(8, 5), 0), rtol=1e-5, atol=1e-5)
    output = answer.get_output("y")
    parameters = output.parameters if triton is tritonclient.grpc else output["parameters"]
    if triton is tritonclient.grpc:
        assert answer.get_response().raw_output_contents == [b""]
    assert set(parameters) == {"shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"}


def test_regions_beside_tensors_of_the_message(both, triton, region):
    a, b = models.weights(2, 4), models.weights(4, 2).reshape(2, 4)
    given, taken = region("in", a.nbytes), region("out", a.nbytes)
    shm.set_shared_memory_region(given, [a])
    plain = triton.InferInput("b", [2, 4], "FP32")
    plain.set_data_from_numpy(b)
    answer = both.infer(
        "two",
        [by_region(triton, "a", a, "in"), plain],
        outputs=[by_region(triton, "total", (2, 4), "out"), triton.InferRequestedOutput("product")],
    )
    np.testing.assert_array_equal(answer.as_numpy("product"), a * b)
    np.testing.assert_array_equal(shm.get_contents_as_numpy(taken, np.float32, [2, 4]), a + b)


def test_status_and_unregister(both, triton, region, prefix):
    region("in", 64)
    region("out", 32)
    assert _status(both) == {"in": (f"/{prefix}in", 0, 64), "out": (f"/{prefix}out", 0, 32)}
    assert _status(both, "out") == {"out": (f"/{prefix}out", 0, 32)}
    both.unregister_system_shared_memory("in")
    assert list(_status(both)) == ["out"]
    both.unregister_system_shared_memory()
    assert _status(both) == {}
    with pytest.raises(InferenceServerException, match="there is no shared-memory region 'in'; register it first"):
        both.get_system_shared_memory_status("in")


def _status(client, name=""):
    found = client.get_system_shared_memory_status(name)
    if isinstance(found, list):
        return {entry["name"]: (entry["key"], entry["offset"], entry["byte_size"]) for entry in found}
    return {entry.name: (entry.key, entry.offset, entry.byte_size) for entry in found.regions.values()}


def test_what_is_wrong_is_told(both, triton, region, prefix):
    x = np.zeros((2, 8), np.float32)
    region("in", 64)
    region("out", 8)
    cases = [
        (lambda: both.register_system_shared_memory("in", f"/{prefix}in", 64), "registered already"),
        (lambda: both.register_system_shared_memory("r", "/etc/passwd", 64), "this server takes names of files"),
        (lambda: both.register_system_shared_memory("r", f"/{prefix}in", 65), "it is to have 65 at least"),
        (lambda: both.register_system_shared_memory("r", f"/{prefix}in", 64, 1), "it is to have 65 at least"),
        (lambda: both.infer("linear", [by_region(triton, "x", x, "r")]), "there is no shared-memory region 'r'"),
        (lambda: both.infer("linear", [by_region(triton, "x", x, "in", 4)]), "64 bytes from offset 4 on are beyond"),
        (
            lambda: both.infer(
                "linear", [by_region(triton, "x", x, "in")], outputs=[by_region(triton, "y", (1, 2), "out")]
            ),
            "output 'y' has 40 bytes, but its shared_memory_byte_size is 8",
        ),
        (
            lambda: both.infer(
                "linear", [by_region(triton, "x", x, "in")], outputs=[by_region(triton, "y", (2, 5), "out")]
            ),
            "output 'y': 40 bytes from offset 0 on are beyond",
        ),
    ]
    for call, text in cases:
        with pytest.raises(InferenceServerException) as caught:
            call()
        assert text in str(caught.value)
    both.infer("linear", [by_region(triton, "x", x, "in")])


def test_an_answer_that_cannot_be_written_is_counted_as_a_failure(server, both, triton, region):
    region("out", 8)
    given = triton.InferInput("x", [2, 8], "FP32")
    given.set_data_from_numpy(np.zeros((2, 8), np.float32))
    before = _counts(server, "linear")
    with pytest.raises(InferenceServerException, match="has 40 bytes, but its shared_memory_byte_size is 8"):
        both.infer("linear", [given], outputs=[by_region(triton, "y", (1, 2), "out")])
    assert _counts(server, "linear") == {"success": before["success"], "fail": before["fail"] + 1}


def _counts(server, model):
    stats = json.loads(server.request("GET", f"/v2/models/{model}/stats")[2])["model_stats"][0]["inference_stats"]
    return {kind: stats[kind]["count"] for kind in ("success", "fail")}


def test_a_region_that_changes_under_requests_costs_no_server(both, triton, region, prefix):
    """Its file is cut and grown, and it is unregistered and registered, as fast as it goes."""
    x = np.zeros((4000, 8), np.float32)
    region("in", x.nbytes)
    region("out", 4000 * 20)
    stop = threading.Event()

    def change():
        while not stop.is_set():
            for name, size in (("in", x.nbytes), ("out", 4000 * 20)):
                os.truncate(f"/dev/shm/{prefix}{name}", 0)
                os.truncate(f"/dev/shm/{prefix}{name}", size)

    thread = threading.Thread(target=change)
    thread.start()
    failed = 0
    try:
        for number in range(200):
            if number % 20 == 0:
                both.unregister_system_shared_memory("in")
            elif number % 20 == 1:
                _register_again(both, prefix, x.nbytes)
            try:
                both.infer(
                    "linear",
                    [by_region(triton, "x", x, "in")],
                    outputs=[by_region(triton, "y", (4000, 5), "out")],
                )
            except InferenceServerException as error:
                failed += 1
                assert "shared-memory region" in str(error)
    finally:
        stop.set()
        thread.join(10)
    assert failed
    assert both.is_server_live()


def _register_again(client, prefix, size):
    while True:
        try:
            client.register_system_shared_memory("in", f"/{prefix}in", size)
            return
        except InferenceServerException as error:  # just then it was cut
            assert "it is to have" in str(error)

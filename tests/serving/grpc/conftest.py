"""One server with both protocols for all tests of this folder, and clients for it."""

import contextlib
import os
import select
import uuid

import models
import numpy as np
import pytest
import tritonclient.grpc as triton

from ..servers import serving
from ..serving_models import write_factories

DATATYPES = {
    **{"bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64"},
    **{f"{sign}int{bits}": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class Gate:
    """Holds the model ``gated`` in the midst of a batch."""

    def __init__(self, path):
        self._path = path
        os.mkfifo(path)

    def wait_for_batch(self):
        """Wait until a batch is being computed; return what lets it go on."""
        descriptor = os.open(self._path, os.O_WRONLY)  # returns when the model has opened the other end

        def go_on():
            with contextlib.suppress(BrokenPipeError):  # its process has been ended
                os.write(descriptor, b"x")
            ends = select.poll()
            ends.register(descriptor, 0)
            ends.poll(10_000)  # until the model has closed it
            os.close(descriptor)

        return go_on


@pytest.fixture(scope="package")
def gate(tmp_path_factory):
    return Gate(tmp_path_factory.mktemp("gated") / "gate")


@pytest.fixture(scope="package")
def prefix():
    """What the names of files of shared memory begin with."""
    return f"ascend-parallel-test-{uuid.uuid4().hex[:8]}-"


@pytest.fixture(scope="package")
def server(gate, prefix):
    factories = write_factories(gate._path.parent)
    config = gate._path.with_name("config.yml")
    config.write_text(f"""
grpc_port: 0
shared_memory_prefix: {prefix}
allow_control: true
max_body_bytes: {4 << 20}
models:
  - {{path: {models.linear()}, name: linear, devices: "cpu:0", workers: threads}}
  - {{path: {models.two()}, name: two, devices: "cpu:0", workers: threads}}
  - {{path: "{factories}:echo", name: echo, devices: "cpu:0,1"}}
  - {{path: "{factories}:moody", name: moody, devices: "cpu:0"}}
  - {{path: "{factories}:gated", name: gated, devices: "cpu:0", batching: {{max_queue_size: 2}}}}
""")
    with serving(config) as server:
        yield server
        assert "Traceback" not in "\n".join(server.lines), server.lines


@pytest.fixture(scope="package")
def client(server):
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        yield client


def tensor(name, array):
    """Return an input of tritonclient.grpc."""
    given = triton.InferInput(name, list(array.shape), DATATYPES[array.dtype.name])
    given.set_data_from_numpy(array)
    return given


def rows(*values):
    """Return one row for each value, as float32."""
    return np.repeat(np.array(values, np.float32)[:, None], 3, axis=1)

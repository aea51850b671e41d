"""One server with both protocols for all tests of this folder, and clients for it."""

import contextlib
import os
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
    """Holds the model ``guarded`` of a folder in the midst of a batch."""

    def __init__(self, folder):
        self.folder = folder
        self._pipes = []
        for name in ("begun", "gate"):
            os.mkfifo(folder / name)
            self._pipes.append(os.open(folder / name, os.O_RDWR))

    def wait_for_batch(self):
        """Wait until a batch is being computed; return what lets it go on."""
        begun, gate = self._pipes
        os.read(begun, 1)
        return lambda: os.write(gate, b"x")

    def close(self):
        for pipe in self._pipes:
            os.close(pipe)


@pytest.fixture(scope="package")
def gate(tmp_path_factory):
    with contextlib.closing(Gate(tmp_path_factory.mktemp("guarded"))) as gate:
        yield gate


@pytest.fixture(scope="package")
def prefix():
    """What the names of files of shared memory begin with."""
    return f"ascend-parallel-test-{uuid.uuid4().hex[:8]}-"


@pytest.fixture(scope="package")
def server(gate, prefix):
    factories = write_factories(gate.folder)
    config = gate.folder / "config.yml"
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
  - {{path: "{factories}:guarded", name: gated, devices: "cpu:0", batching: {{max_queue_size: 2}}}}
""")
    with serving(config) as server:
        yield server
        own = [line for line in server.lines if line.startswith("Traceback")]  # a worker's is indented
        assert own == [], server.lines


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

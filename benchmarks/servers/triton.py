"""Triton with its Python backend: the server of NVIDIA's wheel pytriton, which has no backend for ONNX Runtime."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import numpy as np

from . import open_inference
from .job import MAX_BATCH_SIZE, WORKERS, Job
from .server import BENCHMARKS, Server

DATATYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}
SHM_PREFIX = "serving_benchmark_"
CONFIG = """
backend: "python"
max_batch_size: {max_batch_size}
{tensors}
dynamic_batching {{ }}
instance_group [ {{ count: {workers} kind: KIND_CPU }} ]
parameters: {{ key: "job" value: {{ string_value: "{job}" }} }}
"""
#: The model of the Python backend, which is this package's: the backend does not take over all of PYTHONPATH.
MODEL = f"import sys\nsys.path.insert(0, {str(BENCHMARKS)!r})\nfrom servers.triton import TritonPythonModel\n"


class Triton(Server):
    """Two instances of a Python model with dynamic batching, asked in the same protocol as ascend_parallel."""

    title = "Triton, Python backend"
    venv = "serve-triton"
    package = "nvidia-pytriton"
    path = "/v2/models/NAME/infer"
    ready_path = "/v2/health/ready"
    tuning = (
        f"`dynamic_batching` without a delay, `max_batch_size: {MAX_BATCH_SIZE}`, `count: {WORKERS}`; binary tensors"
    )
    leftovers = (f"/dev/shm/{SHM_PREFIX}PID*",)

    def headers(self) -> dict[str, str]:
        """Return the headers of the protocol's request."""
        return open_inference.pack(self.job, all_batched=True)[0]

    def body(self) -> bytes:
        """Return the protocol's request."""
        return open_inference.pack(self.job, all_batched=True)[1]

    def output(self, headers: dict[str, str], body: bytes) -> np.ndarray:
        """Return the output of the protocol's answer."""
        return open_inference.unpack(self.job, headers, body)


class TritonPythonModel:
    """What runs in an instance: joins the rows of all requests, runs the model once, returns the rows."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session."""
        import json

        self._job = Job(json.loads(args["model_config"])["parameters"]["job"]["string_value"])
        self._session = self._job.open_session()

    def execute(self, requests: list) -> list:
        """Return a response for each request."""
        import triton_python_backend_utils as utils

        feeds = [
            {
                name: utils.get_input_tensor_by_name(request, name).as_numpy().reshape(array.shape)
                for name, array in self._job.feeds.items()
            }
            for request in requests
        ]
        outputs = self._job.run(self._session, feeds)
        return [utils.InferenceResponse([utils.Tensor(self._job.output, output)]) for output in outputs]


def write_repository(job: Job, folder: Path) -> None:
    """Write the model repository."""
    tensors = [
        tensor("input", name, array.dtype.name, array.shape[1:] if name in job.batched else array.shape)
        for name, array in job.feeds.items()
    ]
    tensors.append(tensor("output", job.output, job.expected.dtype.name, job.expected.shape[1:]))
    version = folder / job.name / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL)
    (version.parent / "config.pbtxt").write_text(
        CONFIG.format(max_batch_size=MAX_BATCH_SIZE, tensors="\n".join(tensors), workers=WORKERS, job=job.path)
    )


def tensor(kind: str, name: str, dtype: str, shape: tuple[int, ...]) -> str:
    """Return the description of an input or an output."""
    return f'{kind} [ {{ name: "{name}" data_type: {DATATYPES[dtype]} dims: {list(shape)} }} ]'


def main() -> None:
    """Become the server of the job that the arguments name."""
    import pytriton

    job, port = Job(sys.argv[1]), int(sys.argv[2])
    server = Path(pytriton.__file__).with_name("tritonserver")
    site = server.parents[1]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "backends" / "python" / "triton_python_backend_stub"
    if not stub.exists():  # the server looks for the one of its Python there
        shutil.copy(server / "python_backend_stubs" / python / stub.name, stub)
        stub.chmod(0o755)
    write_repository(job, Path("repository"))
    libraries = (site / "nvidia_pytriton.libs", server / "external_libs", sysconfig.get_config_var("LIBDIR"))
    os.environ["LD_LIBRARY_PATH"] = os.pathsep.join(map(str, libraries))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(site), os.environ["PYTHONPATH"]])
    program = str(server / "bin" / "tritonserver")
    options = [
        "--model-repository=repository",
        f"--backend-directory={server / 'backends'}",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
        "--allow-grpc=false",
        "--allow-metrics=false",
        f"--backend-config=python,shm-region-prefix-name={SHM_PREFIX}{os.getpid()}",
    ]
    os.execv(program, [program, *options])


if __name__ == "__main__":
    main()

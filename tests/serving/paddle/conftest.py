"""One server for all tests of this folder: the examples as migrate writes them, and ops that do what they are told."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from ascend_parallel.migration.paddle_serving import migrate

from ..servers import ServerProcess, serving
from .recording import EXAMPLE_OF, copy_examples

ODD = """
- {name: odd, paddle_service: odd, ops: [{name: odd, python: "odd_ops.py:Odd", timeout_ms: 1000}]}
- {name: plain, ops: [{name: odd, python: "odd_ops.py:Odd"}]}
- {name: gated, paddle_service: gated, max_queue_size: 1, ops: [{name: gated, python: "odd_ops.py:Gated"}]}
- {name: model, paddle_service: model, ops: [{name: m, path: uci_housing/uci_housing_model/model.onnx, devices: cpu:0}]}
- name: tell
  paddle_service: tell
  ops: [{name: tell, python: "tell_op.py:TellOp", interface: paddle_serving}]
"""


class Services(NamedTuple):
    """What is served.

    Attributes:
        server: the server.
        folder: where the configuration and the files are.
        begun, gate: the pipes of the op that waits.
    """

    server: ServerProcess
    folder: Path
    begun: int
    gate: int


def configure(folder: Path) -> Path:
    """Write the configuration, and all that it names, to a folder."""
    copy_examples(folder)
    for name in ("odd_ops.py", "tell_op.py"):
        shutil.copy(Path(__file__).with_name(name), folder)
    pipelines = yaml.safe_load(ODD)
    for example in EXAMPLE_OF.values():
        made = migrate(f"{folder}/{example}/config.yml", f"{folder}/{example}/web_service.py", folder=str(folder))
        pipelines += yaml.safe_load(made.text)["pipelines"]
    pipelines[0]["ops"][0]["devices"] = "cpu:0"
    path = folder / "serve.yml"
    path.write_text(yaml.safe_dump({"port": 0, "grpc_port": 0, "max_body_bytes": 200_000, "pipelines": pipelines}))
    return path


@pytest.fixture(scope="package")
def services(tmp_path_factory):
    folder = tmp_path_factory.mktemp("services")
    config = configure(folder)
    pipes = []
    for name in ("begun", "gate"):
        os.mkfifo(folder / name)
        pipes.append(os.open(folder / name, os.O_RDWR))
    with serving(config, "--port", "0") as server:
        yield Services(server, folder, *pipes)
    for pipe in pipes:
        os.close(pipe)

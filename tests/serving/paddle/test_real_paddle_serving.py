"""The real Paddle Serving 0.9.0, where ``SERVE_PADDLE_PYTHON`` names a Python 3.8 that has it; `make test` sets it."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

import ascend_parallel

from ..servers import serving
from .recording import FILE, ROOT, ROW, record

PYTHON = os.environ.get("SERVE_PADDLE_PYTHON")
CLIENT = ROOT / "benchmarks" / "servers" / "paddle_client.py"
BINARY = Path(ascend_parallel.__file__).parent / "serving" / "grpc" / "protocol.binpb"
_PRINT = (
    "import paddle_serving_server.pipeline.proto.pipeline_service_pb2 as module, sys\n"
    "sys.stdout.buffer.write(module.DESCRIPTOR.serialized_pb)"
)

pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="SERVE_PADDLE_PYTHON does not name a Python 3.8 with Paddle Serving 0.9.0"),
    pytest.mark.timeout(180),
]


def run(folder, *arguments, text=None):
    """Run the Python in a folder, to which Paddle Serving writes its logs; return what it prints."""
    command = [PYTHON, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, input=text, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_its_answers_are_those_that_were_recorded(tmp_path):
    answers = [(found["path"], found["status"], found["answer"]) for found in record(PYTHON, tmp_path)]
    assert answers == [(found["path"], found["status"], found["answer"]) for found in json.loads(FILE.read_text())]


def test_its_client_calls_this_server(services):
    """Of a server with one service, which the client does not name."""
    data = yaml.safe_load((services.folder / "serve.yml").read_text())
    data["pipelines"] = [pipeline for pipeline in data["pipelines"] if pipeline["name"] == "uci"]
    config = services.folder / "one.yml"
    config.write_text(yaml.safe_dump(data))
    feeds = [{"x": ROW}, {"x": f"{ROW};{ROW}"}, {"x": "1,2"}]
    with serving(config, "--port", "0", "--grpc-port", "0") as server:
        answers = json.loads(run(services.folder, CLIENT, server.grpc_port, text=json.dumps(feeds).encode()))
    assert [answer["err_no"] for answer in answers] == [0, 0, 51]
    assert [list(answer["values"]) for answer in answers] == [["price"], ["price"], []]


def test_its_messages_are_ours(tmp_path):
    theirs = FileDescriptorProto.FromString(run(tmp_path, "-c", _PRINT))
    files = FileDescriptorSet.FromString(BINARY.read_bytes()).file
    (ours,) = [file for file in files if file.package == theirs.package]
    for file in (ours, theirs):
        for message in file.message_type:
            for field in message.field:
                field.ClearField("json_name")
    assert list(ours.message_type) == list(theirs.message_type)
    assert [method.name for method in ours.service[0].method] == [method.name for method in theirs.service[0].method]
    assert ours.service[0].name == theirs.service[0].name

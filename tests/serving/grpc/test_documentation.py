"""The clients of the page on serving, run as they are, but for the server's port and the prefix."""

import subprocess
import sys

import pytest
from docs.pages import ROOT, blocks_of
from docs.running import save_model

from ..servers import serving


@pytest.fixture(scope="module")
def documented_server(tmp_path_factory, prefix):
    model = tmp_path_factory.mktemp("documented") / "model.onnx"
    save_model(model, "GlobalAveragePool", {"x": ["batch", 3, 224, 224]}, {"y": ["batch", 3, 1, 1]})
    options = ["--devices", "cpu:0", "--workers", "threads", "--grpc-port", "0", "--shared-memory-prefix", prefix]
    with serving(model, *options) as server:
        yield server


@pytest.mark.parametrize(
    "title, printed", [("grpc_client.py", "(2, 3, 1, 1)"), ("shared_memory_client.py", "[[[[1.]]")]
)
def test_the_clients_of_the_page_run(documented_server, prefix, title, printed):
    (block,) = [block for block in blocks_of(ROOT / "docs" / "serving.md") if block.title == title]
    code = block.text.replace("8001", str(documented_server.grpc_port)).replace("clients_", prefix)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.lstrip().startswith(printed)

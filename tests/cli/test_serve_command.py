"""``ascend-parallel serve`` up to the server: its options, its configuration file, its checks and its schema."""

import json
import subprocess
import sys
import types

import jsonschema
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ascend_parallel.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a model that doubles x of shape (batch, 3), an example, a token, and a configuration."""
    folder = tmp_path_factory.mktemp("serve")
    node = helper.make_node("Add", ["x", "x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    graph = helper.make_graph([node], "double", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, folder / "double.onnx")
    np.savez(folder / "x.npz", x=np.ones((1, 3), np.float32))
    (folder / "token").write_text("secret\n")
    (folder / "config.yml").write_text(
        "port: 9000\nmodels:\n- path: double.onnx\n  devices: cpu:0,1\n"
        "- path: double.onnx\n  version: 2\n  devices: cpu\n  instances: 2\n  batching: {max_batch_size: 4}\n"
    )
    (folder / "wrong.yml").write_text("prt: 1\nmodels:\n- path: double.onnx\n  devices: tpu\n")
    return folder


@pytest.fixture
def serve(folder, monkeypatch, capsys):
    """A function that runs the command with a server that only notes its configuration.

    It returns the exit code, what was printed on stdout and stderr, and the configuration.
    """

    def serve(*words):
        served = []
        server = types.SimpleNamespace(run=lambda config, read_config: served.append((config, read_config())))
        monkeypatch.setitem(sys.modules, "ascend_parallel.serving.server", server)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["ascend-parallel", "serve", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            main()
        config, config_again = served[0] if served else (None, None)
        assert config == config_again, "it can be read again"
        return (caught.value.code or 0, *capsys.readouterr(), config)

    return serve


def test_a_model_alone_is_served_with_the_defaults(serve):
    code, out, err, config = serve("double.onnx", "--devices", "cpu:0")
    assert (code, out, err) == (0, "", "")
    assert (config.host, config.port, config.grpc_port) == ("127.0.0.1", 8000, None)
    (model,) = config.models
    assert (model.path, model.name, model.version, model.devices) == ("double.onnx", "double", "1", "cpu:0")
    assert (model.workers, model.batching.max_batch_size) == ("processes", 16)


def test_every_option_reaches_the_configuration(serve, folder):
    code, _, err, config = serve(
        *("double.onnx", "--name", "twice", "--devices", "cpu:0,1", "--engine", "onnxruntime", "--share-weights"),
        *("--engine-option", "threads=1", "--workers", "processes", "--worker-python", sys.executable),
        *("--instances", 2, "--batch-axis", "x=0", "--max-batch-size", 8, "--max-queue-delay-ms", 0.5),
        *("--max-queue-size", 64, "--timeout-ms", 2000, "--host", "0.0.0.0", "--port", 0, "--grpc-port", 0),
        *("--token-file", "token", "--shared-memory-prefix", "clients_", "--access-log", "--trace", "t.json"),
        "--allow-control",
    )
    assert code == 0, err
    assert config.model_dump(exclude={"models", "pipelines", "images", "tls_cert", "tls_key"}) == {
        "host": "0.0.0.0",
        "port": 0,
        "grpc_port": 0,
        "token_file": "token",
        "max_body_bytes": 64 << 20,
        "max_pending_bytes": 1 << 30,
        "max_connections": 10_000,
        "shared_memory_prefix": "clients_",
        "access_log": True,
        "log_format": "text",
        "trace": "t.json",
        "drain_timeout_s": 30.0,
        "allow_control": True,
    }
    (model,) = config.models
    assert (model.name, model.engine, model.engine_options, model.instances) == (
        "twice",
        "onnxruntime",
        {"threads": 1},
        2,
    )
    assert (model.worker_python, model.share_weights, model.batch_axes) == (sys.executable, True, {"x": 0})
    assert tuple(model.batching.model_dump().values()) == (8, 0.5, 64, 2000.0)
    assert not (folder / "t.json").exists()


def test_options_of_the_server_replace_those_of_the_file(serve):
    code, _, err, config = serve("config.yml", "--port", 9001, "--host", "::1", "--access-log")
    assert code == 0, err
    assert (config.port, config.host, config.access_log) == (9001, "::1", True)
    assert [model.version for model in config.models] == ["1", "2"]
    assert serve("config.yml")[3].port == 9000


def test_check_prints_one_line_per_model_and_starts_nothing(serve):
    code, out, err, config = serve("config.yml", "--check")
    assert (code, err, config) == (0, "", None)
    assert out.splitlines() == [
        "double 1: double.onnx on cpu:0, cpu:1, batches of at most 16 rows",
        "double 2: double.onnx on cpu:0 (2 instances each), batches of at most 4 rows",
    ]


@pytest.mark.parametrize("check", [["--check"], []], ids=["check", "serve"])
def test_everything_wrong_in_a_file_is_a_line_each(serve, check):
    code, out, err, config = serve("wrong.yml", *check)
    assert (code, out, config) == (2, "", None)
    lines = err.splitlines()
    assert lines[0].startswith("wrong.yml:1:1: the configuration has the unknown key 'prt'; did you mean 'port'?")
    assert lines[1].startswith("wrong.yml:4:12: models[0].devices: unknown device type 'tpu'")
    assert lines[2:] == ["ascend-parallel: error: wrong.yml has 2 errors; nothing was started"]


ERRORS = {
    "nothing": ([], "there is nothing to serve; expected a MODEL or a CONFIG.yml"),
    "no model": (["no.onnx"], "there is no model file no.onnx (in "),
    "no file": (["no.yml"], "there is no configuration file no.yml (in "),
    "not for a file": (
        ["config.yml", "--max-batch-size", 3],
        "--max-batch-size is for a MODEL, and config.yml describes its own: write --max-batch-size there",
    ),
    "instances of a file": (["config.yml", "--instances", 0], "instances is for a MODEL, and config.yml describes"),
    "replaced by nonsense": (["config.yml", "--port", -1], "port is -1; expected a whole number from 0 to 65535"),
    "two mistakes": (
        ["double.onnx", "--instances", 0, "--max-queue-size", 0],
        "instances is 0; expected a whole number, at least 1; --max-queue-size is 0; expected a whole number, at least",
    ),
    "the runner's": (["double.onnx", "--engine-option", "a=1"], "the engine onnxruntime has no option 'a'; it has: "),
    "for processes only": (
        ["double.onnx", "--workers", "threads", "--worker-python", sys.executable],
        "--worker-python is for worker processes, and workers is 'threads': leave --worker-python out",
    ),
}


@pytest.mark.parametrize(("words", "message"), ERRORS.values(), ids=ERRORS)
def test_errors_of_options_are_one_line(serve, words, message):
    code, out, err, config = serve(*words)
    assert (code, out, config) == (2, "", None)
    assert len(err.splitlines()) == 1, err
    assert err.startswith(f"ascend-parallel: error: {message}"), err


def test_the_schema_is_printed_and_takes_a_configuration(serve):
    code, out, _, config = serve("--schema")
    assert (code, config) == (0, None)
    schema = json.loads(out)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate({"models": [{"path": "double.onnx"}]}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"models": [{"pth": "double.onnx"}]}, schema)


@pytest.mark.parametrize("module", ["uvicorn", "grpc"])
def test_without_the_extra_it_says_what_to_install(folder, module):
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "sys.argv = ['ascend-parallel', 'serve', 'double.onnx']\n"
        "from ascend_parallel.cli import main; main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == f"ascend-parallel: error: serve needs {module}: pip install 'ascend-parallel[serve]'\n"

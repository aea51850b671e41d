"""Configuration files: what is right is read, and everything wrong is told at once, with lines and columns."""

import datetime
import re
import shutil
import sys
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
import trustme
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from ascend_parallel import ConfigError, ParallelPredictUtils, UsageError
from ascend_parallel.serving.config import ServerConfig, ServerSettings
from ascend_parallel.serving.config_checks import make_schema
from ascend_parallel.serving.config_file import read_config
from ascend_parallel.serving.model_config import BatchingConfig, ModelConfig

from .config_text import problems_of, reader

FULL = """\
host: 0.0.0.0
port: 9000
grpc_port: 9001
token_file: token
tls_cert: tls/cert.pem
tls_key: tls/key.pem
max_body_bytes: 1000000
shared_memory_prefix: clients_
access_log: true
log_format: json
trace: trace.json
drain_timeout_s: 5
allow_control: true
models:
  - path: models/double.onnx
    name: twice
    version: 2
    devices: cpu:0,1
    instances: 2
    engine: onnxruntime
    engine_options: {threads: 1}
    share_weights: false
    batch_axes: {x: 0, y: 0}
    warmup: 2
    warmup_examples: [examples/x.npz]
    build_timeout_s: 60
    max_restarts: 5
    max_retries: 1
    batching:
      max_batch_size: 8
      max_queue_delay_ms: 0.5
      max_queue_size: 64
      timeout_ms: 2000
  - path: code/mine.py:make
    devices: [cpu:0, "cpu:1"]
    workers: threads
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A folder with all the files that a configuration may name."""
    folder = tmp_path_factory.mktemp("config")
    for name in ("models", "code", "tls", "examples"):
        (folder / name).mkdir()
    node = helper.make_node("Add", ["x", "x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("x", "y")]
    graph = helper.make_graph([node], "double", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, folder / "models" / "double.onnx")
    (folder / "code" / "mine.py").write_text("def make(device):\n    return lambda x: {'y': x}\n")
    np.savez(folder / "examples" / "x.npz", x=np.ones((1, 3), np.float32))
    (folder / "token").write_text("secret\n")
    for name in ("cert", "other"):
        issued = trustme.CA().issue_cert("localhost", not_after=datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC))
        issued.cert_chain_pems[0].write_to_path(folder / "tls" / f"{name}.pem")
        issued.private_key_pem.write_to_path(folder / "tls" / ("key.pem" if name == "cert" else "other_key.pem"))
    return folder


@pytest.fixture
def read(filled):
    """A function that writes a configuration and reads it."""
    return reader(filled)


def test_everything_that_a_file_says_is_read(read, filled):
    config = read(FULL)
    assert isinstance(config, ServerConfig)
    assert (config.host, config.port, config.grpc_port, config.max_body_bytes) == ("0.0.0.0", 9000, 9001, 1_000_000)
    assert config.token_file == str(filled / "token")
    assert (config.tls_cert, config.tls_key) == (str(filled / "tls/cert.pem"), str(filled / "tls/key.pem"))
    assert (config.shared_memory_prefix, config.access_log, config.log_format) == ("clients_", True, "json")
    assert (config.trace, config.drain_timeout_s, config.allow_control) == (str(filled / "trace.json"), 5.0, True)
    twice, mine = config.models
    assert (twice.path, twice.name, twice.version) == (str(filled / "models/double.onnx"), "twice", "2")
    assert twice.warmup_examples == [str(filled / "examples/x.npz")]
    assert twice.batching == BatchingConfig(
        max_batch_size=8, max_queue_delay_ms=0.5, max_queue_size=64, timeout_ms=2000.0
    )
    assert (mine.path, mine.name, mine.version) == (f"{filled}/code/mine.py:make", "mine", "1")
    assert mine.devices == ["cpu:0", "cpu:1"]


def test_a_path_alone_is_enough(read):
    config = read("models:\n- path: models/double.onnx\n")
    assert config == ServerConfig(models=config.models)
    assert (config.host, config.port, config.grpc_port) == ("127.0.0.1", 8000, None)
    assert (config.token_file, config.tls_cert, config.tls_key, config.trace) == (None, None, None, None)
    assert (config.max_body_bytes, config.drain_timeout_s, config.shared_memory_prefix) == (64 << 20, 30.0, None)
    assert (config.access_log, config.log_format, config.allow_control) == (False, "text", False)
    (model,) = config.models
    assert (model.name, model.version, model.precision, model.warmup_examples) == ("double", "1", None, [])
    assert (model.max_restarts, model.max_retries) == (None, None)
    assert model.batching == BatchingConfig()
    assert BatchingConfig().model_dump() == {
        "max_batch_size": 16,
        "max_queue_delay_ms": 0.0,
        "max_queue_size": 1024,
        "timeout_ms": 60_000.0,
    }


def test_files_are_found_from_the_file_s_folder(filled, monkeypatch):
    (filled / "code" / "config.yml").write_text(
        "models:\n- path: ../models/double.onnx\n- path: mine.py:make\n- path: sys:intern\n  worker_python: ../python\n"
    )
    (filled / "python").symlink_to(sys.executable)
    monkeypatch.chdir(filled)
    models = read_config("code/config.yml").models
    assert [model.path for model in models] == ["code/../models/double.onnx", "code/mine.py:make", "sys:intern"]
    assert [model.name for model in models] == ["double", "mine", "sys"]
    assert models[2].worker_python == "code/../python"
    (filled / "python").unlink()


# ---- the runner's arguments


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("workers", ["processes", "threads"])
def test_a_model_runs_with_its_arguments(read, workers):
    (model,) = read(f"models: [{{path: models/double.onnx, devices: 'cpu:0,1', workers: {workers}}}]").models
    with ParallelPredictUtils(**model.runner_arguments()) as runner:
        x = np.ones((5, 3), np.float32)
        np.testing.assert_array_equal(runner.predict({"x": x})["y"], 2 * x)


def test_arguments_say_what_the_file_says(read):
    twice, mine = (model.runner_arguments() for model in read(FULL).models)
    assert twice.pop("model").endswith("/models/double.onnx")
    assert twice == {
        "devices": "cpu:0,1",
        "instances": 2,
        "engine": "onnxruntime",
        "engine_options": {"threads": 1},
        "workers": "processes",
        "worker_python": None,
        "share_weights": False,
        "batch_axes": {"x": 0, "y": 0},
        "warmup": 2,
        "build_timeout_s": 60.0,
        "predict_timeout_s": 2.0,
        "max_retries": 1,
        "max_restarts": 5,
    }
    assert mine["max_restarts"] is None, "threads are not restarted"


def test_workers_of_a_server_are_restarted_without_limit(read):
    (model,) = read("models: [{path: models/double.onnx}]").models
    assert model.runner_arguments()["max_restarts"] == sys.maxsize


def test_a_precision_is_passed_on_only_where_it_is_set():
    assert "precision" not in ModelConfig(path="a.onnx").runner_arguments()
    assert ModelConfig(path="a.onnx", precision="fp16").runner_arguments()["precision"] == "fp16"


# ---- what is wrong

MODEL = "models:\n- path: models/double.onnx\n"
#: What the schema can see, too: text -> line, column, message.
ERRORS_OF_FORM = {
    "no models": (
        "port: 1\n",
        1,
        1,
        "the configuration has neither models nor pipelines nor images; expected at least one",
    ),
    "empty models": ("models: []\n", 1, 9, "models is an empty list; expected a list that is not empty"),
    "a list": ("- a\n", 1, 1, "the configuration is a list; expected a mapping"),
    "null": ("~\n", 1, 1, "the configuration is null; expected a mapping"),
    "a word for a model": ("models:\n- double.onnx\n", 2, 3, "models[0] is 'double.onnx'; expected a mapping"),
    "no path": (
        "models:\n- name: a\n",
        2,
        3,
        "models[0] has no path; expected a .mindir or .onnx file, module:factory",
    ),
    "unknown key": (f"prt: 1\n{MODEL}", 1, 1, "the configuration has the unknown key 'prt'; did you mean 'port'?"),
    "unknown key of a model": (
        f"{MODEL}  device: cpu:0\n",
        *(3, 3, "models[0] has the unknown key 'device'; did you mean 'devices'?"),
    ),
    "unlike any": (f"{MODEL}  batching: {{qqq: 1}}\n", 3, 14, "models[0].batching has the unknown key 'qqq'; expected"),
    "wrong type": (
        f"{MODEL}  instances: x\n",
        3,
        14,
        "models[0].instances is 'x'; expected a whole number, at least 1",
    ),
    "out of range": (f"port: 65536\n{MODEL}", 1, 7, "port is 65536; expected a whole number from 0 to 65535"),
    "not one of": (f"log_format: xml\n{MODEL}", 1, 13, "log_format is 'xml'; expected text or json"),
    "true for a number": (f"port: true\n{MODEL}", 1, 7, "port is true; expected a whole number from 0 to 65535"),
    "in a list": (
        f"{MODEL}  devices: [cpu:0, 1]\n",
        3,
        20,
        "models[0].devices[1] is 1; expected text that is not empty",
    ),
    "version 1.10": (f"{MODEL}  version: 1.10\n", 3, 12, "models[0].version is 1.1; expected text without spaces"),
    "a slash in a name": (f"{MODEL}  name: a/b\n", 3, 9, "models[0].name is 'a/b'; expected text without spaces, /"),
    "a path as prefix": (
        f"shared_memory_prefix: ../x\n{MODEL}",
        1,
        23,
        "shared_memory_prefix is '../x'; expected letters",
    ),
    "batch axis": (f"{MODEL}  batch_axes: {{x: y}}\n", 3, 19, "models[0].batch_axes.x is 'y'; expected a whole number"),
}
ERRORS_BEYOND = {
    "endless": (
        f"{MODEL}  batching:\n    timeout_ms: .inf\n",
        *(4, 17, "models[0].batching.timeout_ms is inf; expected a number, more than 0"),
    ),
    "a tag": (f"port: !mine 3\n{MODEL}", 1, 7, "port has the tag !mine; expected none"),
    "a key twice": (f"{MODEL}  name: a\n  name: b\n", 4, 3, "the key 'name' is there twice; it is first in line 3"),
    "one name twice": (
        f"{MODEL}- path: models/double.onnx\n  version: 1\n",
        *(3, 3, "models[1] has the name 'double' and the version '1', as models[0] has; expected another"),
    ),
    "one key of TLS": (f"tls_key: tls/key.pem\n{MODEL}", 1, 10, "tls_key is given and tls_cert is not; TLS needs both"),
    "no certificate": (f"tls_cert: a.pem\ntls_key: b.pem\n{MODEL}", 1, 11, "there is no TLS certificate "),
    "another's key": (
        f"tls_cert: tls/cert.pem\ntls_key: tls/other_key.pem\n{MODEL}",
        *(1, 11, "are not a certificate and its private key"),
    ),
    "no token file": (f"token_file: nope\n{MODEL}", 1, 13, "there is no token file "),
    "a token of two words": (
        f"token_file: code/mine.py\n{MODEL}",
        1,
        13,
        "does not contain one word; expected the token",
    ),
    "trace": (f"trace: a.txt\n{MODEL}", 1, 8, "a.txt does not end in .json"),
    "one port for both": (f"port: 1\ngrpc_port: 1\n{MODEL}", 2, 12, "grpc_port is 1, as port is; expected another one"),
    "no model file": ("models:\n- path: no.onnx\n", 2, 9, "models[0].path: there is no model file "),
    "no Python file": ("models:\n- path: no.py:make\n", 2, 9, "models[0].path: there is no file "),
    "no kind of model": ("models:\n- path: token\n", 2, 9, "models[0].path: the engine for "),
    "another's file": (f"{MODEL}  engine: mslite\n", 3, 11, "is a model for the engine onnxruntime, not for mslite"),
    "engine": (f"{MODEL}  engine: tensorflow\n", 3, 11, "models[0].engine 'tensorflow' is unknown; expected one of"),
    "engine option": (
        f"{MODEL}  engine_options: {{thread: 1}}\n",
        *(3, 28, "models[0].engine_options.thread: the engine onnxruntime has no option 'thread'; it has:"),
    ),
    "type of an engine option": (
        f"{MODEL}  engine_options: {{threads: x}}\n",
        *(3, 29, "models[0].engine_options.threads: option 'threads' of the engine onnxruntime is 'x'; expected int"),
    ),
    "devices": (f"{MODEL}  devices: tpu:0\n", 3, 12, "models[0].devices: unknown device type 'tpu'"),
    "devices of the engine": (
        f"{MODEL}  devices: simulated:0\n",
        3,
        12,
        "models[0].devices: the engine onnxruntime does",
    ),
    "worker_python": (f"{MODEL}  worker_python: python9\n", 3, 18, "models[0].worker_python='python9' is not an exec"),
    "not for threads": (
        f"{MODEL}  workers: threads\n  max_restarts: 2\n",
        *(4, 17, "models[0].max_restarts is for worker processes, and workers is 'threads': leave max_restarts out"),
    ),
    "sharing": (
        "models:\n- path: code/mine.py:make\n  share_weights: true\n",
        *(3, 18, "models[0].share_weights: the engine callable cannot share weights between processes"),
    ),
    "no example": (f"{MODEL}  warmup_examples: [no.npz]\n", 3, 21, "there is no warm-up example "),
    "no array file": (f"{MODEL}  warmup_examples: [token]\n", 3, 21, "is not an .npz file of plain arrays"),
}

ERRORS = {**ERRORS_OF_FORM, **ERRORS_BEYOND}


@pytest.mark.parametrize(("text", "line", "column", "message"), ERRORS.values(), ids=ERRORS)
def test_one_mistake_is_one_line(read, text, line, column, message):
    found = problems_of(read, text)
    assert len(found) == 1, found
    assert found[0][:2] == (line, column), found
    assert message in found[0][2]


def test_everything_wrong_is_told_at_once_in_the_file_s_order(read):
    text = """\
port: x
grpc_prt: 3
token_file: nope
models:
- path: models/double.onnx
  devices: tpu:0
  engine_options: {a: 1, threads: b}
  batching:
    timeout_ms: 0
- pth: models/double.onnx
- path: no.onnx
  instances: 0
  name: &name a
- path: no.py:make
  name: *name
"""
    found = [(line, column) for line, column, _ in problems_of(read, text)]
    assert found == [
        *((1, 7), (2, 1), (3, 13), (6, 12), (7, 23), (7, 35), (9, 17)),
        *((10, 3), (10, 3), (11, 9), (12, 14), (14, 9), (15, 3)),
    ]


FIELDS = [
    *((ServerSettings, name, f"{name}: [[]]\n{MODEL}") for name in ServerSettings.model_fields),
    *((ModelConfig, name, f"{MODEL}  {name}: [[]]\n") for name in ModelConfig.model_fields if name != "path"),
    (ModelConfig, "path", "models:\n- path: [[]]\n"),
    *((BatchingConfig, name, f"{MODEL}  batching:\n    {name}: [[]]\n") for name in BatchingConfig.model_fields),
]


@pytest.mark.parametrize(("kind", "name", "text"), FIELDS, ids=[f"{kind.__name__}.{name}" for kind, name, _ in FIELDS])
def test_each_setting_checks_its_type_and_is_described(read, kind, name, text):
    ((*_, message),) = problems_of(read, text)
    assert re.search(rf"\b{name}(\[0\])? is an? (empty )?list; expected ", message), message
    assert kind.model_fields[name].description


def test_the_page_on_serving_names_each_setting():
    page = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text()
    for kind in (ServerConfig, ModelConfig, BatchingConfig):
        for name in kind.model_fields:
            assert re.search(rf"^\| .*`{name}`.* \|", page, re.MULTILINE), name


def test_a_missing_file_is_told_as_such(tmp_path):
    with pytest.raises(UsageError, match="there is no configuration file .*/none.yml"):
        read_config(tmp_path / "none.yml")


def test_a_name_that_is_made_of_the_path_is_checked_too(read, filled):
    shutil.copy(filled / "models/double.onnx", filled / "a model.onnx")
    ((line, column, message),) = problems_of(read, "models:\n- path: a model.onnx\n")
    assert (line, column) == (2, 3)
    assert message.startswith("models[0].name is 'a model'; expected text without spaces")


# ---- whatever a file contains

#: What mistakes are made of; no devices that a look at the hardware would be needed for.
PIECES = [
    *("", " ", "\n", "\n  ", "- ", ": ", ",", "[", "]", "{", "}", "'", '"', "#", "&a", "*a", "!!int ", "!x ", "<<: *a"),
    *(
        "x",
        "0",
        "-1",
        "1e9",
        "null",
        "true",
        ".nan",
        "1" * 400,
        "é",
        "\t",
        "path",
        "models:",
        "%",
        "|",
        ">",
        "?",
        "\x01",
    ),
]


@settings(deadline=None, max_examples=250)
@given(
    st.lists(st.tuples(st.integers(0, len(FULL)), st.integers(0, 12), st.sampled_from(PIECES)), min_size=1, max_size=4)
)
def test_no_mistake_gives_a_traceback(filled, edits):
    text = FULL
    for at, length, piece in edits:
        text = text[:at] + piece + text[at + length :]
    path = filled / "mutated.yml"
    path.write_text(text)
    try:
        assert isinstance(read_config(path), ServerConfig)
    except ConfigError as error:
        assert error.problems
        for problem in error.problems:
            place = re.match(rf"{re.escape(str(path))}:(\d+):(\d+): \S", problem)
            assert place, problem
            assert 1 <= int(place[1]) <= text.count("\n") + 1
            assert "\n" not in problem


# ---- the schema


def test_the_schema_takes_what_is_right():
    schema = make_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load(FULL), schema)
    jsonschema.validate({"models": [{"path": "a.onnx"}]}, schema)


@pytest.mark.parametrize("text", [text for text, *_ in ERRORS_OF_FORM.values()], ids=ERRORS_OF_FORM)
def test_the_schema_refuses_wrong_types_and_unknown_keys(text):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), make_schema())


def test_the_schema_describes_each_setting():
    schema = make_schema()
    for settings_of in (schema, *schema["$defs"].values()):
        assert settings_of["additionalProperties"] is False
        for name, setting in settings_of["properties"].items():
            assert setting["description"].endswith("."), name
            assert "\n" not in setting["description"]

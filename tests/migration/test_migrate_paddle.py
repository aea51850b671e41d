"""migrate paddle-serving: what config.yml says is ours, or is told with its line."""

import copy
import re
import shutil
import subprocess
import sys
from pathlib import Path

import models
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ascend_parallel import ConfigError, UsageError
from ascend_parallel.cli import main
from ascend_parallel.migration import paddle_serving
from ascend_parallel.migration.paddle_serving import migrate
from ascend_parallel.migration.yaml_text import Commented, write_mapping, write_value
from ascend_parallel.serving.config_file import read_config

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "paddle_serving"
SERVICE = """
from paddle_serving_server.web_service import Op, WebService
class A(Op):
    pass
class Service(WebService):
    def get_pipeline_response(self, read_op):
        return A(name="a", input_ops=[read_op])
Service(name="s").run_service()
"""


_graphs = {}


@pytest.fixture(autouse=True)
def remember_graphs(monkeypatch):
    """Import each file of Python once: it takes a process, and what it tells does not depend on its folder."""
    real = paddle_serving.read_graph

    def read_graph(web_service, worker_python):
        text = Path(web_service).read_text() if Path(web_service).exists() else None
        if text is None or text not in _graphs:
            _graphs[text] = real(web_service, worker_python)
        return _graphs[text]

    monkeypatch.setattr(paddle_serving, "read_graph", read_graph)


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a model, and a file of Python that builds one op, a."""
    (tmp_path / "model").mkdir()
    shutil.copy(models.mlp(), tmp_path / "model" / "m.onnx")
    (tmp_path / "web_service.py").write_text(SERVICE)
    return tmp_path


def convert(folder, text, service=SERVICE):
    """Return (our configuration as data, what is told)."""
    (folder / "config.yml").write_text(text)
    (folder / "web_service.py").write_text(service)
    made = migrate(str(folder / "config.yml"), str(folder / "web_service.py"))
    notes = [str(note).replace(f"{folder}/", "") for note in made.notes]
    return yaml.safe_load(made.text), notes


def op_of(folder, op, **server):
    """Return our op for one of theirs, and what is told."""
    text = yaml.safe_dump({**server, "op": {"a": op}}, sort_keys=False)
    data, notes = convert(folder, text)
    return data["pipelines"][0]["ops"][0], notes


LOCAL = {"model_config": "model"}


# ---- settings that have a counterpart

COUNTERPARTS = [  # theirs: op, local_service_conf -> ours
    ({"concurrency": 3}, {}, {"concurrency": 3}),
    ({"timeout": 3000}, {}, {"timeout_ms": 3000}),
    ({"timeout": 3000, "retry": 3}, {}, {"timeout_ms": 3000, "retry": 2}),
    ({"timeout": -1, "retry": 3}, {}, {}),
    ({"batch_size": 4}, {}, {"batching": {"max_batch_size": 4}}),
    (
        {"batch_size": 4, "auto_batching_timeout": 2},
        {},
        {"batching": {"max_batch_size": 4, "max_queue_delay_ms": 2}},
    ),
    ({"batch_size": 1, "auto_batching_timeout": 2}, {}, {"batching": {"max_batch_size": 1}}),
    ({"fetch_list": ["y"]}, {}, {"fetch_list": ["y"]}),
    ({"fetch_list": ["z"]}, {"fetch_list": ["y"]}, {"fetch_list": ["y"]}),
    ({}, {"thread_num": 2}, {"engine_options": {"threads": 2}}),
    ({}, {"devices": ""}, {}),
    ({}, {"device_type": 0, "devices": "0,1"}, {}),
    ({}, {"devices": "0, 1"}, {"devices": "gpu:0,1"}),
    ({}, {"device_type": -1, "devices": "2"}, {"devices": "gpu:2"}),
    ({}, {"device_type": 1, "devices": "0,1"}, {"devices": "gpu:0,1"}),
    ({}, {"device_type": 2, "devices": "1", "precision": "fp16"}, {"devices": "tensorrt:1", "precision": "fp16"}),
    ({}, {"device_type": 3}, {}),
    ({}, {"precision": "fp32", "use_mkldnn": False, "mem_optim": True, "ir_optim": True, "use_calib": False}, {}),
    ({}, {"client_type": "local_predictor", "workdir": "", "min_subgraph_size": 3}, {}),
]


@pytest.mark.parametrize(("op", "local", "ours"), COUNTERPARTS, ids=str)
def test_what_has_a_counterpart_is_written_and_nothing_is_told(op, local, ours, folder):
    found, notes = op_of(folder, {**op, "local_service_conf": {**LOCAL, **local}})
    assert notes == []
    basis = {"name": "a", "python": "web_service.py:A", "interface": "paddle_serving", "path": "model/m.onnx"}
    assert found == {**basis, "devices": "cpu:0", **ours}


def test_ports_and_processes_of_a_server_that_builds_the_graph_in_each(folder):
    text = "rpc_port: 18090\nhttp_port: 9999\nworker_num: 4\nbuild_dag_each_worker: True\nop:\n  a: {concurrency: 2}\n"
    data, notes = convert(folder, text)
    assert (data["host"], data["port"], data["grpc_port"]) == ("0.0.0.0", 9999, 18090)
    assert data["pipelines"][0]["ops"][0]["concurrency"] == 8
    assert data["pipelines"][0]["paddle_service"] == data["pipelines"][0]["name"] == "s"
    assert [note.partition(" has")[0] for note in notes] == ["config.yml:3:1: worker_num"]


def test_names_of_feeds_and_fetches_are_kept(folder):
    (folder / "model" / "serving_server_conf.prototxt").write_text(
        'feed_var {\n  name: "x"\n  alias_name: "image"\n  is_lod_tensor: false\n  feed_type: 1\n  shape: 13\n}\n'
        'feed_var { name: "same" alias_name: "same" }\n'
        'fetch_var {\n  name: "y"\n  alias_name: "price"\n  fetch_type: 1\n}\n'
    )
    found, notes = op_of(folder, {"local_service_conf": {**LOCAL, "fetch_list": ["price"]}})
    assert found["rename"] == {"image": "x", "price": "y"} and found["fetch_list"] == ["price"] and notes == []


# ---- settings that have none

TOLD = [  # theirs, as lines -> what is told
    ("worker_num: 5", "1:1: worker_num has no counterpart: it is how many requests Paddle Serving has at a time"),
    ("grpc_gateway_port: 5", "1:1: grpc_gateway_port has no counterpart"),
    ("worker_nun: 5", "1:1: worker_nun is no setting of Paddle Serving 0.9.0, which ignores it (did you mean worker_n"),
    ("dag: {is_thread_op: True}", "1:7: dag.is_thread_op is left out: ops are processes here, not threads"),
    ("dag: {retry: 3}", "1:7: dag.retry has no counterpart for a whole request"),
    ("dag: {client_type: grpc}", "1:7: dag.client_type is left out"),
    ("dag: {use_profile: True}", "1:7: dag.use_profile has no counterpart: write trace: FILE.json"),
    ("dag: {channel_size: 10}", "1:7: dag.channel_size has no counterpart: max_queue_size of the pipeline bounds"),
    ("dag: {tracer: {interval_s: 10}}", "1:7: dag.tracer has no counterpart: the server counts what it does"),
    ("dag: {channel_recv_frist_arrive: True}", "1:7: dag.channel_recv_frist_arrive has no counterpart"),
    ("dag: {speed: 10}", "1:7: dag.speed is no setting of Paddle Serving 0.9.0"),
]
TOLD_OF_OP = [  # theirs: op, local_service_conf -> what is told
    (
        {"server_endpoints": ["127.0.0.1:1"]},
        {},
        "op.a.server_endpoints has no counterpart: the op called a model of",
    ),
    ({"client_config": "a.prototxt"}, {}, "op.a.client_config is left out: the model tells"),
    ({"client_type": "pipeline_grpc"}, {}, "op.a.client_type is left out"),
    ({"use_encryption_model": True}, {}, "op.a.use_encryption_model has no counterpart: decrypt the model"),
    (
        {"concurency": 2},
        {},
        "op.a.concurency is no setting of Paddle Serving 0.9.0, which ignores it (did you mean c",
    ),
    (
        {},
        {"device_type": 4, "devices": "0"},
        "op.a.local_service_conf.device_type is 4, a Kunlun XPU, for which there",
    ),
    ({}, {"device_type": 5, "devices": "0"}, "device_type is 5, Ascend 310: ascend-parallel convert makes an OM file"),
    ({}, {"device_type": 6, "devices": "0,1"}, "device_type is 6, Ascend 910: ascend-parallel convert makes"),
    ({}, {"device_type": 9}, "device_type is 9; expected 0 to 6. Choose devices"),
    (
        {},
        {"precision": "fp16"},
        "precision is fp16, and is left out: make such a model by ascend-parallel convert",
    ),
    ({}, {"precision": "int8"}, "convert MODEL.onnx --to onnx --precision int8"),
    ({}, {"precision": "bf16"}, "precision is bf16, and is left out: no engine has it here"),
    ({}, {"precision": "fp8"}, "precision is 'fp8'; expected fp32, fp16, int8 or bf16"),
    ({}, {"use_calib": True}, "use_calib has no counterpart: make the int8 model once by ascend-parallel convert"),
    ({}, {"use_mkldnn": True}, "use_mkldnn has no counterpart: ONNX Runtime has kernels of its own for CPUs"),
    ({}, {"mkldnn_cache_capacity": 10}, "mkldnn_cache_capacity has no counterpart"),
    ({}, {"mkldnn_op_list": ["fc"]}, "mkldnn_op_list has no counterpart"),
    ({}, {"min_subgraph_size": 10}, "min_subgraph_size has no counterpart by this name: write engine_options"),
    ({}, {"mem_optim": False}, "mem_optim is left out: ONNX Runtime always plans its memory"),
    ({}, {"workdir": "w"}, "workdir is left out: no server with a folder of its own"),
    ({}, {"use_trt": True}, "op.a.local_service_conf.use_trt is no setting of Paddle Serving 0.9.0"),
]


@pytest.mark.parametrize(("line", "told"), TOLD, ids=[line for line, _ in TOLD])
def test_what_has_none_is_told_with_its_line(line, told, folder):
    data, notes = convert(folder, f"{line}\nop:\n  a: {{}}\n")
    assert len(notes) == 1 and notes[0].startswith(f"config.yml:{told}")
    assert data["pipelines"][0]["ops"] == [{"name": "a", "python": "web_service.py:A", "interface": "paddle_serving"}]


@pytest.mark.parametrize(("op", "local", "told"), TOLD_OF_OP, ids=[told[:40] for _, _, told in TOLD_OF_OP])
def test_what_has_none_of_an_op_is_told_with_its_line(op, local, told, folder):
    theirs = {**op, "local_service_conf": {**LOCAL, **local}}
    _, (note,) = op_of(folder, theirs)
    assert told in note
    name = re.match(r"config.yml:(\d+):\d+: op\.a\.(?:local_service_conf\.)?(\w+) ", note)
    assert name is not None
    assert (folder / "config.yml").read_text().splitlines()[int(name[1]) - 1].strip().startswith(f"{name[2]}:")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["inference.pdmodel"], "--model_filename inference.pdmodel --params_filename inference.pdiparams --save_file"),
        (
            ["__model__"],
            "--model_dir {folder}/paddle --model_filename __model__ --params_filename __params__",
        ),
        (["inference.json"], "--model_filename inference.json"),
        ([], "which has no model that is known; put an ONNX file there, made by paddle2onnx"),
        (["a.onnx", "b.onnx"], "names a folder with a.onnx, b.onnx; path has the first of them: choose"),
        (None, "is paddle, which is not there; put an ONNX file there, made by paddle2onnx"),
    ],
)
def test_models_of_paddle_s_need_a_command(files, told, folder):
    if files is not None:
        (folder / "paddle").mkdir()
    for file in files or []:
        (folder / "paddle" / file).touch()
    found, (note,) = op_of(folder, {"local_service_conf": {"model_config": "paddle"}})
    assert re.match(r"config\.yml:4:\d+: op\.a\.local_service_conf\.model_config ", note), note
    assert told.replace("{folder}/", "") in note.replace(f"{folder}/", "")
    assert found["path"] == ("paddle/a.onnx" if files and "a.onnx" in files else "paddle/model.onnx")


# ---- the graph


def test_the_examples_become_what_their_folders_have(tmp_path):
    """And what is written is right as serve sees it."""
    for example in ("uci_housing", "imdb_model_ensemble", "auto_batching"):
        folder = tmp_path / example
        shutil.copytree(EXAMPLES / example, folder, ignore=shutil.ignore_patterns("*_model"))
        for name in re.findall(r"model_config: (\w+)", (folder / "config.yml").read_text()):
            (folder / name).mkdir()
            shutil.copy(models.mlp(), folder / name / "model.onnx")
        done = run(folder, "config.yml", "--web-service", "web_service.py", "-o", "made.yml")
        assert done.returncode == 0, done.stderr
        assert done.stdout == "wrote made.yml; check it by: ascend-parallel serve made.yml --check\n"
        assert re.fullmatch(r"config.yml:\d:1: worker_num has no counterpart.*\n", done.stderr)
        assert (folder / "made.yml").read_text() == (EXAMPLES / example / "serve.yml").read_text()
        read_config(folder / "made.yml")


GRAPH = """
from paddle_serving_server.pipeline import Op, RequestOp, ResponseOp, PipelineServer
class Own(Op):
    def __init__(self, size, **more):
        super().__init__(**more)
read_op = RequestOp()
plain = Op(name="plain", input_ops=[read_op], concurrency=2, fetch_list=["y"])
own = Own(3, name="own", input_ops=[plain, read_op], batch_size=7, jump_to_ops=[plain], server_endpoints=["a:1"])
server = PipelineServer("two")
server.set_response_op(ResponseOp(input_ops=[own]))
"""


def test_ops_that_are_models_and_ops_that_only_the_file_can_build(folder):
    local = "local_service_conf: {model_config: model}"
    text = f"op:\n  plain: {{{local}}}\n  gone: {{}}\n  own: {{batch_size: 3, concurrency: 2, {local}}}\n"
    data, notes = convert(folder, text, GRAPH)
    plain, own = data["pipelines"][0]["ops"]
    assert plain == {"name": "plain", "path": "model/m.onnx", "devices": "cpu:0", "instances": 2}
    assert (own["python"], own["inputs"]) == ("web_service.py:server", ["plain", "request"])
    assert (own["batching"], own["concurrency"]) == ({"max_batch_size": 7}, 2)
    told = " | ".join(notes)
    assert "config.yml:3:3: op.gone is no op that" in told
    assert "the op own jumps to other ops, which has no counterpart" in told
    assert "the op own is built with server_endpoints, which has no counterpart" in told
    assert "the op plain is a model alone, which gives all its outputs, not only y" in told
    read_config_of(folder, data)


def read_config_of(folder, data):
    (folder / "serve.yml").write_text(yaml.safe_dump(data))
    return read_config(folder / "serve.yml")


def test_paths_begin_where_ours_will_lie(folder):
    (folder / "sub").mkdir()
    (folder / "config.yml").write_text("op: {a: {local_service_conf: {model_config: model}}}")
    done = run(folder, "config.yml", "--web-service", "web_service.py", "-o", "sub/serve.yml")
    assert done.returncode == 0, done.stderr
    (op,) = yaml.safe_load((folder / "sub" / "serve.yml").read_text())["pipelines"][0]["ops"]
    assert (op["python"], op["path"]) == ("../web_service.py:A", "../model/m.onnx")
    read_config(folder / "sub" / "serve.yml")


def test_without_the_file_of_python_the_graph_is_to_be_filled_in(folder):
    (folder / "config.yml").write_text("http_port: 9998\nop:\n  a: {concurrency: 2}\n  b: {}\n")
    done = run(folder, "config.yml")
    assert done.returncode == 0
    assert "config.yml: it does not say which op reads which, nor of which class it is: give --web-s" in done.stderr
    assert done.stdout.count("fill in") == 5
    assert [op["name"] for op in yaml.safe_load(done.stdout)["pipelines"][0]["ops"]] == ["a", "b"]


# ---- what is wrong


def run(folder, *arguments):
    command = [sys.executable, "-m", "ascend_parallel", "migrate", "paddle-serving", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


WRONG = [  # config.yml -> what is told
    ("op: 3", "config.yml:1:5: op is no mapping of settings"),
    ("[1]", "config.yml:1:1: the file is no mapping of settings"),
    ("a: 1", "config.yml:1:1: it has no op; expected a config.yml of Paddle Serving's pipeline mode"),
    ("", "config.yml:1:1: the file is empty"),
    ("op: {a: [", "config.yml:1:10: this is not YAML"),
    ("op:\n  a: {concurrency: x}", "config.yml:2:20: op.a.concurrency is 'x'; expected a whole number of at least 1"),
    ("op:\n  a: {local_service_conf: 3}", "config.yml:2:27: op.a.local_service_conf is no mapping of settings"),
    ("op: {a: {local_service_conf: {devices: [0]}}}", "devices is [0]; expected text, such as"),
    ("op: {a: {fetch_list: [1]}}", "fetch_list is [1]; expected a list of names"),
    ("http_port: yes\nop: {a: {}}", "config.yml:1:12: http_port is 'yes'; expected a whole number"),
]


@pytest.mark.parametrize(("text", "told"), WRONG, ids=[text[:30] for text, _ in WRONG])
def test_a_wrong_file_is_told_with_its_line_and_nothing_is_written(text, told, folder, capsys, monkeypatch):
    path = folder / "config.yml"
    path.write_text(text)
    monkeypatch.setattr(sys, "argv", ["", "migrate", "paddle-serving", str(path), "-o", str(folder / "made.yml")])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == "" and not (folder / "made.yml").exists()
    assert told in err.replace(f"{folder}/", "") and "nothing was written" in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("service", "told"),
    [
        ("import nothing_here", "No module named 'nothing_here'; --worker-python names an interpreter that has what"),
        ("x = 1", "makes no WebService"),
        ("import os; os._exit(3)", "cannot be imported: the process ended with exit code 3"),
    ],
)
def test_a_file_of_python_that_cannot_be_imported_is_told(service, told, folder):
    with pytest.raises(UsageError) as caught:
        convert(folder, "op: {a: {}}", service)
    assert told in str(caught.value)


def test_files_that_are_not_there_are_told(folder):
    with pytest.raises(UsageError, match="configuration file"):
        migrate(str(folder / "nowhere.yml"))
    (folder / "config.yml").write_text("op: {a: {}}")
    with pytest.raises(UsageError, match="file of Paddle Serving"):
        migrate(str(folder / "config.yml"), str(folder / "nowhere.py"))


BASE = {
    "http_port": 1,
    "worker_num": 2,
    "dag": {"is_thread_op": True, "tracer": {"interval_s": 1}},
    "op": {
        "a": {
            "concurrency": 1,
            "timeout": 100,
            "retry": 2,
            "batch_size": 2,
            "auto_batching_timeout": 1,
            "server_endpoints": [],
            "local_service_conf": {
                "model_config": "nowhere",
                "device_type": 1,
                "devices": "0",
                "thread_num": 1,
                "precision": "fp32",
                "fetch_list": ["y"],
            },
        }
    },
}
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 70000),
    st.floats(allow_nan=False),
    st.text(max_size=4),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)


def paths_of(data, path=()):
    if isinstance(data, dict):
        for key, value in data.items():
            yield (*path, key)
            yield from paths_of(value, (*path, key))


@given(st.sampled_from(list(paths_of(BASE))), VALUES)
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_a_setting_is_it_is_taken_or_told(tmp_path_factory, path, value):
    data = copy.deepcopy(BASE)
    target = data
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    file = tmp_path_factory.getbasetemp() / "mutated.yml"
    file.write_text(yaml.safe_dump(data))
    try:
        made = migrate(str(file))
    except ConfigError as error:
        assert all(re.match(r".*mutated\.yml:\d+:\d+: \S", problem) for problem in error.problems)
        return
    assert "pipelines" in yaml.safe_load(made.text)
    assert all(str(note).startswith(str(file)) for note in made.notes)


# ---- YAML


TEXT = st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"]))
PLAIN = st.one_of(st.integers(), st.booleans(), TEXT)


@given(st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)))
@settings(deadline=None)
def test_values_are_read_as_they_were_written(value):
    assert yaml.safe_load(f"a: {write_value(value)}") == {"a": value}


def test_a_comment_is_behind_its_value():
    lines = write_mapping({"a": 1, "b": Commented("yes", "why")}, "  ", is_item=True)
    assert lines == ["  - a: 1", '    b: "yes"  # why']

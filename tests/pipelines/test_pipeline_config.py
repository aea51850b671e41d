"""Pipelines in configuration files: what is right can be built, everything wrong is told with line and column."""

import re
import shutil
from pathlib import Path

import jsonschema
import models
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from serving.config_text import problems_of, reader

from ascend_parallel import ConfigError, Pipeline, UsageError
from ascend_parallel.pipelines.config import OpBatchingConfig, OpConfig, PadConfig, PipelineConfig
from ascend_parallel.pipelines.served_pipeline import ServedPipeline
from ascend_parallel.serving.config import ServerConfig
from ascend_parallel.serving.config_checks import make_schema
from ascend_parallel.serving.config_file import read_config

#: Every setting of pipelines, once at least.
FULL = """\
pipelines:
  - name: ocr
    version: 2
    max_queue_size: 64
    timeout_ms: 5000
    paddle_service: ocr
    outputs: {texts: read.texts, boxes: detect.y}
    ops:
      - name: detect
        path: models/wide.onnx
        inputs: {x: request.image}
        devices: cpu:0,1
        instances: 2
        engine: onnxruntime
        engine_options: {threads: 1}
        workers: processes
        share_weights: false
        batch_axes: {x: 0, y: 0}
        warmup: 0
        warmup_examples: []
        max_restarts: 5
        max_retries: 1
        build_timeout_s: 60
        timeout_ms: 2000
        retry: 1
        batching: {max_batch_size: 8, max_queue_delay_ms: 0.5}
      - name: cut
        inputs: [request, detect]
        python: code/ops.py:Cut
        options: {margin: 2}
        interface: op
        concurrency: 3
      - name: read
        inputs: cut
        path: models/wide.onnx
        python: code/ops.py:Read
        rename: {x: x}
        devices: [cpu:0, "cpu:1"]
        batching:
          pad:
            x: {axis: 1, buckets: [16, 64], value: 0.5}
"""
_OPS = """
class Cut:
    def __init__(self, device, margin=0):
        pass

    def predict(self, inputs):
        return {"x": inputs["y"]}


class Read:
    def __init__(self, device):
        pass

    def postprocess(self, outputs, inputs):
        return {"texts": outputs["y"]}
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A folder with all the files that the configuration names."""
    folder = tmp_path_factory.mktemp("pipelines")
    (folder / "models").mkdir()
    (folder / "code").mkdir()
    shutil.copy(models.wide(), folder / "models" / "wide.onnx")
    (folder / "code" / "ops.py").write_text(_OPS)
    return folder


@pytest.fixture
def read(filled):
    """A function that writes a configuration and reads it."""
    return reader(filled)


def test_everything_that_a_file_says_is_read(read, filled):
    (pipeline,) = read(FULL).pipelines
    assert (pipeline.name, pipeline.version, pipeline.max_queue_size, pipeline.timeout_ms) == ("ocr", "2", 64, 5000.0)
    assert pipeline.outputs == {"texts": "read.texts", "boxes": "detect.y"}
    detect, cut, recognise = pipeline.ops
    assert (detect.path, detect.inputs, detect.retry) == (
        str(filled / "models/wide.onnx"),
        {"x": "request.image"},
        1,
    )
    assert (cut.python, cut.options, cut.concurrency) == (str(filled / "code/ops.py:Cut"), {"margin": 2}, 3)
    assert recognise.devices == ["cpu:0", "cpu:1"]
    assert recognise.batching.pad == {"x": PadConfig(axis=1, buckets=[16, 64], value=0.5)}
    assert pipeline.graph().ops == ["detect", "cut", "read"]


def test_little_is_needed(read):
    (pipeline,) = read("pipelines: [{name: a, ops: [{name: b, path: models/wide.onnx}]}]").pipelines
    assert pipeline == PipelineConfig(name="a", ops=pipeline.ops)
    (op,) = pipeline.ops
    assert op == OpConfig(name="b", path=op.path)
    assert (op.inputs, op.concurrency, op.retry, op.timeout_ms) == ("request", None, 0, 60_000.0)
    assert op.batching == OpBatchingConfig(max_batch_size=16, max_queue_delay_ms=0.0, pad={})


def test_every_setting_is_in_the_full_configuration():
    (pipeline,) = yaml.safe_load(FULL)["pipelines"]
    assert set(pipeline) == set(PipelineConfig.model_fields)
    needs_others = {"worker_python", "precision", "fetch_list"}
    assert set().union(*pipeline["ops"]) == set(OpConfig.model_fields) - needs_others
    batching = [op["batching"] for op in pipeline["ops"] if "batching" in op]
    assert set().union(*batching) == set(OpBatchingConfig.model_fields)
    assert set(batching[-1]["pad"]["x"]) == set(PadConfig.model_fields)


# ---- what is wrong

MODEL = "path: models/wide.onnx"
PYTHON = "python: code/ops.py:Cut"
BOTH = "python: code/ops.py:Read, path: models/wide.onnx"


def of_ops(*ops, more=""):
    """Return a configuration: line 4 is the first op, its first key in column 6."""
    return "\n".join(["pipelines:", f"- name: p{more}", "  ops:", *[f"  - {{{op}}}" for op in ops], ""])


A = f"name: a, {MODEL}"


def two(second, first=A, more=""):
    return of_ops(first, second, more=more)


#: What is wrong -> the text, line, column, and how the message begins.
ERRORS = {
    "no ops": (
        "pipelines:\n- name: p\n",
        2,
        3,
        "pipelines[0] has no ops; expected the ops, in any order",
    ),
    "empty ops": (
        "pipelines:\n- name: p\n  ops: []\n",
        3,
        8,
        "pipelines[0].ops is an empty list; expected a list that is not empty",
    ),
    "ops null": (
        "pipelines:\n- name: p\n  ops:\n",
        3,
        7,
        "pipelines[0].ops is null; expected a list that is not empty",
    ),
    "no name": (
        "pipelines:\n- ops: [{name: a, path: models/wide.onnx}]\n",
        2,
        3,
        "pipelines[0] has no name; expected the name in URLs",
    ),
    "ops a mapping": (
        "pipelines:\n- name: p\n  ops: {a: {path: models/wide.onnx}}\n",
        3,
        8,
        "pipelines[0].ops is a mapping; expected a list that is not empty",
    ),
    "op a word": (
        "pipelines:\n- name: p\n  ops: [a]\n",
        3,
        9,
        "pipelines[0].ops[0] is 'a'; expected a mapping",
    ),
    "pipelines mapping": (
        "pipelines: {name: p}\n",
        1,
        12,
        "pipelines is a mapping; expected a list that is not empty",
    ),
    "empty pipelines": (
        "pipelines: []\n",
        1,
        12,
        "pipelines is an empty list; expected a list that is not empty",
    ),
    "pipeline a word": (
        "pipelines: [ocr]\n",
        1,
        13,
        "pipelines[0] is 'ocr'; expected a mapping",
    ),
    "unknown key of pipeline": (
        of_ops(A, more="\n  output: a"),
        3,
        3,
        "pipelines[0] has the unknown key 'output'; did you mean 'outputs'?",
    ),
    "unknown key of op": (
        of_ops(A + ", input: request"),
        4,
        39,
        "pipelines[0].ops[0] has the unknown key 'input'; did you mean 'inputs'?",
    ),
    "unknown key of batching": (
        of_ops(A + ", batching: {size: 3}"),
        4,
        50,
        "pipelines[0].ops[0].batching has the unknown key 'size'; expected one of max_batch_size,",
    ),
    "pad without axis": (
        of_ops(f"name: a, {BOTH}, batching: {{pad: {{x: {{}}}}}}"),
        4,
        85,
        "pipelines[0].ops[0].batching.pad.x has no axis; expected the axis that is padded, at least 1: axis 0 is",
    ),
    "pad axis 0": (
        of_ops(f"name: a, {BOTH}, batching: {{pad: {{x: {{axis: 0}}}}}}"),
        4,
        92,
        "pipelines[0].ops[0].batching.pad.x.axis is 0; expected a whole number, at least 1",
    ),
    "pad buckets": (
        of_ops(f"name: a, {BOTH}, batching: {{pad: {{x: {{axis: 1, buckets: [0]}}}}}}"),
        4,
        105,
        "pipelines[0].ops[0].batching.pad.x.buckets[0] is 0; expected a whole number, at least 1",
    ),
    "pad value": (
        of_ops(f"name: a, {BOTH}, batching: {{pad: {{x: {{axis: 1, value: zero}}}}}}"),
        4,
        102,
        "pipelines[0].ops[0].batching.pad.x.value is 'zero'; expected a number",
    ),
    "pad no mapping": (
        of_ops(f"name: a, {BOTH}, batching: {{pad: 3}}"),
        4,
        81,
        "pipelines[0].ops[0].batching.pad is 3; expected a mapping",
    ),
    "pad of a model": (
        of_ops(f"{A}, batching: {{pad: {{x: {{axis: 1}}}}}}"),
        4,
        55,
        "pipelines[0].ops[0].batching.pad is for ops with python and a path: only Python can tell what was padded",
    ),
    "pad of python": (
        of_ops(f"name: a, {PYTHON}, batching: {{pad: {{x: {{axis: 1}}}}}}"),
        4,
        56,
        "pipelines[0].ops[0].batching.pad is for ops with python and a path: only Python can tell what was padded",
    ),
    "op without name": (
        of_ops(MODEL),
        4,
        5,
        "pipelines[0].ops[0] has no name; expected its name in the pipeline, which others name in their inputs",
    ),
    "op name number": (
        of_ops(f"name: 1, {MODEL}"),
        4,
        12,
        "pipelines[0].ops[0].name is 1; expected letters, digits, _ and -, not beginning with a digit",
    ),
    "op name with dot": (
        of_ops(f"name: a.b, {MODEL}"),
        4,
        12,
        "pipelines[0].ops[0].name is 'a.b'; expected letters, digits, _ and -, not beginning with a digit",
    ),
    "op name empty": (
        of_ops(f"name: '', {MODEL}"),
        4,
        12,
        "pipelines[0].ops[0].name is ''; expected letters, digits, _ and -, not beginning with a digit",
    ),
    "op named request": (
        of_ops(f"name: request, {MODEL}"),
        4,
        12,
        "pipelines[0].ops[0].name is 'request', which names the request's own inputs; choose another name",
    ),
    "op name twice": (
        two(f"name: a, {MODEL}"),
        5,
        12,
        "pipelines[0].ops[1].name is 'a', like that of ops[0]; choose another name",
    ),
    "nothing to run": (
        of_ops("name: a"),
        4,
        5,
        "pipelines[0].ops[0] has neither path nor python; expected a model, Python, or both",
    ),
    "inputs null": (
        of_ops(A + ", inputs: null"),
        4,
        47,
        "pipelines[0].ops[0].inputs is null; expected the name of an op, a list of names, or a mapping such as",
    ),
    "inputs number": (
        of_ops(A + ", inputs: 3"),
        4,
        47,
        "pipelines[0].ops[0].inputs is 3; expected the name of an op, a list of names, or a mapping such as",
    ),
    "inputs empty list": (
        of_ops(A + ", inputs: []"),
        4,
        47,
        "pipelines[0].ops[0].inputs is empty; expected request or a",
    ),
    "inputs empty map": (
        of_ops(A + ", inputs: {}"),
        4,
        47,
        "pipelines[0].ops[0].inputs is empty; expected request or a",
    ),
    "inputs empty text": (
        of_ops(A + ", inputs: ''"),
        4,
        47,
        "pipelines[0].ops[0].inputs is ''; expected the name of an op, a list of names, or a mapping such as",
    ),
    "inputs list of number": (
        of_ops(A + ", inputs: [request, 3]"),
        4,
        57,
        "pipelines[0].ops[0].inputs[1] is 3; expected text that is not empty; put it into quotes",
    ),
    "inputs map of list": (
        of_ops(A + ", inputs: {x: [request.x]}"),
        4,
        51,
        "pipelines[0].ops[0].inputs.x is a list; expected text that is not empty",
    ),
    "inputs nested list": (
        of_ops(A + ", inputs: [[request]]"),
        4,
        48,
        "pipelines[0].ops[0].inputs[0] is a list; expected text that is not empty",
    ),
    "unknown op": (
        two(f"name: b, {MODEL}, inputs: aa"),
        5,
        47,
        "pipelines[0].ops[1].inputs names the op 'aa', which is not there; did you mean 'a'?",
    ),
    "unknown op far": (
        two(f"name: b, {MODEL}, inputs: zzz"),
        5,
        47,
        "pipelines[0].ops[1].inputs names the op 'zzz', which is not there; expected request, a or b",
    ),
    "unknown op in list": (
        two(f"name: b, {MODEL}, inputs: [request, aa]"),
        5,
        57,
        "pipelines[0].ops[1].inputs[1] names the op 'aa', which is not there; did you mean 'a'?",
    ),
    "unknown op in map": (
        two(f"name: b, {MODEL}, inputs: {{x: zzz.y}}"),
        5,
        51,
        "pipelines[0].ops[1].inputs.x names the op 'zzz', which is not there; expected request, a or b",
    ),
    "twice in list": (
        two(f"name: b, {MODEL}, inputs: [a, a]"),
        5,
        51,
        "pipelines[0].ops[1].inputs[1] reads 'a' a second time; leave it out",
    ),
    "dot without output": (
        two(f"name: b, {MODEL}, inputs: a."),
        5,
        47,
        "pipelines[0].ops[1].inputs names 'a' without an output; expected a.NAME_OF_AN_OUTPUT",
    ),
    "dot first": (
        two(f"name: b, {MODEL}, inputs: .y"),
        5,
        47,
        "pipelines[0].ops[1].inputs names the op '', which is not there; expected request, a or b",
    ),
    "map without output": (
        two(f"name: b, {MODEL}, inputs: {{x: a}}"),
        5,
        51,
        "pipelines[0].ops[1].inputs.x names 'a' without an output; expected a.NAME_OF_AN_OUTPUT",
    ),
    "itself": (
        of_ops(A + ", inputs: a"),
        4,
        47,
        "pipelines[0].ops[0].inputs make a cycle: a -> a; an op cannot wait for its own outputs",
    ),
    "cycle": (
        of_ops(A + ", inputs: c", f"name: b, {MODEL}, inputs: a", f"name: c, {MODEL}, inputs: b"),
        4,
        47,
        "pipelines[0].ops[0].inputs make a cycle: b -> c -> a -> b; an op cannot wait for its own outputs",
    ),
    "cycle in part": (
        of_ops(A, f"name: b, {MODEL}, inputs: [a, c]", f"name: c, {MODEL}, inputs: b"),
        5,
        47,
        "pipelines[0].ops[1].inputs make a cycle: c -> b -> c; an op cannot wait for its own outputs",
    ),
    "several last": (
        two(f"name: b, {MODEL}"),
        2,
        3,
        "pipelines[0] has 2 ops that no other op reads: a and b; say in outputs which is the answer",
    ),
    "unread": (
        two(f"name: b, {MODEL}", more="\n  outputs: a"),
        6,
        5,
        "pipelines[0].ops[1] is read by no other op, and is not in outputs; leave it out, or use it",
    ),
    "outputs empty": (
        of_ops(A, more="\n  outputs: {}"),
        3,
        12,
        "pipelines[0].outputs is empty; expected a",
    ),
    "outputs unknown": (
        of_ops(A, more="\n  outputs: b"),
        3,
        12,
        "pipelines[0].outputs names the op 'b', which is not there; expected a",
    ),
    "outputs request": (
        of_ops(A, more="\n  outputs: request"),
        3,
        12,
        "pipelines[0].outputs names 'request', which is no op; expected a",
    ),
    "outputs list request": (
        of_ops(A, more="\n  outputs: [a, request]"),
        3,
        16,
        "pipelines[0].outputs[1] names 'request', which is no op; expected a",
    ),
    "outputs without output": (
        of_ops(A, more="\n  outputs: {y: a}"),
        3,
        16,
        "pipelines[0].outputs.y names 'a' without an output; expected a.NAME_OF_AN_OUTPUT",
    ),
    "outputs of a list": (
        of_ops(A, more="\n  outputs: [3]"),
        3,
        13,
        "pipelines[0].outputs[0] is 3; expected text that is not empty; put it into quotes",
    ),
    "options without python": (
        of_ops(A + ", options: {a: 1}"),
        4,
        39,
        "pipelines[0].ops[0].options is for ops with python, and this one has none",
    ),
    "concurrency without python": (
        of_ops(A + ", concurrency: 2"),
        4,
        39,
        "pipelines[0].ops[0].concurrency is for ops with python, and this one has none; a model has instances",
    ),
    "interface without python": (
        of_ops(A + ", interface: op"),
        4,
        39,
        "pipelines[0].ops[0].interface is for ops with python, and this one has none",
    ),
    "instances of python": (
        of_ops(f"name: a, {PYTHON}, instances: 2"),
        4,
        40,
        "pipelines[0].ops[0].instances is for ops without python: say in concurrency how many worker processes",
    ),
    "workers of python": (
        of_ops(f"name: a, {PYTHON}, workers: threads"),
        4,
        40,
        "pipelines[0].ops[0].workers is for ops without python: Python runs in worker processes",
    ),
    "share of python": (
        of_ops(f"name: a, {BOTH}, share_weights: true"),
        4,
        65,
        "pipelines[0].ops[0].share_weights is for ops without python: leave it out",
    ),
    "axes of python": (
        of_ops(f"name: a, {BOTH}, batch_axes: {{x: 0}}"),
        4,
        65,
        "pipelines[0].ops[0].batch_axes is for ops without python: preprocess gives the model its rows along",
    ),
    "warmup": (
        of_ops(f"name: a, {BOTH}, warmup: 0"),
        4,
        65,
        "pipelines[0].ops[0].warmup is for ops without python: leave it out",
    ),
    "examples": (
        of_ops(f"name: a, {BOTH}, warmup_examples: []"),
        4,
        65,
        "pipelines[0].ops[0].warmup_examples is for ops without python: leave it out",
    ),
    "engine without model": (
        of_ops(f"name: a, {PYTHON}, engine: onnxruntime"),
        4,
        40,
        "pipelines[0].ops[0].engine is for ops with a model, and this one has no path",
    ),
    "precision without model": (
        of_ops(f"name: a, {PYTHON}, precision: fp32"),
        4,
        40,
        "pipelines[0].ops[0].precision is for ops with a model, and this one has no path",
    ),
    "engine options without model": (
        of_ops(f"name: a, {PYTHON}, engine_options: {{}}"),
        4,
        40,
        "pipelines[0].ops[0].engine_options is for ops with a model, and this one has no path",
    ),
    "interface": (
        of_ops(f"name: a, {PYTHON}, interface: paddle"),
        4,
        51,
        "pipelines[0].ops[0].interface is 'paddle'; expected op or paddle_serving",
    ),
    "no class": (
        of_ops("name: a, python: code/ops.py"),
        4,
        23,
        "pipelines[0].ops[0].python is 'code/ops.py'; expected module:Class or path/to/file.py:Class",
    ),
    "no class name": (
        of_ops("name: a, python: 'code/ops.py:'"),
        4,
        23,
        "pipelines[0].ops[0].python is 'code/ops.py:'; expected module:Class or path/to/file.py:Class",
    ),
    "no file": (
        of_ops("name: a, python: code/no.py:Cut"),
        4,
        23,
        "pipelines[0].ops[0].python: there is no file code/no.py",
    ),
    "python number": (
        of_ops("name: a, python: 3"),
        4,
        23,
        "pipelines[0].ops[0].python is 3; expected text that is not empty, or null; put it into quotes",
    ),
    "no model file": (
        of_ops("name: a, path: no.onnx"),
        4,
        21,
        "pipelines[0].ops[0].path: there is no model file no.onnx",
    ),
    "no model file around": (
        of_ops("name: a, python: code/ops.py:Read, path: no.onnx"),
        4,
        47,
        "pipelines[0].ops[0].path: there is no model file no.onnx",
    ),
    "no kind of model": (
        of_ops("name: a, path: code/ops.py"),
        4,
        21,
        "pipelines[0].ops[0].path: the engine for 'code/ops.py' cannot be determined from its name; expected a",
    ),
    "no kind of model around": (
        of_ops("name: a, python: code/ops.py:Read, path: code/ops.py"),
        4,
        47,
        "pipelines[0].ops[0].path: the engine for 'code/ops.py' cannot be determined from its name; expected a",
    ),
    "option device": (
        of_ops(f"name: a, {PYTHON}, options: {{device: x}}"),
        4,
        49,
        "pipelines[0].ops[0].options: the keyword argument device is set for each worker process; leave it out",
    ),
    "option no name": (
        of_ops(f"name: a, {PYTHON}, options: {{a-b: x}}"),
        4,
        49,
        "pipelines[0].ops[0].options: 'a-b' cannot be the name of a keyword argument",
    ),
    "options list": (
        of_ops(f"name: a, {PYTHON}, options: [1]"),
        4,
        49,
        "pipelines[0].ops[0].options is a list; expected a mapping",
    ),
    "concurrency 0": (
        of_ops(f"name: a, {PYTHON}, concurrency: 0"),
        4,
        53,
        "pipelines[0].ops[0].concurrency is 0; expected a whole number, at least 1, or null",
    ),
    "concurrency text": (
        of_ops(f"name: a, {PYTHON}, concurrency: two"),
        4,
        53,
        "pipelines[0].ops[0].concurrency is 'two'; expected a whole number, at least 1, or null",
    ),
    "concurrency true": (
        of_ops(f"name: a, {PYTHON}, concurrency: true"),
        4,
        53,
        "pipelines[0].ops[0].concurrency is true; expected a whole number, at least 1, or null",
    ),
    "retry": (
        of_ops(f"{A}, retry: -1"),
        4,
        46,
        "pipelines[0].ops[0].retry is -1; expected a whole number, at least 0",
    ),
    "timeout": (
        of_ops(f"{A}, timeout_ms: 0"),
        4,
        51,
        "pipelines[0].ops[0].timeout_ms is 0; expected a number, more than 0",
    ),
    "timeout endless": (
        of_ops(f"{A}, timeout_ms: .inf"),
        4,
        51,
        "pipelines[0].ops[0].timeout_ms is inf; expected a number, more than 0",
    ),
    "pipeline timeout": (
        of_ops(A, more="\n  timeout_ms: 1s"),
        3,
        15,
        "pipelines[0].timeout_ms is '1s'; expected a number, more than 0",
    ),
    "queue": (
        of_ops(A, more="\n  max_queue_size: 0"),
        3,
        19,
        "pipelines[0].max_queue_size is 0; expected a whole number, at least 1",
    ),
    "version": (
        of_ops(A, more="\n  version: 1.10"),
        3,
        12,
        "pipelines[0].version is 1.1; expected text without spaces, /, ?, # and %, that does not begin with a",
    ),
    "max_batch_size": (
        of_ops(f"{A}, batching: {{max_batch_size: 0}}"),
        4,
        66,
        "pipelines[0].ops[0].batching.max_batch_size is 0; expected a whole number, at least 1",
    ),
    "delay": (
        of_ops(f"{A}, batching: {{max_queue_delay_ms: -1}}"),
        4,
        70,
        "pipelines[0].ops[0].batching.max_queue_delay_ms is -1; expected a number, at least 0",
    ),
    "batching list": (
        of_ops(f"{A}, batching: []"),
        4,
        49,
        "pipelines[0].ops[0].batching is an empty list; expected a mapping",
    ),
    "devices": (
        of_ops(f"{A}, devices: tpu:0"),
        4,
        48,
        "pipelines[0].ops[0].devices: unknown device type 'tpu' in 'tpu:0': did you mean 'xpu'? known are ascend",
    ),
    "devices of python": (
        of_ops(f"name: a, {PYTHON}, devices: tpu:0"),
        4,
        49,
        "pipelines[0].ops[0].devices: unknown device type 'tpu' in 'tpu:0': did you mean 'xpu'? known are ascend",
    ),
    "devices of engine": (
        of_ops(f"{A}, devices: simulated:0"),
        4,
        48,
        "pipelines[0].ops[0].devices: the engine onnxruntime does not run on simulated:0; it runs on cpu, gpu,",
    ),
    "devices of engine around": (
        of_ops(f"name: a, {BOTH}, devices: simulated:0"),
        4,
        74,
        "pipelines[0].ops[0].devices: the engine onnxruntime does not run on simulated:0; it runs on cpu, gpu,",
    ),
    "engine": (
        of_ops(f"{A}, engine: tensorflow"),
        4,
        47,
        "pipelines[0].ops[0].engine 'tensorflow' is unknown; expected one of mslite, onnxruntime, om, callable,",
    ),
    "engine around": (
        of_ops(f"name: a, {BOTH}, engine: tensorflow"),
        4,
        73,
        "pipelines[0].ops[0].engine 'tensorflow' is unknown; expected one of mslite, onnxruntime, om, callable,",
    ),
    "engine option": (
        of_ops(f"{A}, engine_options: {{thread: 1}}"),
        4,
        64,
        "pipelines[0].ops[0].engine_options.thread: the engine onnxruntime has no option 'thread'; it has:",
    ),
    "engine option around": (
        of_ops(f"name: a, {BOTH}, engine_options: {{thread: 1}}"),
        4,
        90,
        "pipelines[0].ops[0].engine_options.thread: the engine onnxruntime has no option 'thread'; it has:",
    ),
    "precision around": (
        of_ops(f"name: a, {BOTH}, precision: int4"),
        4,
        76,
        "pipelines[0].ops[0].precision is 'int4'; expected fp32, fp16, bf16 or int8, or null",
    ),
    "precision int8 around": (
        of_ops(f"name: a, {BOTH}, precision: int8"),
        4,
        76,
        "pipelines[0].ops[0].precision is 'int8', which is not possible here: models/wide.onnx is an fp32 model,",
    ),
    "precision int8": (
        of_ops(f"{A}, precision: int8"),
        4,
        50,
        "pipelines[0].ops[0].precision is 'int8', which is not possible here: models/wide.onnx is an fp32 model,",
    ),
    "worker_python": (
        of_ops(f"name: a, {PYTHON}, worker_python: python9"),
        4,
        55,
        "pipelines[0].ops[0].worker_python='python9' is not an executable; expected a Python interpreter, such",
    ),
    "build": (
        of_ops(f"name: a, {PYTHON}, build_timeout_s: soon"),
        4,
        57,
        "pipelines[0].ops[0].build_timeout_s is 'soon'; expected a number, more than 0",
    ),
    "same name as model": (
        "models: [{path: models/wide.onnx, name: p}]\n" + of_ops(A),
        3,
        9,
        "pipelines[0] has the name 'p' and the version '1', as models[0] has; expected another name or version",
    ),
    "two pipelines": (
        of_ops(A) + f"- name: p\n  ops: [{{{A}}}]\n",
        5,
        9,
        "pipelines[1] has the name 'p' and the version '1', as pipelines[0] has; expected another name or version",
    ),
    "pipeline name": (
        of_ops(A).replace("name: p", "name: a/b"),
        2,
        9,
        "pipelines[0].name is 'a/b'; expected text without spaces, /, ?, # and %, that does not begin with a dot",
    ),
    "nothing": (
        "port: 1\n",
        1,
        1,
        "the configuration has n",
    ),
}


@pytest.mark.parametrize(("text", "line", "column", "message"), ERRORS.values(), ids=ERRORS)
def test_one_mistake_is_one_line(read, text, line, column, message):
    found = problems_of(read, text)
    assert len(found) == 1, found
    assert found[0][:2] == (line, column), found
    assert re.sub(r"/\S*?/(?=no\.|code/|models/)", "", found[0][2]).startswith(message), found


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(read):
    text = """\
pipelines:
- name: p
  max_queue_size: 0
  ops:
  - name: a
    python: code/no.py:Cut
    concurrency: many
  - name: b
    path: no.onnx
    retri: 1
    inputs: [a, 3]
  - name: request
    path: models/wide.onnx
    inputs: {x: nobody.x}
"""
    places = [(line, column) for line, column, _ in problems_of(read, text)]
    assert places == [(3, 19), (6, 13), (7, 18), (9, 11), (10, 5), (11, 17)]
    text = text.replace("max_queue_size: 0", "version: 1").replace("many", "2").replace("retri:", "retry:")
    text = text.replace("no.py", "ops.py").replace("no.onnx", "models/wide.onnx").replace(", 3]", ", b]")
    messages = [(line, message.partition("] ")[2] or message) for line, _, message in problems_of(read, text)]
    assert [line for line, _ in messages] == [12, 14], "the graph is looked at when the ops are right"


FIELDS = [
    *((PipelineConfig, name, f"pipelines: [{{{name}: [[[]]]}}]") for name in PipelineConfig.model_fields),
    *((OpConfig, name, f"pipelines: [{{ops: [{{{name}: [[[]]]}}]}}]") for name in OpConfig.model_fields),
    *(
        (OpBatchingConfig, name, f"pipelines: [{{ops: [{{batching: {{{name}: [[[]]]}}}}]}}]")
        for name in OpBatchingConfig.model_fields
    ),
    *(
        (PadConfig, name, f"pipelines: [{{ops: [{{batching: {{pad: {{x: {{{name}: [[[]]]}}}}}}}}]}}]")
        for name in PadConfig.model_fields
    ),
]


@pytest.mark.parametrize(("kind", "name", "text"), FIELDS, ids=[f"{kind.__name__}.{name}" for kind, name, _ in FIELDS])
def test_each_setting_checks_its_type_and_is_described(read, kind, name, text):
    messages = [message for _, _, message in problems_of(read, text)]
    assert [text for text in messages if re.search(rf"\b{name}(\[0\])? is a list; expected ", text)], messages
    assert kind.model_fields[name].description


def test_the_page_on_pipelines_names_each_setting():
    page = (Path(__file__).resolve().parents[2] / "docs" / "pipelines.md").read_text()
    for kind in (PipelineConfig, OpConfig, OpBatchingConfig):
        for name in kind.model_fields:
            assert f"`{name}`" in page, name


# ---- the schema, for editors


def test_the_schema_agrees_with_the_checks():
    schema = make_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(yaml.safe_load(FULL))
    for what, (text, *_) in ERRORS.items():
        data = yaml.safe_load(text)
        try:
            ServerConfig.model_validate(data)
        except ValidationError:
            assert not validator.is_valid(data) or what == "timeout endless", what
        else:
            assert validator.is_valid(data) or what == "nothing", what


# ---- whatever a file contains

#: Values to put in the place of any other, and texts to put anywhere.
VALUES = [
    *(
        None,
        True,
        0,
        1,
        -1,
        2.5,
        float("inf"),
        "",
        "x",
        "request",
        "detect",
        "cut.x",
        "read.texts",
        "a.b.c",
        ".x",
        "x.",
    ),
    *([], [[]], [0], ["request", "request"], ["cut", "read"], {}, {"x": None}, {"x": "cut.x"}, {"": ""}, {1: 2}),
    *("é", "1" * 5000, "models/wide.onnx", "code/ops.py:Cut", "code/ops.py:No", "cpu:0", ["cpu:1"], "simulated:0"),
]
DELETED = object()


def places_in(data, path=()):
    """Yield the path of every value of a configuration, and of one key more in every mapping."""
    if path:
        yield path
    if isinstance(data, dict):
        yield (*path, "more")
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in children:
        yield from places_in(value, (*path, key))


def change(data, path, value):
    """Put a value at a path, where there still is one."""
    for key in path[:-1]:
        if not isinstance(data, dict | list):
            return
        data = data.get(key) if isinstance(data, dict) else data[key] if key in range(len(data)) else None
    last = path[-1]
    if isinstance(data, dict) and isinstance(last, str):
        data.pop(last, None) if value is DELETED else data.update({last: value})
    elif isinstance(data, list) and last in range(len(data)):
        data[last : last + 1] = [] if value is DELETED else [value]


PLACES = list(places_in(yaml.safe_load(FULL)))


def check_text(folder, text):
    """Read a configuration. What is accepted must be fit to be built; what is not must be told with its place."""
    path = folder / "mutated.yml"
    path.write_text(text)
    try:
        pipelines = read_config(path).pipelines
    except ConfigError as error:
        assert error.problems
        for problem in error.problems:
            place = re.match(rf"{re.escape(str(path))}:(\d+):(\d+): \S", problem)
            assert place, problem
            assert 1 <= int(place[1]) <= text.count("\n") + 1
    else:
        for pipeline in pipelines:
            served = ServedPipeline(pipeline)  # all that is done before processes are started
            assert {part.name for part in served.parts} == {f"{pipeline.name}/{op.name}" for op in pipeline.ops}


@pytest.mark.parametrize("path", PLACES, ids=[".".join(map(str, path)) for path in PLACES])
def test_any_value_anywhere_is_accepted_or_has_a_place(filled, path):
    for value in [*VALUES, DELETED]:
        data = yaml.safe_load(FULL)
        change(data, path, value)
        check_text(filled, yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from([*VALUES, DELETED])), min_size=2, max_size=5))
def test_several_mistakes_at_once(filled, changes):
    data = yaml.safe_load(FULL)
    for path, value in changes:
        change(data, path, value)
    check_text(filled, yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


PIECES = ["", " ", "\n", "\n  ", "- ", ": ", ",", "[", "]", "{", "}", "'", "#", "&a", "*a", "!x ", ".", "request", "0"]


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, len(FULL)), st.integers(0, 12), st.sampled_from(PIECES)), min_size=1, max_size=4)
)
def test_no_text_gives_a_traceback(filled, edits):
    text = FULL
    for at, length, piece in edits:
        text = text[:at] + piece + text[at + length :]
    check_text(filled, text)


@pytest.mark.usefixtures("leaves_nothing")
def test_what_is_accepted_is_built(filled):
    path = filled / "config.yml"
    path.write_text(FULL)
    with Pipeline.from_yaml(path) as pipeline:
        answer = pipeline.predict({"image": np.float32([[1, 2]])})
        np.testing.assert_array_equal(answer["boxes"], [[2, 6]])
        assert answer["texts"].shape == (1, 16), "padded to the bucket"


def test_all_workers_of_a_pipeline_share_the_cores(read, monkeypatch):
    """All ops are busy at once: with more threads than cores, they would wait for each other."""
    monkeypatch.setattr("ascend_parallel.backends.worker_environment.usable_cores", lambda: 18)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (pipeline,) = read(FULL.replace("        engine_options: {threads: 1}\n", "")).pipelines
    detect, cut, recognise = (part.runner._specs for part in ServedPipeline(pipeline).parts)
    assert len(cut) + len(recognise) == 5, "and detect has two instances on two devices: nine workers"
    assert [spec.request["options"]["threads"] for spec in detect] == [2, 2]
    assert {spec.environ["OMP_NUM_THREADS"] for spec in (*cut, *recognise)} == {"2"}
    assert all("MALLOC_TRIM_THRESHOLD_" in spec.environ for spec in (*cut, *recognise)), "what requests need is kept"
    assert {spec.request["options"]["engine_options"]["threads"] for spec in recognise} == {2}


# ---- without a file


def test_in_python_the_messages_name_the_op():
    with pytest.raises(
        UsageError, match=r"^ops\[1\].inputs names the op 'c', which is not there; expected request, a or b$"
    ):
        Pipeline([{"name": "a", "path": str(models.wide())}, {"name": "b", "path": str(models.wide()), "inputs": "c"}])
    with pytest.raises(UsageError, match="an op is 'a'; expected a dict of settings, such as"):
        Pipeline(["a"])
    with pytest.raises(UsageError, match="which workers cannot import; expected a class of a module"):
        Pipeline([{"name": "a", "python": lambda device: None}])


def test_a_file_with_several_pipelines_needs_a_name(filled):
    ops = "ops: [{name: a, path: models/wide.onnx}]"
    path = filled / "several.yml"
    path.write_text(f"pipelines: [{{name: p, {ops}}}, {{name: q, {ops}}}]")
    assert Pipeline.from_yaml(path, name="q").config.name == "q"
    with pytest.raises(UsageError, match="several.yml has several pipelines, p, q; say which one: name=..."):
        Pipeline.from_yaml(path)
    with pytest.raises(UsageError, match="several.yml has no pipeline 'r'; it has: p, q"):
        Pipeline.from_yaml(path, name="r")
    with pytest.raises(UsageError, match="there is no configuration file .*none.yml"):
        Pipeline.from_yaml(filled / "none.yml")

"""Random graphs of random ops: many requests at once get what each gets by itself, one op after the other.

Most examples run on the workers of one pipeline, whose graph is replaced: to start workers takes a hundred times as
long as to run a request. What an op does with a request is decided by the numbers in it (random_ops.py).
"""

from collections import Counter

import models
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ascend_parallel import EngineError, Pipeline, RefusedError, ShapeError
from ascend_parallel.pipelines.graph import Graph

from . import random_ops
from .sequential import Failure, Sequential, assert_same

OPS_FILE = random_ops.__file__
CHECKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


def python(name, kind, **more):
    """Return the settings of an op with Python."""
    return {"name": name, "python": f"{OPS_FILE}:{kind}", "options": {"name": name}, **more}


def make_ops():
    """Return the settings of one op of each kind, but for what they read."""
    two, wide, hits, loss = (str(make()) for make in (models.two, models.wide, models.nonzero, models.loss))
    return [
        python("p1", "Alone", concurrency=2, batching={"max_batch_size": 4}),
        python("p2", "Alone", batching={"max_batch_size": 1}, retry=1),
        python("a1", "Around", path=wide, batching={"max_batch_size": 3, "max_queue_delay_ms": 1.0}),
        python("a2", "Around", path=wide, devices="cpu:0", batching={"pad": {"x": {"axis": 1, "value": 9}}}),
        python("a3", "Around", path=wide, devices="cpu:0", batching={"pad": {"x": {"axis": 1, "buckets": [2, 4]}}}),
        python("n1", "AroundNonzero", path=hits, devices="cpu:0", retry=1),
        {"name": "m1", "path": two, "workers": "threads", "batching": {"max_batch_size": 4}},
        {"name": "m2", "path": loss, "devices": "cpu:0"},
    ]


def build_python(op):
    """Return the object of an op with Python, in this process."""
    return getattr(random_ops, op["python"].rpartition(":")[2])(**op["options"])


# ---- random graphs

#: The inputs of ops that are models, and the outputs that fit them, by op.
MODEL_INPUTS = {"m1": ("a", "b"), "m2": ("x",)}
MODEL_OUTPUTS = {"m1": ("total", "product"), "m2": ("y",)}
REQUEST_OUTPUTS = ("q", "x", "text")


def outputs_of(op):
    """Return the outputs of an op or of the request; the first fits a model."""
    return REQUEST_OUTPUTS if op == "request" else MODEL_OUTPUTS.get(op, (f"{op}_q", f"{op}_y", f"{op}_more"))


@st.composite
def graphs(draw, ops):
    """Draw some of the ops, what each of them reads, and what the answer is."""
    names = draw(st.lists(st.sampled_from([op["name"] for op in ops]), min_size=1, unique=True))
    inputs = {}
    for number, name in enumerate(names):
        inputs[name] = draw(sources_of(name, ["request", *names[:number]]))
    read = {op for sources in inputs.values() for op in read_by(sources)}
    unread = [name for name in names if name not in read]
    ways = [{f"{op} {output}": f"{op}.{output}" for op in unread for output in outputs_of(op)}]
    ways += [[*unread, *draw(st.lists(st.sampled_from(names), max_size=1).filter(lambda more: more not in unread))]]
    ways = [unread, *ways] if len(unread) == 1 else ways
    outputs = draw(st.sampled_from([way for way in ways if is_unique(way)]))
    return inputs, outputs


def is_unique(way):
    return isinstance(way, dict) or len(set(way)) == len(way)


def read_by(sources):
    if isinstance(sources, str):
        return [sources]
    return [text.partition(".")[0] for text in (sources.values() if isinstance(sources, dict) else sources)]


def sources_of(name, known):
    """Return the strategy for what an op reads of the request and of the ops before it."""
    if name in MODEL_INPUTS:
        fitting = st.sampled_from([f"{op}.{output}" for op in known for output in fitting_outputs(op)])
        return st.fixed_dictionaries(dict.fromkeys(MODEL_INPUTS[name], fitting))
    outputs = st.sampled_from([f"{op}.{output}" for op in known for output in outputs_of(op)])
    return st.one_of(
        st.sampled_from(known),
        st.lists(st.sampled_from(known), min_size=1, max_size=3, unique=True),
        st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), outputs, min_size=1),
    )


def fitting_outputs(op):
    return MODEL_OUTPUTS.get(op, outputs_of(op)[:1])


def make_request(seed):
    """Return the inputs of a request."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 7, (1 + seed % 6, 3)).astype([np.float32, np.int64, np.uint8][seed % 3])
    return {"q": rng.integers(0, 7, (1 + seed % 2, 4)).astype(np.float32), "x": x, "text": "é" * (seed % 5)}


# ---- the comparison


def check_requests(pipeline, sequential, graph, seeds):
    """Send requests all at once; compare each with its sequential evaluation. Return how often each outcome came."""
    requests = [make_request(seed) for seed in seeds]
    futures = [pipeline.submit(request) for request in requests]
    kinds = Counter()
    for request, future in zip(requests, futures, strict=True):
        expected = sequential.run(*graph, request)
        error = future.exception(60)
        if error is not None:
            assert isinstance(expected, set), (error, expected)
            failure = describe(error, graph[0])
            assert failure in expected, (error, expected)
            kinds["refused" if failure.code is not None else "failed"] += 1
        else:
            assert isinstance(expected, dict), (future.result(), expected)
            assert_same(future.result(), expected)
            kinds["answered"] += 1
    return kinds


def describe(error, ops):
    """Return which op failed and how, by what its error says."""
    if isinstance(error, RefusedError):
        return Failure(str(error).partition(" ")[0], error.code, str(error))
    assert isinstance(error, EngineError | ShapeError), repr(error)
    return Failure(next((op for op in ops if str(error).startswith(f"op {op!r}")), f"unknown: {error}"))


# ---- pipelines that are built anew: before the fixture below, whose workers stay


@st.composite
def settings_of_ops(draw, ops):
    """Draw a few of the ops with other settings: how many processes, how large batches."""
    chosen = draw(st.lists(st.sampled_from(ops), min_size=1, max_size=3, unique_by=lambda op: op["name"]))
    changed = []
    for op in chosen:
        # A model with outputs that are no rows cannot be run in several steps: all rows of a request are one batch.
        least = 8 if op["name"] in ("n1", "m2") else 1
        batching = {**op.get("batching", {}), "max_batch_size": draw(st.integers(least, 8))}
        batching["max_queue_delay_ms"] = draw(st.sampled_from([0.0, 2.0]))
        more = {"concurrency": draw(st.integers(1, 2))} if "python" in op else {}
        changed.append({**op, **more, "batching": batching, "retry": draw(st.integers(0, 1))})
    return changed


@st.composite
def pipelines(draw):
    """Draw the settings of a whole pipeline; what its answer is may be left out where one op is the last."""
    ops = draw(settings_of_ops(make_ops()))
    inputs, outputs = draw(graphs(ops))
    return [op for op in ops if op["name"] in inputs], inputs, outputs


@pytest.mark.usefixtures("leaves_nothing")
@settings(deadline=None, max_examples=5, phases=[Phase.generate], suppress_health_check=CHECKS)  # to shrink takes long
@given(pipelines(), st.lists(st.integers(0, 1 << 20), min_size=30, max_size=60))
def test_built_anew(drawn, seeds):
    ops, inputs, outputs = drawn
    sequential = Sequential(ops, build_python)
    given_outputs = None if isinstance(outputs, list) and len(outputs) == 1 else outputs
    with Pipeline([{**op, "inputs": inputs[op["name"]]} for op in reversed(ops)], outputs=given_outputs) as pipeline:
        check_requests(pipeline, sequential, (inputs, outputs), seeds)


# ---- many graphs on the same workers


@pytest.fixture(scope="module")
def workers():
    """A built pipeline with all ops, and their sequential evaluation."""
    ops = make_ops()
    chain = [{**op, "inputs": {"a": "request.q", "b": "request.q"}} for op in ops]
    chain[-1]["inputs"] = {"x": "request.q"}
    with Pipeline(chain, outputs=[op["name"] for op in ops]) as pipeline:
        yield pipeline, Sequential(ops, build_python)


def set_graph(pipeline, graph):
    """Replace the graph of a pipeline that has no requests."""
    pipeline._served._runs._graph = Graph(*graph)


@settings(deadline=None, max_examples=300, suppress_health_check=CHECKS)
@given(graphs(make_ops()), st.lists(st.integers(0, 1 << 20), min_size=1, max_size=24))
def test_requests_in_flight_get_what_each_gets_alone(workers, graph, seeds):
    pipeline, sequential = workers
    set_graph(pipeline, graph)
    check_requests(pipeline, sequential, graph, seeds)


def test_ops_do_everything_that_they_can(workers):
    """The comparison is worth something: requests are answered, refused and failed, hundreds at once."""
    pipeline, sequential = workers
    graph = (
        {
            "p1": "request",
            "a1": ["request", "p1"],
            "a2": {"a": "p1.p1_y", "b": "request.x"},
            "n1": ["a1", "a2"],
            "m1": {"a": "n1.n1_q", "b": "n1.n1_q"},
            "p2": ["m1", "a1", "request"],
        },
        ["p2", "a2"],
    )
    set_graph(pipeline, graph)
    kinds = check_requests(pipeline, sequential, graph, range(600))
    assert kinds["answered"] > 200
    assert min(kinds["refused"], kinds["failed"]) > 40
    stats = {op.name.partition("/")[2]: op.stats for op in pipeline._served.parts}
    assert all(stats[name].batches < stats[name].batch_rows.total for name in ("p1", "a1", "a2", "n1", "m1"))

"""Rows of many requests in one batch: each gets what it would have got alone. On real workers of both kinds."""

import gc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ascend_parallel import ParallelPredictUtils
from ascend_parallel.backends.call import Call
from ascend_parallel.batching.join import find_rows, join_key, split, stand_in, why_not_split
from ascend_parallel.batching.model import Model
from ascend_parallel.serving.batch_builder import BatchBuilder
from ascend_parallel.serving.request import InferRequest
from ascend_parallel.worker.engines import TensorSpec

MODEL = f"{Path(__file__).with_name('joining.py')}:make"
DTYPES = ["float32", "float64", "int32", "uint8", "bool"]


@pytest.fixture(scope="module", params=["processes", "threads"])
def backend(request):
    with ParallelPredictUtils(MODEL, devices="cpu:0", workers=request.param) as runner:
        yield runner.backend


@st.composite
def models(draw):
    """A model: inputs with rows along any axis, inputs without rows; specs that tell them apart, or none."""
    fixed = draw(st.none() | st.integers(2, 5))
    tells = fixed is not None or draw(st.booleans())
    inputs, specs, axes = {}, [], {"same": None}
    for i in range(draw(st.integers(1, 3))):
        axis = draw(st.integers(0, 2))
        name = f"r{axis}_{i}"
        tail = draw(st.lists(st.integers(1, 3), min_size=max(axis, draw(st.integers(0, 2))), max_size=3))
        inputs[name] = (axis, tail, draw(st.sampled_from(DTYPES)))
        if axis or draw(st.booleans()):
            axes[name] = axis
        axes[f"y{name}"] = axis
        axes[f"twice{name}"] = 0
        specs.append((name, inputs[name][2], [*tail[:axis], fixed or "batch", *tail[axis:]]))
    for i in range(draw(st.integers(0, 2))):
        name = f"w_{i}"
        size = draw(st.integers(1, 3))
        ways = ["declared", *(["fixed"] if tells else []), *(["named"] if tells and not fixed else [])]
        how = draw(st.sampled_from(ways))
        if how == "fixed" and fixed == size:
            how = "declared"  # as many as rows at a time: it could be short of rows
        inputs[name] = (None, [1 if how == "named" else size], draw(st.sampled_from(DTYPES)))
        if how == "declared":
            axes[name] = None
        specs.append((name, inputs[name][2], [f"steps{i}" if how == "named" else size]))
    description = {"inputs": specs if tells else None, "outputs": None, "seen": None}
    return Model("", description, batch_axes=axes, chunk_size=None, parts=1), inputs, fixed


def some(random, shape, dtype):
    return random.integers(0, 2 if dtype == "bool" else 50, shape).astype(dtype)


@st.composite
def batches(draw):
    """A model and requests: of equal inputs without rows but for the odd one, their names in any order."""
    model, inputs, fixed = draw(models())
    random = np.random.default_rng(draw(st.integers(0, 99)))
    whole = {name: some(random, tail, dtype) for name, (axis, tail, dtype) in inputs.items() if axis is None}
    requests = []
    for _ in range(draw(st.integers(1, 5))):
        rows = draw(st.integers(1, fixed - 1 if fixed else 4))
        feeds = {}
        for name in draw(st.permutations(sorted(inputs))):
            axis, tail, dtype = inputs[name]
            if axis is not None:
                feeds[name] = some(random, [*tail[:axis], rows, *tail[axis:]], dtype)
            else:
                feeds[name] = whole[name] if draw(st.integers(0, 3)) else some(random, tail, dtype)
        requests.append(feeds)
    return model, requests, fixed


def run(backend, plan, placement):
    call = Call(plan, placement)
    backend.enqueue(call)
    return backend.wait(call)


def run_alone(backend, model, feeds):
    plan, arrays = model.plan(feeds)
    return run(backend, plan, backend.place(plan, arrays, in_place=True))


def run_joined(backend, model, requests, fixed):
    """Compute requests in as few batches as their keys and the model's rows allow; return their outputs, by number."""
    builder = BatchBuilder(backend, model, 1000)
    groups = {}
    found = {}
    for number, feeds in enumerate(requests):
        request = InferRequest(tuple(feeds), list(feeds.values()), lambda _: None)
        builder.look_at(request)
        groups.setdefault(request.key if request.layout.can_join else number, []).append((number, request))
    for group in groups.values():
        while group:
            taken = [group.pop(0)]
            while group and sum(r.rows for _, r in taken) + group[0][1].rows <= (fixed or 100):
                taken.append(group.pop(0))
            found.update(_run_one(backend, model, builder, taken))
    return found


def _run_one(backend, model, builder, taken):
    plan, placement = builder.open([request for _, request in taken])
    outputs = run(backend, plan, placement)
    if len(taken) == 1:
        return {taken[0][0]: outputs}
    whole = taken[0][1].layout.fixed_rows or sum(request.rows for _, request in taken)
    assert why_not_split(outputs, model.batch_axes, whole) == ""
    found, start = {}, 0
    for number, request in taken:
        found[number] = split(outputs, model.batch_axes, whole, start, start + request.rows)
        start += request.rows
    return found


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=batches())
def test_each_request_gets_what_it_would_get_alone(backend, batch):
    model, requests, fixed = batch
    joined = run_joined(backend, model, requests, fixed)
    for number, feeds in enumerate(requests):
        alone = run_alone(backend, model, feeds)
        assert joined[number].keys() == alone.keys()
        for name, array in alone.items():
            np.testing.assert_array_equal(joined[number][name], array, err_msg=name)


# ---- which requests are joined

SPECS = [TensorSpec("x", "float32", ("batch", 3)), TensorSpec("t", "float32", ("steps",))]


def key(feeds, specs=None, axes=None):
    names = tuple(feeds)
    arrays = [np.asarray(value) for value in feeds.values()]
    rows = find_rows(specs, names, arrays, axes or {})
    return join_key(arrays, rows), rows


ones = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("one", "other", "axes", "is_equal"),
    [
        ({"x": ones}, {"x": ones[:1] * 5}, {}, True),
        ({"x": ones}, {"x": ones[:, :2]}, {}, False),
        ({"x": ones}, {"x": ones.astype("f8")}, {}, False),
        ({"x": ones}, {"x": ones.astype(">f4")}, {}, False),
        ({"x": ones}, {"z": ones}, {}, False),  # a model that takes any names
        ({"a": ones, "b": ones + 1}, {"b": ones, "a": ones + 1}, {}, False),  # the same in another order
        ({"x": ones, "t": np.zeros(1)}, {"x": ones + 1, "t": np.zeros(1)}, {"t": None}, True),
        ({"x": ones, "t": np.zeros(1)}, {"x": ones, "t": np.ones(1)}, {"t": None}, False),
        ({"x": ones, "t": np.zeros(9000)}, {"x": ones, "t": np.zeros(9000)}, {"t": None}, True),
        ({"x": ones, "t": np.zeros(9000)}, {"x": ones, "t": np.r_[np.zeros(8999), 1]}, {"t": None}, False),
        ({"x": ones}, {"x": np.ones((3, 2), np.float32)}, {"x": 1}, False),
        ({"x": ones}, {"x": np.ones((2, 7), np.float32)}, {"x": 1}, True),
    ],
)
def test_which_requests_are_joined(one, other, axes, is_equal):
    assert (key(one, axes=axes)[0] == key(other, axes=axes)[0]) is is_equal


def test_an_axis_with_a_name_of_its_own_holds_no_rows():
    x, t = ones[:1], np.zeros(1, np.float32)
    assert not key({"x": x, "t": t}, SPECS)[1].can_join  # which of the two names is that of the rows?
    _, rows = key({"x": x, "t": t}, SPECS, {"x": 0})
    assert rows.axes == (0, None) and rows.can_join
    _, rows = key({"x": x, "y": x, "t": t}, [SPECS[0], SPECS[0]._replace(name="y"), SPECS[1]])
    assert rows.axes == (0, 0, None) and rows.can_join


def test_a_request_without_rows_is_not_joined():
    assert not key({"x": np.float32(3)})[1].can_join
    assert not key({"x": ones}, [TensorSpec("x", "float32", (2, 3))])[1].can_join  # just the model's size


def test_a_stand_in_takes_no_memory():
    array = stand_in(np.ones((2, 3, 4), np.int8), 1, 10**9)
    assert array.shape == (2, 10**9, 4) and array.dtype == np.int8
    assert stand_in(ones, None, 5).shape == (2, 3)


@pytest.mark.parametrize(
    ("shape", "axes", "words"),
    [
        ((), {}, r"output 'y' has shape \(\) for 6 rows: axis 0 does not hold as many; say .*batch_axes={'y': AXIS}"),
        ((5,), {}, r"output 'y' has shape \(5,\)"),
        ((12,), {}, "axis 0 does not hold as many"),  # two for each row must be declared
        ((7,), {"y": 0}, "axis 0"),
        ((6,), {"y": 1}, "axis 1 does not hold"),
        ((6,), {}, ""),
        ((12,), {"y": 0}, ""),
        ((3, 6), {"y": 1}, ""),
        ((3, 6), {"y": -1}, ""),
        ((), {"y": None}, ""),
    ],
)
def test_outputs_that_cannot_be_split_are_told(shape, axes, words):
    reason = why_not_split({"y": np.zeros(shape)}, axes, 6)
    if words:
        with pytest.raises(AssertionError, match=words):
            raise AssertionError(reason)
    assert bool(reason) == bool(words)


# ---- memory that the caller writes itself


@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_rows_are_written_where_the_worker_reads_them(backend, axis, dtype):
    name = "w_0" if axis is None else f"r{axis}_0"
    shape = (4, 700)
    axes = {name: axis, f"y{name}": axis, f"twice{name}": 0, "same": None}
    model = Model("", {"inputs": None, "outputs": None, "seen": None}, batch_axes=axes, chunk_size=None, parts=1)
    for seed in range(3):  # the later ones know the outputs' shapes
        x = some(np.random.default_rng(seed), shape, dtype)
        r = some(np.random.default_rng(seed), (3 if axis is None else shape[axis], 2), "float32")
        feeds = {"r0_9": r, name: x}
        plan, _ = model.plan(feeds)
        assert len(plan.chunks) == 1
        placement, targets = backend.place_rows(plan)
        assert [(target.shape, target.dtype) for target in targets] == [(r.shape, r.dtype), (x.shape, x.dtype)]
        for target, array in zip(targets, (r, x), strict=True):
            assert target.flags.writeable
            target[...] = array
        outputs = run(backend, plan, placement)
        for key, array in run_alone(backend, model, feeds).items():
            np.testing.assert_array_equal(outputs[key], array)


def test_the_memory_of_rows_goes_back(backend):
    model = Model(
        "", {"inputs": None, "outputs": None, "seen": None}, batch_axes={"same": None}, chunk_size=None, parts=1
    )
    feeds = {"r0_0": np.ones((64, 1024), np.float32)}
    gc.collect()
    before = backend.stats()["shared_memory"]["leased_bytes"]
    for _ in range(3):
        plan, _ = model.plan(feeds)
        placement, targets = backend.place_rows(plan)
        targets[0][...] = 1
        held = backend.stats()["shared_memory"]["leased_bytes"]
        assert held >= before + (256 << 10)
        run(backend, plan, placement)
        del placement, targets
    gc.collect()
    assert backend.stats()["shared_memory"]["leased_bytes"] <= before

"""Scatter, an identity, gather: the input comes out again. No workers; blocks are read through their references."""

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ascend_parallel import ShapeError
from ascend_parallel.backends.allocator import Allocator
from ascend_parallel.backends.processes.placement import SharedPlacement
from ascend_parallel.batching.gather import gather
from ascend_parallel.batching.model import Model
from ascend_parallel.worker.memory import ALIGNMENT_BYTES, SharedArray
from ascend_parallel.worker.protocol import decode, decode_chunk
from ascend_parallel.worker.results import write_to_destinations

DTYPES = ["float16", "float32", "int32", "int64", "uint8", "bool"]


def make_model(specs, *, batch_axes=None, chunk_size=None, parts=1):
    description = {"inputs": specs, "outputs": None, "seen": None}
    return Model("", description, batch_axes=batch_axes or {}, chunk_size=chunk_size, parts=parts)


def look(pool, reference):
    """Return the shared that a reference of the wire format names, as a worker sees it."""
    segment, offset, dtype, shape, axis = reference
    return SharedArray(pool._segments[segment].map, offset, dtype, shape, axis, True)


def scatter(model, inputs, pool, *, in_place=False):
    """Write a call's inputs; return its plan, its memory, and what each chunk's worker gets: inputs and places."""
    plan, arrays = model.plan(inputs)
    scattered = SharedPlacement(plan, arrays, pool, in_place=in_place)
    chunks = range(len(plan.chunks))
    for index in chunks:
        scattered.write(index)
    _, _, references = decode(decode_chunk(scattered.encoded_chunk(0))[0])
    shared_arrays = [look(pool, reference) for reference in references]
    places = {name: look(pool, reference) for name, reference in decode(scattered.destinations)}
    fed = []
    for index in chunks:
        start, rows = plan.chunks[index][0], plan.fed_rows(index)
        fed.append(
            (
                [shared.rows(start, rows) for shared in shared_arrays],
                {name: shared.rows(start, rows) for name, shared in places.items()},
            )
        )
    return plan, scattered, fed


def run(model, inputs, compute, pool, *, in_place=False, seen=None):
    """Do a call as the master and its workers do; ``compute`` takes a chunk's arrays and returns named outputs."""
    plan, scattered, fed = scatter(model, inputs, pool, in_place=in_place)
    results = []
    for index, (arrays, places) in enumerate(fed):
        if seen is not None:
            seen.append(arrays)
        made = compute(*arrays)
        if write_to_destinations(made, places):
            results.append(None)
        else:
            results.append({name: np.array(array) for name, array in made.items()})
            plan.learn(plan.fed_rows(index), {n: (a.dtype.str, a.shape) for n, a in results[-1].items()})
    return gather(plan, scattered.outputs(), results), plan, results


LAYOUTS = ["plain", "fortran", "strided", "reversed", "big-endian", "unaligned", "shared", "shared part"]


def disguise(array, how, pool):
    """Return an array of the same values that lies in memory otherwise."""
    if how.startswith("shared"):
        more = 1 if how == "shared part" else 0  # a row before and a row after, of other numbers
        allocation = pool.allocate(array.nbytes // len(array) * (len(array) + 2 * more))
        whole = np.ndarray((len(array) + 2 * more, *array.shape[1:]), array.dtype, np.asarray(allocation))
        whole[:] = 77
        found = whole[more : more + len(array)]
        found[:] = array
        return found
    if how == "fortran":
        return np.asfortranarray(array)
    if how == "strided":
        wide = np.zeros((*array.shape[:-1], array.shape[-1] * 2), array.dtype)
        wide[..., ::2] = array
        return wide[..., ::2]
    if how == "reversed":
        return array[::-1].copy()[::-1]
    if how == "big-endian":
        return array.astype(array.dtype.newbyteorder(">"))
    if how == "unaligned":
        raw = np.zeros(array.nbytes + 1, np.uint8)[1:]
        raw[:] = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        return raw.view(array.dtype).reshape(array.shape)
    return array


def some(shape, dtype, seed=0):
    """Return numbers that differ from row to row."""
    random = np.random.default_rng(seed)
    if dtype == "bool":
        return random.random(shape) < 0.5
    return (random.integers(0, 200, shape)).astype(dtype)


@st.composite
def calls(draw):
    """A call: rows along an axis of x, how they are cut, dtypes, layouts; a broadcast input beside."""
    rows = draw(st.integers(1, 23))
    axis = draw(st.integers(0, 2))
    fixed = draw(st.none() | st.integers(1, 7))
    return {
        "rows": rows,
        "axis": axis,
        "rest": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "fixed": fixed,
        "chunk_size": draw(st.none() | st.integers(1, 7)) if fixed is None else None,
        "parts": draw(st.integers(1, 6)),
        "dtype": draw(st.sampled_from(DTYPES)),
        "layout": draw(st.sampled_from(LAYOUTS)),
        "in_place": draw(st.booleans()),
    }


@settings(max_examples=200, deadline=None)
@given(call=calls())
def test_scatter_identity_gather_is_the_input(call):
    rows, axis, dtype = call["rows"], call["axis"], call["dtype"]
    shape = [*call["rest"][:axis], rows, *call["rest"][axis:]]
    model_shape = [*shape[:axis], call["fixed"] or "batch", *shape[axis + 1 :]]
    x = some(shape, dtype)
    step = some((1,), "float32", seed=1)
    axes = {"x": axis, "y": axis, "z": 0, "step": None}
    pool = Allocator()
    model = make_model(
        [("x", dtype, model_shape), ("z", dtype, [call["fixed"] or "batch"]), ("step", "float32", [1])],
        batch_axes=axes,
        chunk_size=call["chunk_size"],
        parts=call["parts"],
    )
    z = np.arange(rows).astype(dtype)
    given_inputs = {"x": disguise(x, call["layout"], pool), "z": disguise(z, call["layout"], pool), "step": step}
    for _ in range(3):  # shapes unknown, learned, and from the plan's memory
        seen = []
        outputs, plan, _ = run(
            model, given_inputs, lambda x, z, step: {"y": x, "z": z, "n": z}, pool, in_place=call["in_place"], seen=seen
        )
        assert outputs["y"].dtype == x.dtype and outputs["y"].dtype.isnative
        np.testing.assert_array_equal(outputs["y"], x)
        np.testing.assert_array_equal(outputs["z"], z)
        np.testing.assert_array_equal(outputs["n"], z)
        # every chunk got the broadcast input whole, the rows once and in order, and nothing but real rows as padding
        fed = np.concatenate([chunk[1] for chunk in seen])
        np.testing.assert_array_equal(fed[:rows], z)
        np.testing.assert_array_equal(fed[rows:], np.full(len(fed) - rows, z[-1]))
        for chunk in seen:
            np.testing.assert_array_equal(chunk[2], step)
            assert chunk[0].flags.c_contiguous
            assert call["fixed"] in (None, chunk[0].shape[axis])
        assert len(seen) == len(plan.chunks)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 20),
    fixed=st.integers(1, 6),
    dtype=st.sampled_from(DTYPES),
    out_axis=st.sampled_from([0, 1, -1]),
)
def test_padding_never_reaches_an_output(rows, fixed, dtype, out_axis):
    pool = Allocator()
    model = make_model([("x", dtype, [fixed, 2])], batch_axes={"y": out_axis} if out_axis else {}, parts=2)
    x = some((rows, 2), dtype)
    compute = (lambda x: {"y": x}) if out_axis == 0 else (lambda x: {"y": x.T})
    for _ in range(2):
        outputs, _, _ = run(model, {"x": x}, compute, pool)
        np.testing.assert_array_equal(outputs["y"], x if out_axis == 0 else x.T)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 12), parts=st.integers(1, 5), which=st.sets(st.integers(0, 4)))
def test_in_place_and_own_results_mix(rows, parts, which):
    """Where some chunks' outputs do not fit their places (the guess was wrong), the whole is right all the same."""
    pool = Allocator()
    model = make_model([("x", "float32", ["batch", 2])], parts=parts)
    x = some((rows, 2), "float32")
    run(model, {"x": x}, lambda x: {"y": x}, pool)  # now float32 (n, 2) is expected
    calls = iter(range(100))

    def compute(x):
        return {"y": x.astype("float64")} if next(calls) in which else {"y": x}

    outputs, _, _ = run(model, {"x": x}, compute, pool)
    np.testing.assert_array_equal(outputs["y"], x)


def test_the_second_call_is_written_in_place():
    pool = Allocator()
    model = make_model([("x", "float32", ["batch", 600])], parts=3)
    x = some((7, 600), "float32")
    first, _, results = run(model, {"x": x}, lambda x: {"y": x + 1}, pool)
    assert all(result is not None for result in results)
    second, _, results = run(model, {"x": x}, lambda x: {"y": x + 1}, pool)
    assert results == [None, None, None]
    np.testing.assert_array_equal(first["y"], second["y"])


def test_arrays_begin_at_multiples_of_the_alignment():
    pool = Allocator()
    model = make_model([("a", "uint8", ["batch"]), ("b", "uint8", ["batch"])])
    plan, arrays = model.plan({"a": some((3,), "uint8"), "b": some((3,), "uint8")})
    references = decode(decode_chunk(SharedPlacement(plan, arrays, pool, in_place=False).encoded_chunk(0))[0])[2]
    assert [reference[1] % ALIGNMENT_BYTES for reference in references] == [0, 0]


def test_a_mutated_input_does_not_change_what_was_sent():
    pool = Allocator()
    model = make_model([("x", "float32", ["batch", 2])])
    x = some((4, 2), "float32")
    _, _, [([sent], _)] = scatter(model, {"x": x}, pool)
    before = x.copy()
    x[:] = -1
    np.testing.assert_array_equal(sent, before)


@pytest.mark.parametrize("in_place", [True, False])
def test_an_array_in_shared_memory_is_read_where_it_lies_only_if_allowed(in_place):
    pool = Allocator()
    model = make_model([("x", "float32", ["batch", 1024])], parts=2)
    allocation = pool.allocate(4 * 4096)
    x = np.ndarray((4, 1024), np.float32, np.asarray(allocation))
    x[:] = some((4, 1024), "float32")
    for view in (x, x[1:], x[1:3]):  # a part of it likewise: its rows lie one behind the other
        _, _, fed = scatter(model, {"x": view}, pool, in_place=in_place)
        sent = [arrays[0] for arrays, _ in fed]
        np.testing.assert_array_equal(np.concatenate(sent), view)
        assert np.shares_memory(sent[0], view) is in_place


def test_shared_memory_of_another_layout_or_dtype_is_copied():
    pool = Allocator()
    model = make_model([("x", "float32", ["batch", 4])], parts=1)
    allocation = pool.allocate(4096)
    floats = np.ndarray((8, 8), np.float32, np.asarray(allocation))
    halves = np.ndarray((8, 4), np.float16, np.asarray(allocation))
    floats[:] = np.arange(64).reshape(8, 8)
    for view in (floats[:, :4], floats[:4, ::2], floats[:4, :4].T, halves):
        outputs, _, _ = run(model, {"x": view}, lambda x: {"y": x}, pool, in_place=True)
        np.testing.assert_array_equal(outputs["y"], view.astype("float32"))


def test_results_stay_when_their_blocks_could_be_used_again():
    pool = Allocator()
    model = make_model([("x", "float32", ["batch", 1024])], parts=2)
    kept = []
    for i in range(20):
        x = np.full((4, 1024), i, np.float32)
        kept.append(run(model, {"x": x}, lambda x: {"y": x}, pool)[0]["y"])
    for i, y in enumerate(kept):
        assert (y == i).all()
    del kept, y
    gc.collect()
    assert pool.held_bytes()[0] == 0


# ---- what cannot be put together


def call_with(compute, *, rows=4, parts=2, calls=2, **options):
    pool = Allocator()
    model = make_model([("x", "float32", ["batch", 4])], parts=parts, **options)
    for _ in range(calls):
        outputs, _, _ = run(model, {"x": some((rows, 4), "float32")}, compute, pool)
    return outputs


def test_a_scalar_output_of_one_chunk_is_itself():
    assert call_with(lambda x: {"loss": np.float32(3)[()] * np.ones(())}, parts=1)["loss"] == 3


def test_a_scalar_output_of_several_chunks_is_an_error_that_names_the_option():
    with pytest.raises(ShapeError, match=r"'loss' has shape \(\) for a chunk of 2 rows.*batch_axes=\{'loss': None\}"):
        call_with(lambda x: {"loss": np.ones(())})


def test_an_output_declared_the_same_for_all_chunks_is_taken_once():
    assert call_with(lambda x: {"loss": np.ones(())}, batch_axes={"loss": None})["loss"] == 1


def test_an_output_with_a_multiple_of_the_rows_needs_a_declaration():
    def boxes(x):
        return {"y": np.repeat(x, 3, axis=0)}

    with pytest.raises(ShapeError, match=r"'y' has shape \(6, 4\) for a chunk of 2 rows"):
        call_with(boxes)
    assert call_with(boxes, batch_axes={"y": 0})["y"].shape == (12, 4)


def test_outputs_of_different_widths_are_an_error():
    with pytest.raises(ShapeError, match=r"'y' has different shapes in the chunks \(\(2, 5\), \(1, 4\)\)"):
        call_with(lambda x: {"y": np.zeros((len(x), 3 + len(x)))}, rows=3)


def test_chunks_with_different_outputs_are_an_error():
    with pytest.raises(ShapeError, match=r"different outputs.*\['y'\] and \['z'\]"):
        call_with(lambda x: {("y" if len(x) == 2 else "z"): x}, rows=3)


def test_a_chunk_that_suddenly_has_no_outputs_never_gives_old_memory():
    pool = Allocator()
    model = make_model([("x", "float32", ["batch", 4])], parts=1)
    x = some((4, 4), "float32")
    run(model, {"x": x}, lambda x: {"y": x}, pool)
    outputs, _, _ = run(model, {"x": x}, lambda x: {}, pool)
    assert outputs == {}

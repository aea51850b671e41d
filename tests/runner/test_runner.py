"""The runner's own interface, on ONNX Runtime over two CPU workers, which are processes or threads."""

import itertools
import os
import threading

import models
import numpy as np
import pytest
from faults import procs

from ascend_parallel import ParallelPredictUtils, RunnerClosedError, ShapeError, UsageError
from ascend_parallel.backends.processes.backend import ProcessBackend
from ascend_parallel.backends.processes.placement import find_allocation


def make(path, workers, **options):
    return ParallelPredictUtils(path, **{"devices": "cpu:0,1", "workers": workers, **options})


@pytest.fixture(scope="module", params=["processes", "threads"])
def workers(request):
    """What computes: each test that uses it, or a runner below, runs with both."""
    return request.param


def only(*which):
    """Run a test with these workers alone."""
    return pytest.mark.parametrize("workers", which, indirect=True, scope="module")


@pytest.fixture(scope="module")
def linear(workers):
    with make(models.linear(), workers, chunk_size=2) as runner:
        yield runner


@pytest.fixture(scope="module")
def wide(workers):
    """x (batch, 1024) plus itself: large enough that results stay in shared memory."""
    with make(models.steps_first(), workers, batch_axes={"x": 1, "y": 1}, chunk_size=3) as runner:
        yield runner


@pytest.fixture(scope="module")
def same(workers):
    with make(models.same("float32"), workers) as runner:
        yield runner


def rows(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)


def expected(x, size=2):
    chunks = [models.run_onnx(models.linear(), {"x": x[i : i + size]})["y"] for i in range(0, len(x), size)]
    return np.concatenate(chunks)


# ---- predict and submit


def test_workers_are_heard_while_the_rows_of_a_long_call_are_written(monkeypatch):
    answered = []
    wait = ProcessBackend.wait

    def note(backend, call):
        answered.append(backend._pool.slots[0].stats()["tasks"])
        return wait(backend, call)

    monkeypatch.setattr(ProcessBackend, "wait", note)
    with ParallelPredictUtils("simulated", devices="simulated:0", chunk_size=1, engine="simulated") as runner:
        x = rows(20_000)  # takes hundreds of times as long to write as the worker may have to wait
        np.testing.assert_array_equal(runner.predict({"x": x})["output"], x)
    assert answered[0] > 2  # more than what it was sent at first


def test_dict_in_dict_out_and_list_in_list_out(linear):
    x = rows(5)
    as_dict, as_list = linear.predict({"x": x}), linear.predict([x])
    assert list(as_dict) == ["y"] and isinstance(as_list, list)
    np.testing.assert_array_equal(as_dict["y"], expected(x))
    np.testing.assert_array_equal(as_list[0], expected(x))


def test_results_are_the_caller_s_own_for_ever(linear):
    x = rows(700)
    kept = [linear.predict({"x": x + i})["y"] for i in range(5)]
    for i, y in enumerate(kept):
        np.testing.assert_array_equal(y, expected(x + i))
    kept[0][:] = -1  # writeable, and nobody else's
    np.testing.assert_array_equal(linear.predict({"x": x})["y"], expected(x))


def test_results_outlive_the_runner(workers):
    x = rows(7000)
    with make(models.linear(), workers) as runner:
        runner.predict({"x": x})
        y = runner.predict({"x": x})["y"]
        made = runner.empty((4, 8))
        made[:] = 3
        assert find_allocation(y) is not None
    np.testing.assert_allclose(y, np.maximum(x @ models.weights(8, 5), 0), atol=1e-5)
    assert (made == 3).all()


def test_submit_gives_futures_many_in_flight(linear):
    wanted = [rows(count, seed=count) for count in range(1, 40)]
    futures = [linear.submit({"x": x}) for x in wanted]
    for x, future in zip(wanted, futures, strict=True):
        np.testing.assert_array_equal(future.result(30)["y"], expected(x))


@only("processes")
def test_submit_copies_its_inputs(linear):
    x = rows(50)
    wanted = expected(x)
    futures = []
    for _ in range(10):
        futures.append(linear.submit({"x": x}))
    x[:] = np.nan
    for future in futures:
        np.testing.assert_array_equal(future.result(30)["y"], wanted)


def test_a_wrong_input_raises_from_submit_itself(linear):
    with pytest.raises(ShapeError, match=r"'x' has shape"):
        linear.submit({"x": rows(4)[:, :3]})


def test_many_threads_each_get_their_own(linear):
    errors = []

    def work(seed):
        try:
            for i in range(25):
                x = rows(1 + (seed * 7 + i) % 9, seed * 100 + i)
                got = linear.predict({"x": x}) if i % 2 else linear.submit({"x": x}).result(30)
                np.testing.assert_array_equal(got["y"], expected(x))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors, errors[0]


def test_first_and_later_calls_are_equal(linear, workers):
    """The first call's outputs come through workers' own segments, later ones are written in place."""
    x = rows(9, seed=5)
    with make(models.linear(), workers, chunk_size=2, warmup=0) as cold:
        first, second, third = (cold.predict({"x": x})["y"] for _ in range(3))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)
    np.testing.assert_array_equal(first, linear.predict({"x": x})["y"])


# ---- map


def test_map_keeps_the_order(linear):
    items = [rows(1 + i % 5, seed=i) for i in range(30)]
    got = list(linear.map({"x": x} for x in items))
    for x, outputs in zip(items, got, strict=True):
        np.testing.assert_array_equal(outputs["y"], expected(x))


def test_map_is_lazy(linear):
    taken = itertools.count()
    endless = ({"x": rows(2, seed=next(taken))} for _ in itertools.count())
    results = linear.map(endless)
    assert next(taken) == 0, "nothing is taken before it is asked for"
    for i in range(20):
        np.testing.assert_array_equal(next(results)["y"], expected(rows(2, seed=i + 1)))
    ahead = next(taken) - 20
    assert ahead <= 4 * 2 + 1, f"{ahead} items were taken ahead of those yielded"
    results.close()
    linear.predict({"x": rows(2)})


def test_map_of_nothing_is_nothing(linear):
    assert list(linear.map([])) == []


def test_an_error_in_the_caller_s_generator_is_the_caller_s(linear):
    def items():
        yield {"x": rows(2)}
        raise LookupError("mine")

    with pytest.raises(LookupError, match=r"mine"):
        list(linear.map(items()))


def test_an_output_of_fixed_size_is_not_taken_for_rows(workers):
    """Not even where a chunk has as many rows: the anchors of a detector are no result of its rows."""
    x = np.ones((4, 3), np.float32)
    with make(models.anchors(), workers) as runner:
        for _ in range(2):
            with pytest.raises(ShapeError, match=r"'anchors' .* the model fixes its size, .*batch_axes"):
                runner.predict({"x": x})
        assert runner.predict({"x": x[:1]})["anchors"].shape == (2, 3)
    with make(models.anchors(), workers, batch_axes={"anchors": None}) as runner:
        assert runner.predict({"x": x})["anchors"].shape == (2, 3)


# ---- memory


def test_a_result_fed_to_the_next_predict_is_not_copied(wide):
    x = np.arange(5 * 6 * 4, dtype=np.float32).reshape(5, 6, 4)
    for _ in range(3):
        y = x
        for power in range(1, 6):
            y = wide.predict({"x": y})["y"]
            np.testing.assert_array_equal(y, x * 2**power)


def test_results_in_shared_memory_are_inputs_as_they_lie(same):
    x = np.random.default_rng(0).standard_normal((10_000, 3)).astype(np.float32)
    same.predict({"x": x})
    for _ in range(3):
        once = same.predict({"x": x})["y"]
        assert find_allocation(once) is not None
        np.testing.assert_array_equal(same.predict({"x": once})["y"], x)
        np.testing.assert_array_equal(same.predict({"x": once[100:900]})["y"], x[100:900])
        np.testing.assert_array_equal(same.predict({"x": once[::2]})["y"], x[::2])
        np.testing.assert_array_equal(same.submit({"x": once}).result(30)["y"], x)
        np.testing.assert_array_equal(once, x[:, ::-1])


@only("processes")
def test_results_of_one_runner_are_inputs_of_another(same, workers):
    with make(models.same("float32"), workers) as other:
        for seed in range(5):
            x = np.random.default_rng(seed).standard_normal((10_000, 3)).astype(np.float32)
            once = other.predict({"x": x})["y"]
            np.testing.assert_array_equal(same.predict({"x": once})["y"], x)
            np.testing.assert_array_equal(same.predict({"x": 2 * x})["y"], 2 * x[:, ::-1])
    assert find_allocation(once) is not None
    np.testing.assert_array_equal(same.predict({"x": once})["y"], x)  # though its runner is closed


GATED = """
import os

def make(device, gate):
    gate = os.open(gate, os.O_RDWR)

    def run(inputs):
        if inputs["x"][0, 0] == 7:
            os.read(gate, 1)
        return {"y": inputs["x"]}

    return run
"""


@only("processes")
def test_a_queued_input_of_a_runner_that_is_closed_fails_its_call(same, workers, tmp_path):
    """The worker could not map it any more, and would wait for it."""
    (tmp_path / "gated.py").write_text(GATED)
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    options = {"devices": "cpu:0", "engine_options": {"gate": str(fifo)}}
    with make(f"{tmp_path}/gated.py:make", workers, **options) as gated:
        other = make(models.same("float32"), workers)
        other.build_model()
        lent = other.empty((1, 3))
        lent[:] = 1
        waiting = [gated.submit({"x": np.full((1, 3), 7, np.float32)}) for _ in range(2)]
        queued = gated.submit({"x": lent})
        other.close()
        with open(fifo, "wb") as gate:
            gate.write(b"11")
        assert [future.result(30)["y"][0, 0] for future in waiting] == [7, 7]
        with pytest.raises(RunnerClosedError, match="an input is a result of a runner that was closed"):
            queued.result(30)
        np.testing.assert_array_equal(gated.predict({"x": lent})["y"], lent)  # it is copied now


def test_empty_gives_arrays_that_are_read_in_place(same):
    x = np.random.default_rng(1).standard_normal((1000, 3)).astype(np.float32)
    bound = same.empty((1000, 3))
    assert bound.dtype == np.float32 and bound.shape == (1000, 3) and bound.flags.writeable
    for factor in (1, 2, 3):
        bound[:] = x * factor
        np.testing.assert_array_equal(same.predict({"x": bound})["y"], x[:, ::-1] * factor)
        future = same.submit({"x": bound})
        np.testing.assert_array_equal(future.result(30)["y"], x[:, ::-1] * factor)


@only("processes")
def test_submit_copies_results_of_an_earlier_call_too(same):
    """They lie in shared memory, but they are the caller's, who may change them at any time."""
    x = np.random.default_rng(2).standard_normal((20_000, 3)).astype(np.float32)
    same.predict({"x": x})
    once = same.predict({"x": x})["y"]
    assert find_allocation(once) is not None
    futures = [same.submit({"x": once}) for _ in range(20)]
    once[:] = np.nan
    for future in futures:
        np.testing.assert_array_equal(future.result(30)["y"], x)


def test_a_bound_input_may_change_after_a_predict(same):
    bound = same.empty((1000, 3))
    bound[:] = 1
    kept = same.predict({"x": bound})["y"]
    bound[:] = 2
    assert (kept == 1).all()
    assert (same.predict({"x": bound})["y"] == 2).all()


@pytest.mark.parametrize("dtype", ["float16", "int64", "uint8", "bool", np.dtype(">f4")])
def test_empty_of_any_dtype(same, dtype):
    made = same.empty((3, 4), dtype)
    assert made.dtype == np.dtype(dtype)
    made[:] = 1
    assert (made == 1).all()


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((-1, 3), "float32", r"empty: shape is \(-1, 3\); expected sizes of at least 0"),
        (("a",), "float32", r"empty: shape is \('a',\)"),
        ((2,), object, "empty: dtype is object; expected numbers or booleans"),
        ((2,), "U5", "empty: dtype is .*; expected numbers or booleans"),
        ((2,), "no such", "empty: dtype is 'no such'"),
    ],
)
def test_arrays_that_cannot_be(same, shape, dtype, words):
    with pytest.raises(UsageError, match=words):
        same.empty(shape, dtype)


def test_empty_of_no_rows_and_of_a_lone_size(same):
    assert same.empty((0, 3)).shape == (0, 3)
    assert same.empty(5).shape == (5,)


def test_memory_is_given_back(same):
    x = np.zeros((50_000, 3), np.float32)
    same.predict({"x": x})
    mapped = same.stats()["shared_memory"]["mapped_bytes"]
    for _ in range(200):
        y = same.predict({"x": x})["y"]
    assert y.base is not None
    assert same.stats()["shared_memory"]["leased_bytes"] > 0
    del y

    def is_free():  # a thread lets go of its last task a moment after the caller has the result
        return same.stats()["shared_memory"] == {"leased_bytes": 0, "mapped_bytes": mapped}

    procs.wait_until(is_free, "all blocks free, and no more segments than at first")


@only("threads")
def test_threads_read_the_caller_s_own_memory(workers):
    """The engine gets views of the caller's array, which it must not write to, and nothing is copied."""
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    with ParallelPredictUtils(f"{__file__}:make_spy", devices="cpu:0,1", workers=workers, chunk_size=2) as runner:
        for _ in range(2):
            found = runner.predict({"x": x})["address"]
            start = x.ctypes.data
            assert found.tolist() == [start, start, start + 2 * x.strides[0], start + 2 * x.strides[0]]
        assert runner.submit({"x": x}).result(30)["address"][0] == start
        (mapped,) = runner.map([{"x": x}])
        assert mapped["address"][0] == start


def make_spy(device):
    """Return a model that tells, for each row, where the chunk that it came in lies."""

    def spy(inputs):
        assert not inputs["x"].flags.writeable
        return {"address": np.full(len(inputs["x"]), inputs["x"].ctypes.data)}

    return spy


@only("threads")
@pytest.mark.parametrize("how", ["padded", "strided", "other axis", "other dtype", "big-endian", "unaligned"])
def test_threads_copy_what_an_engine_could_not_take(workers, how):
    x = rows(5)
    options = {"chunk_size": 2}
    given, path, axes = x, models.linear(), {}
    if how == "padded":
        path = models.linear(2)
        options = {}
    elif how == "strided":
        given = np.repeat(x, 2, axis=1)[:, ::2]
    elif how == "other dtype":
        given = x.astype(np.float16)
    elif how == "big-endian":
        given = x.astype(">f4")
    elif how == "unaligned":
        raw = np.zeros(x.nbytes + 1, np.uint8)[1:]
        raw[:] = np.frombuffer(x.tobytes(), np.uint8)
        given = raw.view(np.float32).reshape(x.shape)
    elif how == "other axis":
        path, axes = models.steps_first(), {"x": 1, "y": 1}
        given = np.arange(5 * 7 * 4, dtype=np.float32).reshape(5, 7, 4)
    with make(path, workers, batch_axes=axes, **options) as runner:
        for _ in range(2):
            got = runner.predict({"x": given})["y"]
            if how == "other axis":
                np.testing.assert_array_equal(got, given * 2)
            else:
                np.testing.assert_allclose(got, expected(given.astype(np.float32)), atol=1e-5)


# ---- what it is


def test_inputs_and_outputs_are_told(linear):
    assert [tuple(spec) for spec in linear.inputs] == [("x", "float32", ("batch", 8))]
    assert [tuple(spec) for spec in linear.outputs] == [("y", "float32", ("batch", 5))]


def test_stats_count_rows_and_tasks(linear, workers):
    before = linear.stats()["workers"]
    linear.predict({"x": rows(9)})
    after = linear.stats()["workers"]
    assert sum(after[name]["rows"] - before[name]["rows"] for name in after) == 9
    assert sum(after[name]["tasks"] - before[name]["tasks"] for name in after) == 5
    assert all(after[name]["busy_s"] >= before[name]["busy_s"] >= 0 for name in after)
    assert len({worker["pid"] for worker in after.values()}) == (2 if workers == "processes" else 1)


# ---- inputs that cannot be


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"X": rows(2)}, "inputs do not fit the model: 'x' missing; 'X' unknown; it takes x"),
        ({}, "'x' missing; it takes x"),
        ({"x": rows(2), "z": rows(2)}, "'z' unknown; it takes x"),
        ({"x": rows(2), 3: rows(2)}, "3 unknown; it takes x"),
        ([], "0 inputs were given, the model takes 1: x"),
        ([rows(2), rows(2)], "2 inputs were given, the model takes 1: x"),
        (rows(2), "inputs are a ndarray; expected a dict of name -> array, or a list of arrays in the model's order"),
        (None, "inputs are a NoneType; expected a dict"),
        ("x", "inputs are a str; expected a dict"),
        ({"x": "a string"}, "input 'x' holds <U8 elements; expected numbers or booleans"),
        ({"x": None}, "input 'x' holds object elements; expected numbers or booleans"),
        ({"x": [{}]}, "input 'x' holds object elements"),
        ({"x": [[1.0], [1.0, 2.0]]}, "input 'x' cannot be made a numpy array: "),
        ({"x": rows(2).astype(np.float64)}, r"'x' is float64, the model takes float32: convert it with .astype"),
        ({"x": rows(2).astype(np.complex64)}, "'x' is complex64, the model takes float32"),
        ({"x": rows(2)[:, :7]}, r"'x' has shape \(2, 7\), the model takes \(batch, 8\)"),
        ({"x": rows(2)[0]}, r"'x' has shape \(8,\), the model takes \(batch, 8\)"),
        ({"x": rows(0)}, "'x' has 0 rows; a call needs at least one"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_wrong_inputs_are_named_and_nothing_is_sent(linear, inputs, words):
    before = linear.stats()["workers"]
    for call in (linear.predict, linear.submit, lambda item: list(linear.map([item]))):
        with pytest.raises(ShapeError, match=words) as caught:
            call(inputs)
        assert "\n" not in str(caught.value)
    assert linear.stats()["workers"] == before
    linear.predict({"x": rows(2)})


class Tensor:
    """Another library's tensor that does not want to be an array."""

    def __array__(self, *arguments, **options):
        raise RuntimeError("it lies on a GPU: call .cpu() first")


def test_another_library_s_error_is_dressed(linear):
    with pytest.raises(ShapeError, match=r"'x' cannot be made a numpy array: it lies on a GPU: call .cpu"):
        linear.predict({"x": Tensor()})


# ---- life


def test_a_runner_that_is_not_built_says_so(workers):
    runner = make(models.linear(), workers)
    for call in (
        lambda: runner.predict([rows(2)]),
        lambda: runner.submit([rows(2)]),
        lambda: list(runner.map([[rows(2)]])),
        lambda: runner.run_predict([[rows(2)]]),
        lambda: runner.empty((2, 2)),
        runner.stats,
        lambda: runner.inputs,
    ):
        with pytest.raises(RunnerClosedError, match=r"not built; call build_model\(\), or use it in a with statement"):
            call()
    runner.close()
    runner.close()


def test_a_runner_can_be_closed_twice_and_built_again(workers):
    runner = make(models.linear(), workers)
    for _ in range(2):
        runner.build_model()
        runner.build_model()  # once more is no more
        np.testing.assert_allclose(runner.predict([rows(3)])[0], expected(rows(3), 3), atol=1e-5)
        runner.finalize()
        runner.close()


# ---- MindSpore Lite's tutorial


def tutorial(path, **options):
    """The tutorial's sample, in other words: two devices, each with one half of the guidance's batch."""
    sample = np.random.default_rng(3).standard_normal((2, 2, 4, 4)).astype(np.float32)
    ctx = np.random.default_rng(4).standard_normal((2, 3, 4)).astype(np.float32)
    timestep = np.array(801.0, np.float32)
    runner = ParallelPredictUtils(path, **options)
    runner.build_model()
    try:
        results = runner.run_predict([[sample[0], timestep, ctx[0]], [sample[1], timestep, ctx[1]]])
        again = runner.run_predict([[sample[0], timestep, ctx[0]], [sample[1], timestep, ctx[1]]])
    finally:
        runner.finalize()
    feeds = {"sample": sample, "timestep": timestep.reshape(1), "ctx": ctx}
    wanted = models.run_onnx(models.unet("batch"), feeds)["out"]
    for outputs in (results, again):
        assert [type(result) for result in outputs] == [list, list]
        for i, result in enumerate(outputs):
            assert result[0].shape == (1, 2, 4, 4)
            np.testing.assert_allclose(result[0][0], wanted[i], rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("shape", ["fixed", "dynamic", "all open"])
def test_the_tutorial_s_script(shape, workers):
    path = models.unet(1) if shape == "fixed" else models.unet("batch", steps="steps", opaque=shape == "all open")
    tutorial(path, devices="cpu:0,1", workers=workers)


@pytest.mark.mslite
@pytest.mark.parametrize("shape", ["fixed", "dynamic"])
def test_the_tutorial_s_script_on_mindspore_lite(shape):
    path = models.convert(models.unet(1 if shape == "fixed" else "batch"))
    tutorial(path, devices="cpu:0,1", worker_python=models.mslite_python())


@pytest.fixture(scope="module")
def unet(workers):
    with make(models.unet(1), workers) as runner:
        yield runner


SAMPLE, STEP, CTX = np.zeros((2, 4, 4), np.float32), np.float32(0), np.zeros((3, 4), np.float32)


def test_the_tutorial_s_dtypes_are_converted(unet):
    """Its timestep comes as int64 from some schedulers, its noise as float64."""
    wanted = unet.run_predict([[SAMPLE + 1, np.float32(3), CTX]])[0][0]
    got = unet.run_predict([[SAMPLE.astype("float64") + 1, np.int64(3), CTX.astype("float16")]])[0][0]
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([[SAMPLE, STEP]], "2 inputs were given for a device, the model takes 3: sample, timestep, ctx"),
        ([SAMPLE, STEP, CTX], "run_predict got a ndarray for a device; expected a list of input lists, one a device"),
        ([{"sample": SAMPLE}], "run_predict got a dict for a device; expected a list of input lists"),
        ([[SAMPLE[0], STEP, CTX]], r"'sample' has shape \(4, 4\), 16 elements; the model takes \(1, 2, 4, 4\)"),
        ([["a", STEP, CTX]], "'sample' holds <U1 elements"),
        ([[None, STEP, CTX]], "'sample' holds object elements"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_inputs_of_the_tutorial_s_kind(unet, inputs, words):
    with pytest.raises(ShapeError, match=words):
        unet.run_predict(inputs)


def test_what_a_whole_number_does_not_hold_is_refused_there_too(workers):
    with make(models.embed(2), workers, devices="cpu") as runner:
        for ids in ([[0.5] * 3] * 2, [[np.nan] * 3] * 2):
            with pytest.raises(ShapeError, match=r"'ids' holds values that the model's int64 does not"):
                runner.run_predict([[np.array(ids)]])
        got = runner.run_predict([[np.array([[1.0, 2.0, 3.0]] * 2)]])[0][0]
        np.testing.assert_array_equal(got[0], models.weights(10, 4)[1:4])

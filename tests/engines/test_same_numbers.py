"""For every engine: k devices compute the same as one device, and the same as ONNX Runtime alone."""

import models
import numpy as np
import pytest
from conftest import CHUNK_SIZE, DTYPES, feeds_for

from ascend_parallel import ShapeError

NAMES = ["linear", "two", "unet", "layer_norm", "embed", *(f"same_{dtype}" for dtype in DTYPES)]
#: Fewer rows than devices, as many, an incomplete last chunk, many more chunks than devices.
ROWS = [1, 2, 3, 7, 20]
#: The tolerance relative to ONNX Runtime: MindSpore Lite has other kernels, numpy another order of operations.
TOLERANCE = {"mslite": 2e-6, "callable": 2e-6, "onnxruntime": 0.0}


def predict(bench, count, name, feeds):
    return bench.runner(count, fixed=name.endswith("_fixed")).predict(feeds, model=name)


def expected(bench, name, feeds):
    """Return what ONNX Runtime computes alone for the same chunks; the last row is repeated as padding."""
    base = name.removesuffix("_fixed")
    size, batch = (2, 2) if name.endswith("_fixed") else (CHUNK_SIZE, "batch")
    rows = max(len(array) for array in feeds.values())
    parts = []
    for start in range(0, rows, size):
        index = np.arange(start, start + size if batch == 2 else min(start + size, rows)).clip(max=rows - 1)
        chunk = {key: array if key == "timestep" else array[index] for key, array in feeds.items()}
        parts.append(bench.reference(base, chunk, batch))
    return {key: np.concatenate([part[key] for part in parts])[:rows] for key in parts[0]}


def check(bench, got, expected_outputs):
    assert got.keys() == expected_outputs.keys()
    for key, array in expected_outputs.items():
        assert got[key].shape == array.shape
        if bench.engine != "mslite":  # its converter rewrites int64 to int32 and float16 to float32
            assert got[key].dtype == array.dtype
        np.testing.assert_allclose(got[key], array, rtol=0, atol=TOLERANCE[bench.engine])


@pytest.mark.parametrize("name", [*NAMES, *(f"{name}_fixed" for name in NAMES)])
def test_k_devices_compute_the_same_as_one(bench, name):
    for rows in ROWS:
        feeds = feeds_for(name, rows)
        expected_outputs = expected(bench, name, feeds)
        for count in (1, 2, 3):
            for _ in range(3):  # shapes are unknown, learned, and known
                check(bench, predict(bench, count, name, feeds), expected_outputs)


@pytest.mark.parametrize("name", ["two", "two_fixed"])
def test_bits_do_not_depend_on_the_number_of_devices(bench, name):
    feeds = feeds_for(name, 20)
    one = predict(bench, 1, name, feeds)
    for count in (2, 3):
        got = predict(bench, count, name, feeds)
        for key, array in one.items():
            np.testing.assert_array_equal(got[key].view(np.uint32), array.view(np.uint32))


LAYOUTS = {
    "fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: a[::-1].copy()[::-1],
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
    "nested lists": lambda a: a if a.dtype == np.float32 else a.tolist(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["linear", "two_fixed", "unet", "same_int64", "same_float16"])
def test_the_memory_layout_of_inputs_does_not_matter(bench, name, layout):
    for rows in (1, 7):
        feeds = feeds_for(name, rows)
        if layout == "nested lists" and name == "same_float16":
            continue  # a list of floats is float64
        expected_outputs = predict(bench, 2, name, feeds)
        got = predict(bench, 2, name, {key: LAYOUTS[layout](array) for key, array in feeds.items()})
        for key, array in expected_outputs.items():
            np.testing.assert_array_equal(got[key], array)


@pytest.mark.parametrize("name", ["linear", "linear_fixed"])
def test_zero_rows_are_an_error(bench, name):
    with pytest.raises(ShapeError, match="input 'x' has 0 rows; a call needs at least one"):
        predict(bench, 2, name, {"x": np.zeros((0, 8), np.float32)})


def test_a_list_returns_a_list_in_the_model_s_order(bench):
    feeds = feeds_for("two", 7)
    expected_outputs = predict(bench, 2, "two_fixed", feeds)
    got = predict(bench, 2, "two_fixed", [feeds["a"], feeds["b"]])
    assert isinstance(got, list)
    np.testing.assert_array_equal(got[0], expected_outputs["total"])
    np.testing.assert_array_equal(got[1], expected_outputs["product"])


def test_the_order_of_a_dict_does_not_matter(bench):
    feeds = feeds_for("two", 7)
    got = predict(bench, 2, "two", dict(reversed(feeds.items())))
    np.testing.assert_allclose(got["product"], feeds["a"] * feeds["b"], atol=1e-6)
    np.testing.assert_allclose(got["total"], feeds["a"] + feeds["b"], atol=1e-6)


def test_every_worker_gets_tasks(bench):
    runner = bench.runner(3)
    before = {label: worker["rows"] for label, worker in runner.stats()["workers"].items()}
    assert list(before) == ["cpu:0", "cpu:1", "cpu:2"]
    runner.predict(feeds_for("linear", 90), model="linear")
    after = runner.stats()["workers"]
    assert sum(worker["rows"] - before[label] for label, worker in after.items()) == 90
    assert all(worker["state"] == "ready" and worker["restarts"] == 0 for worker in after.values())


def test_several_models_are_selected_by_name(bench):
    runner = bench.runner(2)
    assert list(runner.models) == NAMES
    with pytest.raises(ValueError, match=r"model is None; this runner holds 'linear', 'two', 'unet'"):
        runner.predict(feeds_for("linear", 2))
    with pytest.raises(ValueError, match=r"model is 'clip'; this runner holds 'linear', 'two', 'unet'"):
        runner.predict(feeds_for("linear", 2), model="clip")


def test_instances_run_at_the_same_time_and_compute_the_same(bench, factory):
    model = factory("linear") if bench.engine == "callable" else bench.file(models.linear())
    feeds = feeds_for("linear", 20)
    expected_outputs = expected(bench, "linear", feeds)
    with bench.open(model, devices="cpu:0,1", instances=2, chunk_size=CHUNK_SIZE) as runner:
        for _ in range(20):
            check(bench, runner.predict(feeds), expected_outputs)
        labels = list(runner.stats()["workers"])
        assert labels == (
            ["cpu:0#0", "cpu:0#1", "cpu:1#0", "cpu:1#1"] if bench.engine == "callable" else ["cpu:0", "cpu:1"]
        )
        futures = [runner.submit(feeds) for _ in range(20)]
        for future in futures:
            check(bench, future.result(), expected_outputs)

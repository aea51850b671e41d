"""Behaviour of the real MindSpore Lite: rewritten dtypes, resizing, a Model per thread, MSLitePredict alone."""

import os
import subprocess
from pathlib import Path

import models
import numpy as np
import pytest

import ascend_parallel
from ascend_parallel import EngineError, ParallelPredictUtils, ShapeError

pytestmark = pytest.mark.mslite
ROOT = Path(ascend_parallel.__file__).parent.parent


@pytest.fixture(scope="module")
def python():
    return models.mslite_python()


@pytest.fixture
def make(python):
    def make(path, **options):
        return ParallelPredictUtils(models.convert(path), worker_python=python, **{"devices": "cpu:0,1", **options})

    return make


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_int64_inputs_are_converted_if_the_values_fit(make):
    """The converter makes int32 models of int64 ones: ids that fit are converted, others are refused by name."""
    ids = np.array([[0, 1, 2], [7, 8, 9], [3, 3, 3]], np.int64)
    for batch in (1, 2, "batch"):
        with make(models.embed(batch)) as runner:
            assert [(spec.name, spec.dtype) for spec in runner.inputs] == [("ids", "int32")]
            for ids_as_given in (ids, ids.astype("int32"), ids.astype("uint8"), ids.tolist(), np.asfortranarray(ids)):
                np.testing.assert_array_equal(runner.predict({"ids": ids_as_given})["y"], models.weights(10, 4)[ids])
            with pytest.raises(
                ShapeError, match=r"'ids' holds values from 0 to 1099511627776, which do not fit .*int32"
            ):
                runner.predict({"ids": np.array([[0, 1, 2**40]] * 3)})


def test_sizes_may_change_between_calls(make):
    """A model with open axes is resized; each size computes the same as ONNX Runtime."""
    for path, tail in ((models.linear(), (8,)), (models.layer_norm(), (5, 8))):
        with make(path, chunk_size=4) as runner:
            for rows in (1, 9, 2, 4, 9, 30, 1, 3):
                x = normal(rows, *tail, seed=rows)
                expected = models.run_onnx(path, {"x": x})["y"]
                np.testing.assert_allclose(runner.predict({"x": x})["y"], expected, rtol=0, atol=2e-6)


def test_all_axes_may_be_open(make):
    path = models.unet("batch", opaque=True)
    with make(path, batch_axes={"timestep": None}) as runner:
        for rows, channels, size in ((1, 2, 4), (3, 2, 4), (3, 5, 8), (1, 2, 4)):
            feeds = {
                "sample": normal(rows, channels, size, 4),
                "timestep": np.array([2], np.float32),
                "ctx": normal(rows, 3, 4),
            }
            expected = models.run_onnx(path, feeds)["out"]
            np.testing.assert_allclose(runner.predict(feeds)["out"], expected, rtol=0, atol=2e-6)


def test_layer_norm_of_few_elements_is_right_by_default(make):
    """With more threads, 2.0.0 computes only some of its rows; therefore the default is one thread."""
    path = models.layer_norm_node()
    x = normal(6, 5, 8)
    expected = np.concatenate([models.run_onnx(path, {"x": x[i : i + 2]})["y"] for i in (0, 2, 4)])
    with make(path) as runner:  # 1e-4: 2.0.0 ignores the node's epsilon of 1e-5
        np.testing.assert_allclose(runner.predict({"x": x})["y"], expected, rtol=0, atol=1e-4)
    for batch in (1, 2, "batch"):
        path = models.layer_norm(batch)
        with make(path) as runner:
            for rows in (1, 2, 7):
                x = normal(rows, 5, 8, seed=rows)
                expected = models.run_onnx(models.layer_norm(), {"x": x})["y"]
                np.testing.assert_allclose(runner.predict({"x": x})["y"], expected, rtol=0, atol=2e-6)


def test_threads_of_one_worker_do_not_mix_up_their_results(make):
    inputs = [normal(2, 8, seed=seed) for seed in range(100)]
    expected = [models.run_onnx(models.linear(), {"x": x})["y"] for x in inputs]
    with make(models.linear(), devices="cpu", instances=3, chunk_size=1) as runner:
        assert len(runner.stats()["workers"]) == 1
        for _ in range(3):
            for future, want in zip([runner.submit([x]) for x in inputs], expected, strict=True):
                np.testing.assert_allclose(future.result(30)[0], want, rtol=0, atol=2e-6)


def test_instances_share_a_worker_and_compute_the_same_as_one_instance(make):
    """All dtypes, several inputs, open axes and fixed ones: the pool of Models accepts any input silently."""
    cases = {
        models.linear(): {"x": normal(6, 8)},
        models.linear(2): {"x": normal(6, 8)},
        models.unet(1): {"sample": normal(6, 2, 4, 4), "timestep": np.array([3], np.float32), "ctx": normal(6, 3, 4)},
        models.embed(): {"ids": np.arange(18).reshape(6, 3) % 10},
        models.same("uint8", in_floats=True): {"x": np.arange(18, dtype=np.uint8).reshape(6, 3)},
        models.same("bool", in_floats=True): {"x": np.arange(18).reshape(6, 3) % 2 == 0},
    }
    for path, feeds in cases.items():
        with make(path, devices="cpu") as one, make(path, devices="cpu", instances=2) as two:
            assert len(two.stats()["workers"]) == 1
            assert two.inputs == one.inputs
            for _ in range(3):
                expected, got = one.predict(feeds), two.predict(feeds)
                assert expected.keys() == got.keys()
                for name, array in expected.items():
                    np.testing.assert_array_equal(array, got[name])
            assert two.outputs == one.outputs
            name = next(iter(feeds))
            with pytest.raises(ShapeError, match=name):
                two.predict({**feeds, name: feeds[name][..., :1]})


def test_instances_with_sizes_that_change_between_calls(make):
    """The threads of a pool resize the same Models concurrently."""
    inputs = [normal(1 + seed % 7, 8, seed=seed) for seed in range(100)]
    expected = [models.run_onnx(models.linear(), {"x": x})["y"] for x in inputs]
    with make(models.linear(), devices="cpu", instances=3, chunk_size=9) as runner:
        kept = [future.result(30)[0] for future in [runner.submit([x]) for x in inputs]]
        for got, want in zip(kept, expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


def test_more_instances_than_supported(make):
    """More than five per core: the pool itself does not report the reason."""
    with pytest.raises(EngineError, match=r"Likely: 1000 instances are more than MindSpore Lite supports on \d+ cores"):
        make(models.linear(), devices="cpu", instances=1000).build_model()


def test_results_are_not_overwritten_by_the_next_predict(make):
    with make(models.linear(2), devices="cpu") as runner:
        kept = [runner.predict([normal(2, 8, seed=i)])[0] for i in range(10)]
        for i, y in enumerate(kept):
            expected = models.run_onnx(models.linear(), {"x": normal(2, 8, seed=i)})["y"]
            np.testing.assert_allclose(y, expected, rtol=0, atol=2e-6)


def test_a_wrong_shape_with_as_many_bytes_is_refused(make):
    """MindSpore Lite itself accepts it, and computes other numbers."""
    with make(models.two(2), devices="cpu") as runner, pytest.raises(ShapeError, match=r"'a' has shape \(4, 2\)"):
        runner.predict({"a": np.zeros((4, 2), np.float32), "b": np.zeros((2, 4), np.float32)})


def test_an_option_that_the_installed_version_does_not_have(make):
    with pytest.raises(EngineError, match=r"mindspore_lite .* has no option rank_id for cpu"):
        make(models.linear(), engine_options={"rank_id": 0}).build_model()
    with pytest.raises(
        EngineError, match=r"precision_mode must be in .*enforce_fp32, preferred_fp16.* got enforce_fp16"
    ):
        make(models.linear(), engine_options={"precision_mode": "enforce_fp16"}).build_model()


def test_a_config_file_that_does_not_exist(make):
    with pytest.raises(EngineError, match=r"config_path"):
        make(models.linear(), engine_options={"config_path": "/nowhere.cfg"}, devices="cpu").build_model()


# ---- MSLitePredict alone, run by the worker's interpreter

_ALONE = """
import sys, importlib, types
import numpy as np
root, path = sys.argv[1:3]
if sys.argv[3] == "package":
    sys.path.insert(0, root)
    from ascend_parallel import MSLitePredict
else:
    folder = root + "/ascend_parallel/worker"
    package = types.ModuleType("borrowed"); package.__path__ = [folder]; sys.modules["borrowed"] = package
    MSLitePredict = importlib.import_module("borrowed.engines.mslite").MSLitePredict
sample = np.asfortranarray(np.arange(32, dtype="float64").reshape(1, 2, 4, 4))
predictor = MSLitePredict(path, 0, target="cpu")
ctx = np.ones((3, 4), "float32")
first = predictor.run([sample, np.array(2.0), ctx])[0]
second = predictor.run([sample[0] * 0, np.array([2], "int64"), ctx])[0]
assert [spec.name for spec in predictor.inputs] == ["sample", "timestep", "ctx"], predictor.inputs
assert [spec.name for spec in predictor.outputs] == ["out"], predictor.outputs
np.testing.assert_allclose(first, sample * 2 + 1, atol=1e-5)
np.testing.assert_allclose(second, np.ones((1, 2, 4, 4)), atol=1e-5)
for wrong in ([sample], [sample[:, :1], np.array(2.0), ctx]):
    try:
        predictor.run(wrong)
    except ValueError as error:
        print(error)
try:
    MSLitePredict(root + "/nowhere.mindir", 0, target="cpu")
except ValueError as error:
    print(error)
print("numpy" in sys.modules, "ascend_parallel.master" in sys.modules)
"""


@pytest.mark.parametrize("how", ["package", "path"])
def test_mslite_predict_alone(python, how):
    done = subprocess.run(
        [python, "-W", "error", "-c", _ALONE, str(ROOT), str(models.convert(models.unet(1))), how],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "GLOG_v": "4"},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "1 inputs were given, the model takes 3"
    assert lines[1].startswith("input 'sample' has shape (1, 1, 4, 4); the model takes (1, 2, 4, 4)")
    assert lines[2].startswith("there is no model file ")
    assert lines[3] == "True False"

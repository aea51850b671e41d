"""Behaviour of the ONNX Runtime engine: IO binding, outputs of unknown shapes, batch axes, options."""

import models
import numpy as np
import pytest

from ascend_parallel import EngineError, ParallelPredictUtils, ShapeError
from ascend_parallel.worker.engines import assignment


@pytest.fixture(autouse=True, params=["processes", "threads"])
def workers(request, monkeypatch):
    """Each test runs with worker processes and with threads."""
    monkeypatch.setitem(OPTIONS, "workers", request.param)
    return request.param


OPTIONS = {"devices": "cpu:0,1"}


def make(path, **options):
    return ParallelPredictUtils(path, **{**OPTIONS, **options})


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_an_output_whose_shape_depends_on_the_data():
    """Learned shapes are a guess. If a guess is wrong, ONNX Runtime raises, and the result is right nevertheless."""
    with make(models.nonzero(), devices="cpu") as runner:
        for seed in range(12):
            x = (normal(6, 4, seed=seed) > 0.3).astype(np.float32)
            expected = np.argwhere(x)
            for _ in range(2):
                np.testing.assert_array_equal(runner.predict({"x": x})["where"], expected)


def test_an_output_that_has_the_chunk_s_size_by_chance_is_not_a_batch():
    """One call has as many hits as rows: the next call must not be sliced by that."""
    with make(models.nonzero(), devices="cpu") as runner:
        for hits in (6, 6, 3, 12, 6, 0, 24, 6):
            x = np.zeros(24, np.float32)
            x[:hits] = 1
            got = runner.predict({"x": x.reshape(6, 4)})["where"]
            np.testing.assert_array_equal(got, np.argwhere(x.reshape(6, 4)))


def test_data_dependent_outputs_of_several_chunks_are_an_error():
    x = np.eye(6, 4, dtype=np.float32)
    x[5] = 1
    with (
        make(models.nonzero()) as runner,
        pytest.raises(ShapeError, match=r"'where' has shape .* for a chunk of 3 rows"),
    ):
        runner.predict({"x": x})


def test_an_output_whose_width_depends_on_another_input():
    x = normal(5, 3)
    with make(models.repeat(), batch_axes={"times": None}) as runner:
        for times in (2, 2, 3, 1, 3, 3, 2):
            got = runner.predict({"x": x, "times": np.array([times])})["y"]
            np.testing.assert_array_equal(got, np.tile(x, (1, times)))


def test_a_scalar_output_of_one_chunk_is_returned():
    x = normal(4, 4)
    with make(models.mean_loss(), devices="cpu") as runner:
        for _ in range(3):
            got = runner.predict({"x": x})["loss"]
            assert got.shape == ()
            np.testing.assert_allclose(got, x.mean(), rtol=1e-5)


def test_a_scalar_output_of_several_chunks_names_the_option():
    with make(models.mean_loss()) as runner:
        for _ in range(2):
            with pytest.raises(
                ShapeError, match=r"'loss' has shape \(\) for a chunk of 2 rows.*batch_axes=\{'loss': None"
            ):
                runner.predict({"x": normal(4, 4)})


def test_a_scalar_output_declared_the_same_for_all():
    x = normal(5, 4)
    with make(models.loss(), batch_axes={"loss": None}) as runner:
        for _ in range(3):
            got = runner.predict({"x": x})
            assert got["loss"] == 1.5
            np.testing.assert_array_equal(got["y"], x * x)


def test_rows_along_another_axis():
    x = normal(3, 7, 4)
    with make(models.steps_first(), batch_axes={"x": 1, "y": -2}) as runner:
        for _ in range(3):
            np.testing.assert_array_equal(runner.predict({"x": x})["y"], x + x)
            np.testing.assert_array_equal(runner.predict({"x": np.asfortranarray(x)})["y"], x + x)


def test_rows_along_an_undeclared_output_axis_are_an_error():
    words = r"'y' has shape \(3, 4, 4\) for a chunk of 4 rows"
    with make(models.steps_first(), batch_axes={"x": 1}) as runner, pytest.raises(ShapeError, match=words):
        runner.predict({"x": normal(3, 7, 4)})


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_an_output_that_is_the_input(dtype):
    x = (normal(700, 3) * 9).astype(dtype)
    with make(models.identity(dtype)) as runner:
        for _ in range(3):
            y = runner.predict({"x": x})["y"]
            np.testing.assert_array_equal(y, x)
            assert not np.shares_memory(x, y)


def test_a_step_that_is_broadcast_to_every_chunk():
    """Stable Diffusion's timestep, if its axis has another name than the batch."""
    feeds = {"sample": normal(5, 2, 4, 4), "timestep": np.array([3], np.float32), "ctx": normal(5, 3, 4)}
    expected = models.run_onnx(models.unet("batch"), feeds)["out"]
    for path in (models.unet("batch", steps="steps"), models.unet(1), models.unet(2)):
        with make(path) as runner:
            np.testing.assert_array_equal(runner.predict(feeds)["out"], expected)


def test_a_step_whose_axis_has_the_batch_s_name_is_never_guessed():
    feeds = {"sample": normal(5, 2, 4, 4), "timestep": np.array([3], np.float32), "ctx": normal(5, 3, 4)}
    words = r"disagree about the number of rows: .*'timestep' has 1.*batch_axes"
    with make(models.unet("batch", steps="batch")) as runner, pytest.raises(ShapeError, match=words):
        runner.predict(feeds)
    with make(models.unet("batch", steps="batch"), batch_axes={"timestep": None}) as runner:
        assert runner.predict(feeds)["out"].shape == (5, 2, 4, 4)


def test_an_error_of_the_model_has_its_traceback():
    with make(models.embed()) as runner:
        with pytest.raises(
            EngineError, match=r"cpu:\d failed while predicting .* with onnxruntime: .*indices"
        ) as caught:
            runner.predict({"ids": np.array([[0, 1, 99]])})
        assert caught.value.device in ("cpu:0", "cpu:1")
        assert "Traceback" in caught.value.remote_traceback
        np.testing.assert_array_equal(
            runner.predict({"ids": np.array([[0, 1, 9]])})["y"][0], models.weights(10, 4)[[0, 1, 9]]
        )


def test_options_reach_the_session():
    options = {"threads": 1, "session_config": {"session.intra_op.allow_spinning": "0"}}
    for provider in ("cpu", "CPUExecutionProvider"):
        with make(models.linear(), engine_options={**options, "provider": provider}, devices="cpu") as runner:
            assert runner.predict([normal(2, 8)])[0].shape == (2, 5)
    with pytest.raises(EngineError, match=r"cpu:0 failed while building"):
        make(models.linear(), engine_options={"session_config": {"": "x"}}, devices="cpu").build_model()


def test_inputs_with_an_empty_axis_beside_the_batch():
    with make(models.steps_first(), batch_axes={"x": 1, "y": 1}) as runner:
        for _ in range(2):
            assert runner.predict({"x": np.zeros((0, 5, 4), np.float32)})["y"].shape == (0, 5, 4)


def test_a_binding_runs_on_what_lies_in_its_arrays_each_time():
    """A worker process binds a chunk once, and runs it on other numbers in the same memory."""
    from ascend_parallel.worker.engines.onnxruntime import OnnxRuntimeEngine

    engine = OnnxRuntimeEngine(str(models.two()), ("cpu", 0), {"threads": 1})
    runs = []
    for rows in (2, 2, 3):
        a, b = inputs = [np.empty((rows, 4), np.float32) for _ in range(2)]
        outputs = {name: np.empty((rows, 4), np.float32) for name in ("total", "product")}
        runs.append((a, b, outputs, engine.bind(["a", "b"], inputs, outputs)))
    for turn in range(4):
        for a, b, outputs, run in runs:
            a[:], b[:] = normal(*a.shape, seed=turn), normal(*a.shape, seed=turn + 100)
            assert run() is outputs
            np.testing.assert_array_equal(outputs["total"], a + b)
            np.testing.assert_array_equal(outputs["product"], a * b)
            for array in outputs.values():
                array[:] = np.nan
            assert engine.predict(["a", "b"], [a, b], outputs) is outputs
            np.testing.assert_array_equal(outputs["total"], a + b)
            np.testing.assert_array_equal(outputs["product"], a * b)


def test_a_binding_whose_outputs_turn_out_otherwise_gives_them_all_the_same():
    from ascend_parallel.worker.engines.onnxruntime import OnnxRuntimeEngine

    engine = OnnxRuntimeEngine(str(models.two()), ("cpu", 0), {"threads": 1})
    a = b = normal(2, 4)
    outputs = {name: np.empty((3, 4), np.float32) for name in ("total", "product")}
    for results in (engine.bind(["a", "b"], [a, b], outputs)(), engine.predict(["a", "b"], [a, b], outputs)):
        np.testing.assert_array_equal(results["total"], a + b)


# ---- which nodes run on which provider


def test_the_assignment_is_told():
    with make(models.linear()) as runner:
        [(provider, counts)] = runner.models[""].assignment.items()
        assert provider == "CPUExecutionProvider"
        assert counts == {"MatMul": 1, "Relu": 1}


def test_a_runtime_before_1_24_does_not_tell_it():
    class Session:
        pass

    assert assignment.read_assignment(Session()) is None


@pytest.mark.parametrize(
    ("on_cpu", "elsewhere", "words"),
    [
        ({}, {"Conv": 9}, ""),
        ({"Shape": 1, "Gather": 2}, {"Conv": 9}, ""),
        (
            {"Shape": 1, "Conv": 2},
            {"Conv": 9},
            "3 of 12 nodes run on the CPU, because X has no kernel for them: Conv 2;",
        ),
        ({"Add": 2}, {"Conv": 1}, "2 of 3 nodes run on the CPU, because X has no kernel for them: Add 2;"),
    ],
)
def test_nodes_of_weight_on_the_cpu_are_warned_of(on_cpu, elsewhere, words):
    warning = assignment.warn_of_cpu({"CPUExecutionProvider": on_cpu, "X": elsewhere}, "X")
    assert warning.removeprefix("warning: ").startswith(words) and bool(warning) == bool(words)


def test_an_unknown_fallback_is_refused():
    with pytest.raises(EngineError, match="fallback is 'no'; expected one of refuse, warn, allow"):
        make(models.linear(), engine_options={"fallback": "no"}).build_model()


def test_the_cpu_provider_has_nothing_to_fall_back_to():
    with make(models.linear(), engine_options={"fallback": "refuse"}) as runner:
        assert list(runner.models[""].assignment) == ["CPUExecutionProvider"]

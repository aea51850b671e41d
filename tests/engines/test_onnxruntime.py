"""What is ONNX Runtime's own: IO binding into places, outputs of unknown shapes, batch axes, options."""

import models
import numpy as np
import pytest

from ascend_parallel import EngineError, ParallelPredictUtils, ShapeError


def make(path, **options):
    return ParallelPredictUtils(path, **{"devices": "cpu:0,1", **options})


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_an_output_whose_shape_depends_on_the_data():
    """Learned shapes are a guess; where it is wrong, ONNX Runtime refuses it and the call is right all the same."""
    with make(models.nonzero(), devices="cpu") as runner:
        for seed in range(12):
            x = (normal(6, 4, seed=seed) > 0.3).astype(np.float32)
            wanted = np.argwhere(x)
            for _ in range(2):
                np.testing.assert_array_equal(runner.predict({"x": x})["where"], wanted)


def test_an_output_of_the_chunk_s_size_by_chance_is_no_batch():
    """As many hits as rows once: the next call must not be cut by that."""
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


def test_an_output_whose_width_another_input_decides():
    x = normal(5, 3)
    with make(models.repeat(), batch_axes={"times": None}) as runner:
        for times in (2, 2, 3, 1, 3, 3, 2):
            got = runner.predict({"x": x, "times": np.array([times])})["y"]
            np.testing.assert_array_equal(got, np.tile(x, (1, times)))


def test_a_scalar_output_of_one_chunk_is_itself():
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


def test_rows_that_come_out_along_an_undeclared_axis_are_no_silent_mixture():
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


def test_a_step_that_goes_whole_to_every_chunk():
    """Stable Diffusion's timestep, where its axis has another name than the batch."""
    feeds = {"sample": normal(5, 2, 4, 4), "timestep": np.array([3], np.float32), "ctx": normal(5, 3, 4)}
    wanted = models.run_onnx(models.unet("batch"), feeds)["out"]
    for path in (models.unet("batch", steps="steps"), models.unet(1), models.unet(2)):
        with make(path) as runner:
            np.testing.assert_array_equal(runner.predict(feeds)["out"], wanted)


def test_a_step_of_the_same_name_as_the_batch_is_never_guessed():
    feeds = {"sample": normal(5, 2, 4, 4), "timestep": np.array([3], np.float32), "ctx": normal(5, 3, 4)}
    words = r"disagree about the number of rows: .*'timestep' has 1.*batch_axes"
    with make(models.unet("batch", steps="batch")) as runner, pytest.raises(ShapeError, match=words):
        runner.predict(feeds)
    with make(models.unet("batch", steps="batch"), batch_axes={"timestep": None}) as runner:
        assert runner.predict(feeds)["out"].shape == (5, 2, 4, 4)


def test_what_the_model_refuses_is_said_with_its_traceback():
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


def test_inputs_of_a_size_zero_beside_the_batch():
    with make(models.steps_first(), batch_axes={"x": 1, "y": 1}) as runner:
        for _ in range(2):
            assert runner.predict({"x": np.zeros((0, 5, 4), np.float32)})["y"].shape == (0, 5, 4)


@pytest.mark.parametrize("kept", [1, 2, 256])
def test_bindings_are_made_once_for_arrays_that_come_again(monkeypatch, kept):
    """Other numbers in the same memory, other memory, and more of it than is remembered."""
    from ascend_parallel.worker.engines import onnxruntime as module

    monkeypatch.setattr(module, "MAX_KEPT_BINDINGS", kept)
    engine = module.OnnxRuntimeEngine(str(models.two()), ("cpu", 0), {"threads": 1})
    made = []
    bind = engine._bind
    monkeypatch.setattr(engine, "_bind", lambda *arguments: made.append(1) or bind(*arguments))
    sets = [([np.empty((rows, 4), np.float32) for _ in range(2)], rows) for rows in (2, 2, 3)]
    places = [{name: np.empty((rows, 4), np.float32) for name in ("total", "product")} for _, rows in sets]
    for turn in range(4):
        for (inputs, rows), place in zip(sets, places, strict=True):
            a, b = inputs
            a[:], b[:] = normal(rows, 4, seed=turn), normal(rows, 4, seed=turn + 100)
            assert engine.predict(["a", "b"], inputs, place) is place
            np.testing.assert_array_equal(place["total"], a + b)
            np.testing.assert_array_equal(place["product"], a * b)
    assert len(engine._kept) <= kept
    assert len(made) == (3 if kept == 256 else 12)

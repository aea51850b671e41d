"""The callable engine: any Python object can be the model."""

import models
import numpy as np
import pytest

from ascend_parallel import EngineError, ParallelPredictUtils, ShapeError, UsageError


@pytest.fixture(params=["processes", "threads"])
def workers(request):
    return request.param


@pytest.fixture
def run(factory, workers):
    """Run one callable on one input, over two workers or as many as asked; return the results of three calls."""

    def run(name, inputs, *, calls=3, **options):
        with ParallelPredictUtils(factory(name), **{"devices": "cpu:0,1", "workers": workers, **options}) as runner:
            return [runner.predict(inputs) for _ in range(calls)]

    return run


X = np.arange(1, 22, dtype=np.float32).reshape(7, 3)


def test_lists_stay_lists(run):
    for plus, minus in run("as_list", [X]):
        np.testing.assert_array_equal(plus, X + 1)
        np.testing.assert_array_equal(minus, X - 1)


def test_a_lone_array_is_called_output(run):
    for result in run("lone", {"x": X}):
        assert list(result) == ["output"]
        np.testing.assert_array_equal(result["output"], X + 1)


@pytest.mark.parametrize("step", [np.float32(3), 3.0, np.array([3], np.float32)], ids=["0-d", "a number", "(1,)"])
def test_broadcast_inputs(run, step):
    axes = {"step": None} if np.ndim(step) else None
    for result in run("scale", {"x": X, "step": step}, batch_axes=axes):
        np.testing.assert_array_equal(result["y"], X * 3)


def test_a_step_of_one_element_is_never_guessed(run):
    with pytest.raises(ShapeError, match=r"disagree.*'step' has 1; .*batch_axes=\{'its name': None\}"):
        run("scale", {"x": X, "step": np.ones(1, np.float32)})


def test_a_model_gets_plain_arrays(run):
    """C-contiguous, aligned, native, read-only, for any layout of the caller's arrays."""
    for x in (X, np.asfortranarray(X), X[::-1], X.astype(">f4"), X[:, ::2]):
        for result in run("flags", {"x": x}, calls=2):
            assert result["seen"].all()
            np.testing.assert_array_equal(result["x"], x)


@pytest.mark.parametrize("workers", ["processes"], indirect=True)
def test_instances_are_processes(run):
    (result,) = run("who", {"x": np.zeros(40)}, instances=2, chunk_size=1, calls=1)
    assert set(result["device"]) == {0, 1}
    with ParallelPredictUtils(
        f"{__file__.replace('test_callable', 'factories')}:who", devices="cpu", instances=2
    ) as runner:
        assert len({worker["pid"] for worker in runner.stats()["workers"].values()}) == 2


def test_a_model_with_specs(factory):
    options = {"engine_options": {"factor": 3.0}, "devices": "cpu:0,1"}
    with ParallelPredictUtils(factory("WithSpecs"), **options) as runner:
        assert [spec.name for spec in runner.inputs] == ["x"]
        np.testing.assert_array_equal(runner.predict({"x": X})["y"], X * 3)
        np.testing.assert_array_equal(runner.predict([X.astype("float16")])[0], X * 3)
        with pytest.raises(ShapeError, match=r"'x' has shape \(7, 2\), the model takes \(batch, 3\)"):
            runner.predict({"x": X[:, :2]})
    options["engine_options"]["rows"] = 4
    with ParallelPredictUtils(factory("WithSpecs"), **options) as runner:
        np.testing.assert_array_equal(runner.predict({"x": X})["y"], X * 3)


@pytest.mark.parametrize(
    ("name", "inputs", "kind", "words"),
    [
        ("scalar", {"x": X}, ShapeError, r"'loss' has shape \(\) for a chunk of 4 rows.*batch_axes=\{'loss': None\}"),
        ("objects", {"x": X}, EngineError, "output 'y' has object elements, which cannot be sent .*return numpy"),
        ("records", {"x": X}, EngineError, "output 'y' has .*'<i4'.* elements, which cannot be sent"),
        ("writes", {"x": X}, EngineError, "ValueError: assignment destination is read-only"),
        ("fails", {"x": X}, EngineError, "cpu:. failed while predicting .*fails with callable: ValueError: no"),
        ("transposed", {"x": X}, ShapeError, r"'y' has shape \(3, 4\) for a chunk of 4 rows"),
        ("other_name", {"x": X - 10}, ShapeError, r"the chunks have different outputs .*\['z'\] and \['y'\]"),
        (
            "wide",
            {"x": np.arange(1, 8)[:, None]},
            ShapeError,
            r"'y' has different shapes in the chunks \(\(4, 1\), \(3, 5\)",
        ),
    ],
)
def test_invalid_outputs(run, name, inputs, kind, words):
    with pytest.raises(kind, match=words):
        run(name, inputs, calls=1)


def test_strings_are_sent(run):
    """Labels, for example: strings of fixed size are supported like numbers."""
    for result in run("words", {"x": X}):
        assert result["y"].tolist() == ["a"] * 7


def test_outputs_that_are_the_same_for_all_chunks(run):
    for result in run("scalar", {"x": np.ones((6, 2))}, batch_axes={"loss": None}):
        assert result["loss"] == 1
        assert result["y"].shape == (6, 2)
    for result in run("constant_table", {"x": X}, batch_axes={"table": None}):
        np.testing.assert_array_equal(result["table"], np.arange(5))
        np.testing.assert_array_equal(result["y"], X)


def test_rows_along_another_axis_of_the_output(run):
    for result in run("transposed", {"x": X}, batch_axes={"y": 1}):
        np.testing.assert_array_equal(result["y"], X.T)


def test_an_output_whose_number_of_rows_depends_on_the_data(factory):
    """One chunk may have any shape. Each guess from the call before is wrong."""
    with ParallelPredictUtils(factory("positive"), devices="cpu") as runner:
        for hits in (7, 7, 3, 0, 5, 7):
            x = X.copy()
            x[hits:] *= -1
            np.testing.assert_array_equal(runner.predict({"x": x})["y"], x[:hits])


def test_an_output_that_changes_its_width_or_dtype(factory):
    with ParallelPredictUtils(factory("wide"), devices="cpu:0,1") as runner:
        for width in (2, 2, 5, 1, 700, 2):
            x = np.full((4, 1), width)
            np.testing.assert_array_equal(runner.predict({"x": x})["y"], np.full((4, width), width))
    with ParallelPredictUtils(factory("other_dtype"), devices="cpu:0,1") as runner:
        for sign, dtype in ((1, "float32"), (-1, "float64"), (1, "float32"), (1, "float32")):
            got = runner.predict({"x": X * sign})["y"]
            assert got.dtype == dtype
            np.testing.assert_array_equal(got, X * sign)


def test_an_output_that_is_sometimes_missing_never_returns_old_memory(factory):
    with ParallelPredictUtils(factory("sometimes"), devices="cpu") as runner:
        for _ in range(3):
            np.testing.assert_array_equal(runner.predict({"x": X})["y"], X + 1)
            assert runner.predict({"x": -X}) == {}


def test_inputs_of_different_dtypes_and_shapes_in_turn(factory):
    with ParallelPredictUtils(factory("turn"), devices="cpu:0,1") as runner:
        for dtype in ("float32", "uint8", "bool", "float64", "complex64", "int16", "float32"):
            for rows in (1, 5, 2):
                x = X[:rows].astype(dtype)
                got = runner.predict({"x": x})["y"]
                assert got.dtype == x.dtype
                np.testing.assert_array_equal(got, x[:, ::-1])


def test_a_misspelt_batch_axis_is_refused_when_the_names_are_known(run):
    with pytest.raises(UsageError, match=r"batch_axes names 'stepp', but .* x, step, y"):
        run("scale", {"x": X, "step": np.float32(2)}, batch_axes={"stepp": None}, calls=1)


def test_batch_axes_that_only_one_of_several_models_has_are_accepted(factory):
    both = {"double": factory("double"), "scale": factory("scale")}
    with ParallelPredictUtils(both, devices="cpu:0,1", batch_axes={"step": None}) as runner:
        np.testing.assert_array_equal(runner.predict({"x": X}, model="double")["y"], X * 2)
        step = np.ones(1, np.float32)
        np.testing.assert_array_equal(runner.predict({"x": X, "step": step}, model="scale")["y"], X)


def test_a_module_is_found_where_the_master_would_find_it(tmp_path, monkeypatch):
    (tmp_path / "my_model.py").write_text("import helper_of_mine\ndef make(device): return helper_of_mine.f\n")
    (tmp_path / "helper_of_mine.py").write_text("def f(inputs): return {'y': inputs['x'] * 4}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with ParallelPredictUtils("my_model:make", devices="cpu") as runner:
        np.testing.assert_array_equal(runner.predict({"x": X})["y"], X * 4)


@pytest.mark.mslite
def test_a_callable_under_another_python(factory):
    """Master and worker have different versions of Python and numpy: here the worker has 3.7 and 1.21."""
    with ParallelPredictUtils(factory("turn"), devices="cpu:0,1", worker_python=models.mslite_python()) as runner:
        for x in (X, X.astype("float16"), X > 5):
            for _ in range(2):
                np.testing.assert_array_equal(runner.predict({"x": x})["y"], x[:, ::-1])


def test_a_model_s_open_files_are_flushed_at_the_end(tmp_path):
    """A worker exits like any Python program: files of the user's module are flushed, its atexit functions run."""
    (tmp_path / "noting.py").write_text(
        "import atexit, pathlib\n"
        "folder = pathlib.Path(__file__).parent\n"
        "log = open(folder / 'log', 'w')\n"
        "atexit.register(lambda: (folder / 'atexit').write_text('ran'))\n"
        "class Model:\n"
        "    def __init__(self, device):\n"
        "        self.log = open(folder / 'own', 'w')\n"
        "    def predict(self, inputs):\n"
        "        log.write('module')\n"
        "        self.log.write('model')\n"
        "        return inputs\n"
    )
    with ParallelPredictUtils(f"{tmp_path}/noting.py:Model", devices="cpu:0") as runner:
        runner.predict({"x": X})
    assert [(tmp_path / name).read_text() for name in ("log", "own", "atexit")] == ["module", "model", "ran"]


def test_a_model_that_declares_an_empty_list_of_inputs_takes_none(tmp_path):
    (tmp_path / "none.py").write_text(
        "class Model:\n"
        "    inputs = []\n"
        "    def __init__(self, device): pass\n"
        "    def predict(self, inputs): return inputs\n"
    )
    with (
        ParallelPredictUtils(f"{tmp_path}/none.py:Model", devices="cpu:0") as runner,
        pytest.raises(ShapeError, match="inputs do not fit the model: 'x' unknown"),
    ):
        runner.predict({"x": X})

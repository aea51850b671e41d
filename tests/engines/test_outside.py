"""Engines from outside: a class of the user's own, by its module or its file, in this Python and in Python 3.7."""

import itertools
import os
import sys
import textwrap

import models
import numpy as np
import pytest
from faults import procs

from ascend_parallel import DeviceSpecError, EngineError, ParallelPredictUtils, UsageError, parallel_map
from ascend_parallel.runner.options import load_engine

X = np.arange(15, dtype=np.float32).reshape(5, 3)
#: A real engine, and what tests change of it.
GOOD = """
    import os, sys
    import numpy as np
    from ascend_parallel import Engine, TensorSpec
    import ascend_parallel.worker.engines.base as base

    class Scale(Engine):
        suffixes = (".npz",)
        device_types = ("cpu",)
        options = {"scale": (int, float), "fail": (bool,), "wrong": (str,)}
        modules = ("numpy",)

        def __init__(self, model, device, options):
            assert Engine is base.Engine
            with np.load(model) as arrays:
                self._use(arrays["w"], options)

        def _use(self, weights, options):
            self.weights, self.options_, self.calls = weights, options, 0
            self.inputs = [TensorSpec("x", "float32", ("batch", 3))]

        def predict(self, names, inputs, destinations):
            self.calls += 1
            x = inputs[0]
            if self.options_.get("fail") and x.any():
                raise RuntimeError("no more ink")
            if self.calls > 1 and self.options_.get("wrong"):
                return eval(self.options_["wrong"])
            y = np.multiply(x, self.weights * self.options_.get("scale", 1), out=destinations.get("y"))
            who = np.full(len(x), id(self.weights))
            seen = np.full(len(x), sys.version_info[1])
            return {"y": y, "pid": np.full(len(x), os.getpid()), "weights": who, "python": seen}

    class Shared(Scale):
        can_share = True

        def share(self):
            other = Shared.__new__(Shared)
            other._use(self.weights, self.options_)
            return other
"""
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def nothing_is_left(leaves_nothing):
    """No worker, descriptor, shared memory or thread."""


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.npz"
    np.savez(path, w=np.array([1, 2, 3], np.float32))
    return path


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a module of a package that is found on sys.path; return its name."""
    folder = tmp_path / "places"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def write(text, name=None):
        package = folder / f"outside_{next(_numbers)}"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / f"{name or 'engines'}.py").write_text(textwrap.dedent(text))
        return f"{package.name}.{name or 'engines'}"

    return write


@pytest.fixture
def good(package):
    return package(GOOD)


def refused(words, model, engine, kind=UsageError, **options):
    """Check that a runner cannot even be made, and that one sentence says why in these words."""
    with pytest.raises(kind, match=words) as caught:
        ParallelPredictUtils(model, **{"devices": "cpu", "engine": engine, **options})
    assert "\n" not in str(caught.value)
    assert not procs.children()
    return caught.value


@pytest.fixture(params=["this Python", pytest.param("Python 3.7", marks=pytest.mark.mslite)])
def python(request, tmp_path, monkeypatch):
    """Return an interpreter whose own ``ascend_parallel`` is of no use, and its minor version."""
    decoy = tmp_path / "decoy" / "ascend_parallel"
    decoy.mkdir(parents=True)
    (decoy / "__init__.py").write_text("raise ImportError('another version')")
    monkeypatch.setenv("PYTHONPATH", str(decoy.parent))
    if request.param == "this Python":
        return sys.executable, sys.version_info[1]
    return models.mslite_python(), 7


# ---- it works


def test_a_class_of_a_module(good, model, python):
    options = {"devices": "cpu:0,1", "engine_options": {"scale": 2}, "worker_python": python[0]}
    with ParallelPredictUtils(model, engine=f"{good}:Scale", **options) as runner:
        assert [tuple(spec) for spec in runner.inputs] == [("x", "float32", ("batch", 3))]
        for _ in range(3):
            made = runner.predict({"x": X})
            np.testing.assert_array_equal(made["y"], X * [2, 4, 6])
            assert set(made["python"]) == {python[1]}
        assert len(set(runner.predict({"x": X})["pid"])) == 2


def test_a_class_of_a_file_named_like_another_module(tmp_path, model, python, monkeypatch):
    """It hides no module of that name, from itself or others, and a restart finds it after a chdir."""
    (tmp_path / "numpy.py").write_text(textwrap.dedent(GOOD))
    monkeypatch.chdir(tmp_path)
    runner = ParallelPredictUtils(model, engine="numpy.py:Scale", devices="cpu", worker_python=python[0])
    monkeypatch.chdir("/")
    with runner:
        np.testing.assert_array_equal(runner.predict({"x": X})["y"], X * [1, 2, 3])
    assert sys.modules["numpy"] is np


def test_a_module_of_the_working_directory(tmp_path, model, monkeypatch):
    """A command's sys.path has its own folder in that place; workers look there too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    (tmp_path / "here_only.py").write_text(textwrap.dedent(GOOD))
    before = list(sys.path)
    with ParallelPredictUtils(model, engine="here_only:Scale", devices="cpu") as runner:
        np.testing.assert_array_equal(runner.predict({"x": X})["y"], X * [1, 2, 3])
    assert sys.path == before


def test_instances_that_share_are_threads_over_the_same_weights(good, model):
    options = {"devices": "cpu", "instances": 2, "chunk_size": 1}
    with ParallelPredictUtils(model, engine=f"{good}:Shared", **options) as runner:
        assert list(runner.stats()["workers"]) == ["cpu:0"]
        made = runner.predict({"x": np.tile(X, (20, 1))})
        assert len(set(made["pid"])) == len(set(made["weights"])) == 1
        np.testing.assert_array_equal(made["y"], np.tile(X, (20, 1)) * [1, 2, 3])


def test_threads_over_the_same_weights_are_told_their_devices(package, model):
    text = f"""{GOOD}
        def set_device(self, device):
            self.weights = np.full(3, device[1], np.float32)
"""
    options = {"devices": "cpu:0,1", "workers": "threads", "chunk_size": 1}
    with ParallelPredictUtils(model, engine=f"{package(text)}:Shared", **options) as runner:
        procs.wait_until(lambda: (runner.predict({"x": X})["y"][:, 2] == X[:, 2]).any(), "a task for cpu:1")


def test_instances_that_do_not_share_are_processes(good, model):
    with ParallelPredictUtils(model, engine=f"{good}:Scale", devices="cpu", instances=2) as runner:
        assert list(runner.stats()["workers"]) == ["cpu:0#0", "cpu:0#1"]
        assert len({worker["pid"] for worker in runner.stats()["workers"].values()}) == 2


def test_it_may_take_files_that_another_engine_takes(package, tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"whatever")
    module = package(
        """
        import numpy as np
        from ascend_parallel import Engine
        class Mine(Engine):
            suffixes, device_types, spreads_over_cores = (".onnx", ".tiny"), ("cpu",), True
            def __init__(self, model, device, options):
                self.told = "%s %s:%d %d" % (model, device[0], device[1], options["threads"])
            def predict(self, names, inputs, destinations):
                return {"told": np.array([self.told] * len(inputs[0]))}
        """
    )
    with ParallelPredictUtils(tmp_path / "x.onnx", engine=f"{module}:Mine", devices="cpu:3") as runner:
        assert runner.inputs is None
        (told,) = set(runner.predict([X])[0])
        path, device, threads = told.split()
        assert (path, device) == (str(tmp_path / "x.onnx"), "cpu:3")
        assert int(threads) >= 1


def test_without_suffixes_a_model_is_any_text(package):
    module = package(
        """
        import numpy as np
        from ascend_parallel import Engine
        class Mine(Engine):
            device_types, options = ("cpu",), None
            def __init__(self, model, device, options):
                self.told = [model, options["anything"]]
            def predict(self, names, inputs, destinations):
                return {"told": np.array([self.told])}
        """
    )
    options = {"engine": f"{module}:Mine", "devices": "cpu", "engine_options": {"anything": "goes"}}
    with ParallelPredictUtils("org/some.model", **options) as runner:
        assert runner.predict({"x": X[:1]})["told"].tolist() == [["org/some.model", "goes"]]


def test_a_file_is_read_again_when_it_has_changed(tmp_path, model):
    file = tmp_path / "mine.py"
    file.write_text(textwrap.dedent(GOOD))
    first = load_engine(f"{file}:Scale")
    assert load_engine(f"{file}:Scale") is first
    file.write_text(textwrap.dedent(GOOD).replace('("cpu",)', '("gpu",)'))
    os.utime(file, ns=(1, 1))
    refused("mine.py:Scale does not run on cpu:0; it runs on gpu devices", model, f"{file}:Scale")


# ---- it is refused before anything is started


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        (
            "no_such_module:E",
            "the engine no_such_module:E cannot be imported by .*python.*: .*No module named 'no_such",
        ),
        ("no_such_module:E", "it is looked for .* in PYTHONPATH and in the working directory"),
        ("MODULE.sub:E", "the engine outside_.*sub:E cannot be imported .*: ModuleNotFoundError: No module named 'out"),
        ("MODULE:Nope", "there is no engine outside_.*:Nope: outside_.* has no Nope; it has: Scale, Shared"),
        ("MODULE:Scale.nope", "there is no engine .*Scale.nope: .* has no Scale.nope"),
        ("MODULE:np", "the engine outside_.*:np is no subclass of ascend_parallel.Engine, but <module 'numpy'"),
        ("MODULE:TensorSpec", "TensorSpec is no subclass of ascend_parallel.Engine, but <class"),
        ("MODULE:Engine", "the engine outside_.*:Engine has no method __init__ of its own; every engine needs one"),
        ("/no/such/file.py:E", "the engine /no/such/file.py:E cannot be imported .*: there is no Python file /no/such"),
        ("MODULE:", "engine 'outside_.*:' is unknown; expected one of mslite, .* or 'package.module:EngineClass'"),
        (":Scale", "engine ':Scale' is unknown; expected one of mslite"),
        ("MODULE:a b", "engine 'outside_.*:a b' is unknown"),
        (3, "engine 3 is unknown; expected one of mslite"),
    ],
)
def test_classes_that_are_not_there(good, model, engine, words):
    refused(words, model, engine.replace("MODULE", good) if isinstance(engine, str) else engine)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1 / 0", r"ZeroDivisionError: division by zero \(.*engines.py, line 2\)"),
        ("def (:", r"SyntaxError: .*\(engines.py, line 2\)"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        (
            "import no_vendor",
            "No module named 'no_vendor' .*line 2.; install it there, or import a runtime in __init__",
        ),
        ("from json import no", "ImportError: cannot import name 'no' from 'json'"),
    ],
)
def test_modules_with_an_error(package, model, text, words):
    error = refused(f"the engine outside_.* cannot be imported by .*: {words}", model, package(f"\n{text}\n") + ":E")
    assert error.__cause__.__cause__ is not None, "--debug shows the traceback"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("suffixes = '.npz'", r"suffixes = '.npz'; expected a tuple such as \(\".bin\",\)"),
        ("suffixes = ('npz',)", r"suffixes = \('npz',\); expected a tuple"),
        ("device_types = ()", r"device_types = \(\); expected a tuple of some of ascend, gpu, tensorrt, cpu"),
        ("device_types = ('npu',)", r"device_types = \('npu',\); expected a tuple of some of ascend"),
        ("device_types = 'cpu'", "device_types = 'cpu'; expected a tuple"),
        ("options = {'scale': float}", "options = .*; expected a dict of option -> tuple of types, such as"),
        ("options = ['scale']", "options = .*; expected a dict of option"),
        ("can_share = 1", "can_share = 1; expected True or False"),
        ("may_run_in_threads = None", "may_run_in_threads = None; expected True or False"),
    ],
)
def test_attributes_that_cannot_be(package, model, body, words):
    module = package(
        f"""
        from ascend_parallel import Engine
        class E(Engine):
            suffixes, device_types = (".npz",), ("cpu",)
            {body}
            def __init__(self, model, device, options): pass
            def share(self): pass
            def predict(self, names, inputs, destinations): pass
        """
    )
    refused(f"the engine {module}:E has the attribute {words}", model, f"{module}:E")


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("predict", "no method predict of its own; every engine needs one"),
        ("share", "no method share of its own; can_share is True"),
    ],
)
def test_methods_that_are_missing(package, model, missing, words):
    methods = [f"def {name}(self, *a): pass" for name in ("__init__", "predict", "share") if name != missing]
    head = "from ascend_parallel import Engine\nclass E(Engine):\n    device_types, can_share = ('cpu',), True\n    "
    module = package(head + "\n    ".join(methods))
    refused(f"the engine {module}:E has {words}", model, f"{module}:E")


def test_checks_are_those_of_built_in_engines(good, model, tmp_path):
    engine = f"{good}:Scale"
    refused(f"{engine} has no option 'size'; it has: scale, fail, wrong", model, engine, engine_options={"size": 1})
    refused(f"option 'scale' of the engine {engine} is 'x'; expected int or float", model, engine,
            engine_options={"scale": "x"})  # fmt: skip
    refused(f"option 'scale' of the engine {engine} is True", model, engine, engine_options={"scale": True})
    refused(f"option 'fail' of the engine {engine} is 1; expected bool", model, engine, engine_options={"fail": 1})
    refused(f"the engine {engine} does not run on simulated:0; it runs on cpu devices", model, engine,
            kind=DeviceSpecError, devices="simulated:0")  # fmt: skip
    refused("there is no model file nowhere.npz", "nowhere.npz", engine)
    refused(f"x.onnx is a model for the engine onnxruntime, not for {engine}", "x.onnx", engine)
    (tmp_path / "empty.npz").touch()
    refused("empty.npz is empty", tmp_path / "empty.npz", engine)
    (tmp_path / "lfs.npz").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    refused("lfs.npz is not the model but a pointer", tmp_path / "lfs.npz", engine)
    refused(f"{engine} cannot share weights between processes", model, engine, share_weights=True)


@pytest.mark.parametrize("how", ["predict", "map"])
def test_an_engine_that_may_not_run_in_threads(package, model, rows, how):
    engine = f"{package(GOOD.replace('modules =', 'may_run_in_threads, modules = False,'))}:Scale"
    words = f"the engine {engine} runs in worker processes only, .* not be thread-safe; leave out workers='threads'"
    if how == "predict":
        refused(words, model, engine, workers="threads")
    else:
        with pytest.raises(UsageError, match=words):
            parallel_map(str(model), rows, engine=engine, devices="cpu", workers="threads")


# ---- it fails


def test_a_fault_is_an_engine_error_and_the_worker_goes_on(good, model, python):
    options = {"devices": "cpu", "engine_options": {"fail": True}, "worker_python": python[0]}
    with ParallelPredictUtils(model, engine=f"{good}:Scale", **options) as runner:
        for _ in range(2):
            words = f"cpu:0 failed while predicting .*model.npz with {good}:Scale: RuntimeError: no more ink"
            with pytest.raises(EngineError, match=words) as caught:
                runner.predict({"x": X})
            assert 'raise RuntimeError("no more ink")' in caught.value.remote_traceback
        assert not runner.predict({"x": X * 0})["y"].any()
        assert runner.stats()["workers"]["cpu:0"]["restarts"] == 0


def test_a_fault_while_binding_is_an_engine_error_and_the_worker_goes_on(package, model, python):
    """An engine that cannot prepare some arrays has failed their tasks, and is asked again for the next."""
    text = f"""{GOOD}
    class Bound(Scale):
        def bind(self, names, inputs, destinations):
            if inputs[0].any():
                raise RuntimeError("no binding")
            return super().bind(names, inputs, destinations)
"""
    engine = f"{package(text)}:Bound"
    with ParallelPredictUtils(model, engine=engine, devices="cpu", worker_python=python[0]) as runner:
        before = procs.children()
        for _ in range(2):
            words = f"cpu:0 failed while predicting .*model.npz with {engine}: RuntimeError: no binding"
            with pytest.raises(EngineError, match=words) as caught:
                runner.predict({"x": X})
            assert 'raise RuntimeError("no binding")' in caught.value.remote_traceback
        made = runner.predict({"x": X * 0})
        assert not made["y"].any()
        assert set(made["pid"]) == set(before) == {runner.stats()["workers"]["cpu:0"]["pid"]}
        assert runner.stats()["workers"]["cpu:0"]["restarts"] == 0


def test_a_fault_while_building(good, tmp_path):
    np.savez(tmp_path / "other.npz", v=X)
    with pytest.raises(EngineError, match=f"cpu:0 failed while building .*other.npz with {good}:Scale: KeyError: .*w"):
        ParallelPredictUtils(tmp_path / "other.npz", engine=f"{good}:Scale", devices="cpu").build_model()


@pytest.mark.mslite
def test_a_module_that_only_the_master_can_import(package, model):
    """The worker's Python may be older, or lack a package."""
    module = package("import sys\nif sys.version_info < (3, 8):\n    import no_such_runtime\n" + textwrap.dedent(GOOD))
    python = models.mslite_python()
    words = f"the engine {module}:Scale cannot be imported by {python}: .*No module named 'no_such_runtime'"
    with pytest.raises(EngineError, match=words):
        ParallelPredictUtils(model, engine=f"{module}:Scale", devices="cpu", worker_python=python).build_model()


@pytest.mark.mslite
def test_what_a_worker_of_an_old_python_has_of_the_package(package, model):
    """The engines' names; others would need newer syntax, or libraries that are not there."""
    module = package("from ascend_parallel import UsageError\n" + textwrap.dedent(GOOD))
    words = "ascend_parallel.UsageError needs Python 3.10; a worker under Python 3.7 has only the engines"
    with pytest.raises(EngineError, match=words):
        ParallelPredictUtils(
            model, engine=f"{module}:Scale", devices="cpu", worker_python=models.mslite_python()
        ).build_model()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ("[x]", "returned a list; expected a dict of output name -> array"),
        ("None", "returned a NoneType; expected a dict"),
        ("{'y': [1]}", "returned a dict of str -> list; expected output name -> numpy array"),
        ("{'y': np.float32(1)}", "returned a dict of str -> float32; expected output name"),
        ("{1: x}", "returned a dict of int -> ndarray; expected output name"),
        ("{'y': np.array([None])}", "output 'y' of .* holds object elements, which do not travel between processes"),
        ("{'y': np.zeros(2, 'i4,f4')}", "output 'y' of .* elements, which do not travel between processes"),
    ],
)
def test_results_that_cannot_be(good, model, made, words):
    options = {"devices": "cpu", "engine_options": {"wrong": made}}
    with ParallelPredictUtils(model, engine=f"{good}:Scale", **options) as runner:
        with pytest.raises(EngineError, match=f"TypeError: .*{words}"):
            runner.predict({"x": X})


@pytest.mark.parametrize("specs", ["['x']", "[('x', 'no_type', (1,))]", "[('x', 'float32', 3)]", "7"])
def test_specs_that_cannot_be(package, model, specs):
    text = GOOD.replace('[TensorSpec("x", "float32", ("batch", 3))]', specs)
    engine = f"{package(text)}:Scale"
    with pytest.raises(EngineError, match=f"inputs of {engine} is .*; expected a list of TensorSpec"):
        ParallelPredictUtils(model, engine=engine, devices="cpu").build_model()


# ---- map


@pytest.fixture
def rows(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    for number in range(6):
        np.save(folder / f"{number}.npy", np.full(3, number, np.float32))
    return folder


@pytest.mark.parametrize(("name", "pids"), [("Scale", 2), ("Shared", 1)])
def test_map_of_a_model_file(good, model, rows, name, pids):
    options = {"engine": f"{good}:{name}", "devices": "cpu", "instances_per_device": 2, "batch_size": 1}
    outcomes = list(parallel_map(str(model), rows, options={"scale": 2}, **options))
    assert [outcome.file for outcome in outcomes] == [f"{number}.npy" for number in range(6)]
    found = [outcome.result for outcome in outcomes]
    assert [result["y"].tolist() for result in found] == [[2 * n, 4 * n, 6 * n] for n in range(6)]
    assert len({int(result["pid"]) for result in found}) <= pids


@pytest.mark.parametrize(
    ("pipeline", "options", "words"),
    [
        ("MODEL", {"engine": "MODULE:Nope"}, "there is no engine outside_.*:Nope"),
        ("MODEL", {"engine": "MODULE:Scale", "options": {"no": 1}}, "MODULE:Scale has no option 'no'"),
        (
            "MODEL",
            {"engine": "MODULE:Scale", "devices": "gpu:0"},
            "there is no device gpu:0|MODULE:Scale does not run on",
        ),
        ("nowhere.npz", {"engine": "MODULE:Scale"}, "there is no model file nowhere.npz"),
        ("mod:factory", {"engine": "callable"}, "the engine callable runs no model files; for a pipeline leave engine"),
        ("x.onnx", {"engine": "mslite"}, "x.onnx is a model for the engine onnxruntime, not for mslite"),
    ],
)
def test_map_refuses_what_cannot_be(good, model, rows, pipeline, options, words):
    told = {**options, "engine": options["engine"].replace("MODULE", good)}
    with pytest.raises(UsageError, match=words.replace("MODULE", good)):
        parallel_map(pipeline.replace("MODEL", str(model)), rows, **{"devices": "cpu", **told})


def test_map_needs_inputs_that_are_told(package, model, rows):
    text = GOOD.replace('[TensorSpec("x", "float32", ("batch", 3))]', "None")
    engine = f"{package(text)}:Scale"
    with pytest.raises(EngineError, match=f"{engine} tells no inputs of .*model.npz, from which map makes rows"):
        list(parallel_map(str(model), rows, engine=engine, devices="cpu"))

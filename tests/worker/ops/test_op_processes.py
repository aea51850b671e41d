"""Ops in real worker processes, with real models, under this Python and under 3.7."""

from pathlib import Path

import models
import numpy as np
import pytest
from calling import assert_same

from ascend_parallel import ParallelPredictUtils
from ascend_parallel.worker.ops.packing import Packed, unpack

HERE = Path(__file__).parent


def open_op(model, engine, python, *, worker_python=None, **options):
    return ParallelPredictUtils(
        str(model),
        engine="op",
        devices="cpu:0,1",
        batch_axes={"request": None},
        engine_options={"name": "rec", "engine": engine, "python": f"{HERE}/{python}", **options},
        worker_python=worker_python,
    )


def ask(runner, *entries):
    """Return what each entry gets; all are one task."""
    return unpack(runner.predict({"request": Packed(list(entries)).to_array()})["reply"])


def rows(count, seed):
    return np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)


@pytest.mark.parametrize("engine", ["onnxruntime", "mslite"])
def test_a_model_between_python_gives_each_request_its_own_numbers(engine, leaves_nothing):
    path, python = models.linear(), None
    if engine == "mslite":
        path, python = models.convert(models.linear(4)), models.mslite_python()
    given = [rows(count, seed) for seed, count in enumerate((1, 3, 2, 1, 5))]
    with open_op(path, engine, "ops_of_tests.py:Around", max_batch_size=4, worker_python=python) as runner:
        for _ in range(2):  # the second goes to memory that is there already
            answers = ask(runner, *[{"inputs": {"x": x}} for x in given], {"inputs": {"x": "text"}})
            for x, answer in zip(given, answers[:-1], strict=True):
                expected = models.run_onnx(models.linear(), {"x": x})["y"]
                np.testing.assert_allclose(answer["outputs"]["y"], expected, rtol=1e-5, atol=1e-5)
                assert answer["outputs"]["total"] == pytest.approx(float(x.sum()), rel=1e-5)
            assert answers[-1]["error"][0] == "engine"


def test_python_alone_runs_under_3_7(leaves_nothing):
    with open_op("", "", "ops_of_tests.py:Alone", worker_python=models.mslite_python()) as runner:
        good, bad = ask(runner, {"inputs": {"x": np.ones(3)}}, {"inputs": {"say": "refuse"}})
        assert good["outputs"]["y"].tolist() == [2, 2, 2]
        assert bad["error"][:3] == ["product", 77, "not today"]
        big = np.arange(1 << 20, dtype=np.float32)
        np.testing.assert_array_equal(ask(runner, {"inputs": {"x": big}})[0]["outputs"]["y"], big * 2)


def test_all_kinds_of_values_go_to_3_7_and_back(leaves_nothing):
    given = {
        **{dtype: np.arange(6).reshape(2, 3).astype(dtype) for dtype in ("?", "i1", ">i8", "u2", "f2", ">f4", "c16")},
        "empty": np.zeros((0, 3), np.float32),
        "turned": np.arange(6.0).reshape(2, 3).T,
        "scalar": np.float64(1.5),
        "words": np.array([["a", "ü"], ["c", ""]]),
        "bytes": [b"x" * 5000, b""],
        "text": ["ü" * 5000, "\udc80", ""],
        "plain": [None, True, 2**70, -1.5, float("inf"), {"a": [{}]}, ()],
    }
    with open_op("", "", "ops_of_tests.py:Echo", worker_python=models.mslite_python()) as runner:
        (answer,) = ask(runner, {"inputs": given})
    assert_same(answer["outputs"], given)


def test_an_op_of_paddle_serving_runs_under_3_7(leaves_nothing):
    inputs = {"inputs": {"@DAGExecutor": {"n": "2"}}, "data_id": 1, "log_id": 2}
    options = {"interface": "paddle_serving", "name": "join", "worker_python": models.mslite_python()}
    with open_op("", "", "paddle_ocr_service.py:OcrService", **options) as runner:
        assert ask(runner, inputs)[0]["outputs"] == {"n": "6", "of": "@DAGExecutor"}

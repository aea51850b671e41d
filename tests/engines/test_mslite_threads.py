"""MindSpore Lite on threads, with a stand-in of its Python surface: the real wheel is tied to Python 3.7."""

import sys
from pathlib import Path

import numpy as np
import pytest

from ascend_parallel import ParallelPredictUtils

STANDINS = str(Path(__file__).parent / "standins")


@pytest.fixture
def runtime(monkeypatch):
    monkeypatch.syspath_prepend(STANDINS)
    monkeypatch.delitem(sys.modules, "mindspore_lite", raising=False)
    import mindspore_lite

    assert mindspore_lite.__version__ == "stand-in"
    yield mindspore_lite
    del sys.modules["mindspore_lite"]


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "double.mindir"
    path.write_bytes(b"MindSpore stand-in" * 8)
    return path


@pytest.mark.parametrize(
    ("devices", "instances", "options"),
    [("cpu:0,1", 1, {}), ("cpu:0", 3, {}), ("cpu:0,1", 2, {"config_path": "x"}), ("cpu:0", 1, {})],
    ids=["two devices", "three instances", "a Model a thread", "one"],
)
def test_threads_never_share_a_model_and_all_of_them_work(runtime, model, devices, instances, options, monkeypatch):
    if options:  # 2.0.0 knows none: the stand-in takes it here
        build = runtime.Model.build_from_file
        monkeypatch.setattr(runtime.Model, "build_from_file", lambda self, *a, config_path=None: build(self, *a))
    count = instances * (2 if "," in devices else 1)
    with ParallelPredictUtils(
        model, devices=devices, workers="threads", instances=instances, chunk_size=2, engine_options=options
    ) as runner:
        assert runtime.models_built == count
        for rows in (1, 2, 3, 40):
            x = np.random.default_rng(rows).standard_normal((rows, 3)).astype(np.float32)
            for _ in range(2):
                np.testing.assert_array_equal(runner.predict({"x": x})["y"], x * 2)
        futures = [runner.submit({"x": x + i}) for i in range(20)]
        for i, future in enumerate(futures):
            np.testing.assert_array_equal(future.result(20)["y"], (x + i) * 2)
    assert runtime.most_at_once == count

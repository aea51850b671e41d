"""``RunnerUDF``: a runner as a stage of Ray Data."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from models import linear

from ascend_parallel import ParallelPredictUtils, RunnerUDF, UsageError
from ascend_parallel.cluster import ray_data

pytestmark = pytest.mark.timeout(120)


def test_batches_of_ray_data_go_through_a_model(cluster, tmp_path):
    script = Path(__file__).with_name("through_ray_data.py")
    command = [sys.executable, str(script), str(linear()), cluster.address, str(tmp_path / "out.npz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as found:
        assert found["path"].tolist() == list(range(40))
        with ParallelPredictUtils(str(linear()), devices="cpu:0", workers="threads") as runner:
            assert np.allclose(found["y"], runner.predict({"x": found["x"]})["y"], atol=1e-6)


def test_a_missing_column_is_named():
    udf = RunnerUDF(str(linear()), devices="cpu:0", inputs={"x": "image"})
    try:
        with pytest.raises(UsageError, match="the batch has no column 'image'; it has 'picture'"):
            udf({"picture": np.zeros((1, 8), np.float32)})
        assert udf({"image": np.zeros((3, 8), np.float32)})["y"].shape == (3, 5)
    finally:
        udf._runner.close()


@pytest.mark.parametrize(("visible", "expected"), [("2,3", ["ascend:0", "ascend:1"]), ("", ["ascend:2", "ascend:3"])])
def test_devices_are_numbered_as_this_process_sees_them(monkeypatch, visible, expected):
    monkeypatch.setattr(ray_data, "assigned_ids", {"ascend": ["2", "3"]}.get)
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", visible)  # "": Ray was told not to set it
    assert [str(device) for device in ray_data.assigned_devices()] == expected

"""``RunnerUDF``: a runner as a stage of Ray Data."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from models import linear

from ascend_parallel import ParallelPredictUtils, RunnerUDF, UsageError

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

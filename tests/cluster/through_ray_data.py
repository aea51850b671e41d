"""Run by test_ray_data.py: Ray Data warns of its own settings, which pytest would take for errors."""

import sys

import numpy as np
import ray

from ascend_parallel import RunnerUDF

model, address, result = sys.argv[1:]
ray.init(address, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
x = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
rows = ray.data.from_items([{"path": i, "image": x[i]} for i in range(40)]).map_batches(
    RunnerUDF,
    fn_constructor_kwargs={"model": model, "inputs": {"x": "image"}, "keep": ["path"], "devices": "cpu:0"},
    batch_size=10,
    concurrency=2,
    num_cpus=0,
    resources={"NPU": 1},
)
found = sorted(rows.take_all(), key=lambda row: row["path"])
np.savez(result, x=x, path=[row["path"] for row in found], y=np.stack([row["y"] for row in found]))

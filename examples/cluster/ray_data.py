"""Pictures through a model with Ray Data: each of its actors holds a runner over the devices that Ray gave it.

    python ray_data.py MODEL.onnx PICTURES [--address HOST:6379] [--actors 2] [--npus 0]

MODEL takes float32 (rows, height, width, 3). With --npus 1, each actor has one Ascend chip; without, one CPU.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import ray

from ascend_parallel import RunnerUDF

SIZE = (32, 32)


def to_float(batch: dict[str, Any]) -> dict[str, Any]:
    """Convert the pictures of a batch to the model's type."""
    return {**batch, "image": np.asarray(batch["image"], np.float32) / 255}


def main() -> None:
    """Run the pictures through the model; print one line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("pictures", help="a folder that all hosts see, or a URL")
    parser.add_argument("--address", help="the Ray cluster; by default, the one that runs on this machine")
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--npus", type=int, default=0, help="Ascend chips of each actor")
    told = parser.parse_args()
    ray.init(told.address)
    devices = {"resources": {"NPU": told.npus}, "num_cpus": 0} if told.npus else {"num_cpus": 1}
    results = (
        ray.data.read_images(told.pictures, size=SIZE, mode="RGB", include_paths=True)
        .map_batches(to_float)
        .map_batches(
            RunnerUDF,
            fn_constructor_kwargs={"model": told.model, "inputs": {"x": "image"}, "keep": ["path"]},
            batch_size=16,
            concurrency=told.actors,
            **devices,
        )
    )
    for row in sorted(results.take_all(), key=lambda one: one["path"]):
        print(row["path"], *(f"{name}={np.ravel(value)[:3]}" for name, value in row.items() if name != "path"))


if __name__ == "__main__":
    main()

"""Runs a batch through a model on all devices of a Ray cluster, and says which device did what.

    python predict.py MODEL [--devices ascend:*] [--address HOST:6379] [--rows 64] [--calls 20]

MODEL is a .mindir or .onnx file at the same path on all hosts; with --ship-model, the driver sends it. "sim" with
--engine simulated needs no model and no devices.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from ascend_parallel import ClusterPredictUtils


def main() -> None:
    """Run the calls that the arguments ask for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--devices", help="such as ascend:*; by default, the best type that the cluster has")
    parser.add_argument("--engine", help="by default, chosen by the model's suffix")
    parser.add_argument("--address", help="the Ray cluster; by default, the one that runs on this machine")
    parser.add_argument("--ship-model", action="store_true", help="send the model to the hosts")
    parser.add_argument("--rows", type=int, default=64, help="rows per call")
    parser.add_argument("--calls", type=int, default=20, help="number of calls")
    told = parser.parse_args()
    options = {"devices": told.devices, "engine": told.engine, "address": told.address, "ship_model": told.ship_model}
    with ClusterPredictUtils(told.model, **options) as runner:
        print(f"{len(runner.devices)} devices: {', '.join(runner.devices)}")
        inputs = make_inputs(runner, told.rows)
        runner.predict(inputs)  # the first call of a model is slower
        started_s = time.perf_counter()
        for outputs in runner.map(inputs for _ in range(told.calls)):
            last = outputs
        elapsed_s = time.perf_counter() - started_s
        rows = told.calls * told.rows
        print(f"{told.calls} calls of {told.rows} rows in {elapsed_s:.2f} s: {rows / elapsed_s:,.0f} rows/s")
        for name, array in last.items():
            print(f"  {name}: {array.dtype} {array.shape}")
        for label, worker in runner.stats()["workers"].items():
            print(f"{label}: {worker['rows']:,} rows, busy for {worker['busy_s']:.2f} s")


def make_inputs(runner: ClusterPredictUtils, rows: int) -> dict[str, np.ndarray]:
    """Return zeros in the shapes of the model's inputs; open axes besides the first get the size 1."""
    if runner.inputs is None:
        return {"x": np.zeros((rows, 16), np.float32)}
    return {
        spec.name: np.zeros((rows, *(dim if isinstance(dim, int) else 1 for dim in spec.shape[1:])), spec.dtype)
        for spec in runner.inputs
    }


if __name__ == "__main__":
    main()

"""The cluster runner compared with plain Ray: calls, files, and how many simulated devices one driver drives.

    python benchmarks/cluster.py [calls [--kib 4096,16384]] [files] [scaling] [serve [--haproxy]] [--rounds 5]

All run on a local Ray cluster, on the cores of this machine.

calls: one call, and a stream of calls, on two actors with one thread each. Plain Ray actors hold the same ONNX Runtime
session; their caller sends half of the rows to each, and joins what comes back. The sides take turns, call by call, so
that other load on the machine hits all of them. A ratio above 1 means that the cluster runner is faster.

files: 10,000 files through a trivial pipeline on two workers, from the start of the actors to the last line of JSON:
``parallel_map(cluster="ray")``, and Ray Data alone.

scaling: 1 to 8 actors with 8 simulated devices each, which sleep 20 ms per row. The efficiency is relative to devices
that never wait.

serve: requests a second through Ray Serve, as it comes, or with HAProxy (cluster_serve.py); needs wrk.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import ray
from onnx import TensorProto, helper
from rich.console import Console
from rich.table import Table
from sides.options import read_numbers

from ascend_parallel import ClusterPredictUtils, ParallelPredictUtils, parallel_map

HERE = Path(__file__).resolve().parent
#: Bytes of a row of the model of ``calls``.
ROW_BYTES = 2048
SIZES_KIB = "4,64,256,1024,4096,16384,65536"
#: How long each side is measured per size and round, about.
ROUND_S = 0.6
#: Calls of the plain stream in flight: one that each actor computes, and one that waits there.
IN_FLIGHT = 4
DEVICES_OF_HOST, MS_PER_ROW = 8, 20
FILES = 10_000
#: What ``--haproxy`` sets, before Ray is started.
HAPROXY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
}


# ---- calls


@ray.remote(num_cpus=1)
class Plain:
    """What one writes without us: an actor with a session."""

    def __init__(self, model: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, feeds: dict[str, Any]) -> Any:
        """Run the session."""
        return self._session.run(None, feeds)[0]


def save_model(path: Path, rows: int) -> str:
    """Write a model that negates so many rows at a time."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [rows, ROW_BYTES // 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "neg", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return str(path)


def measure_calls(console: Console, sizes_kib: Sequence[int], rounds: int, folder: Path) -> None:
    """Print the times of calls and streams, by size."""
    table = Table(title=f"calls on two actors; medians of {rounds} rounds; ratio: plain Ray's time, relative to ours")
    for title in (
        "size",
        "one call:\nlocal runner, ms",
        "plain Ray",
        "ours",
        "ratio",
        "a stream:\nplain Ray",
        "ours",
        "ratio",
    ):
        table.add_column(title, justify="right")
    for kib in sizes_kib:
        rows = kib * 1024 // 2 // ROW_BYTES
        table.add_row(*measure_size(kib, save_model(folder / f"neg{rows}.onnx", rows), rows, rounds))
        print(f"{kib} KiB measured", file=sys.stderr)
    console.print(table)


def measure_size(kib: int, model: str, rows: int, rounds: int) -> list[str]:
    """Return one row of the table."""
    x = np.random.default_rng(0).random((2 * rows, ROW_BYTES // 4), np.float32)
    actors = [Plain.remote(model) for _ in range(2)]
    options = {"engine_options": {"threads": 1}}
    local = ParallelPredictUtils(model, devices="cpu:0,1", **options)
    ours = ClusterPredictUtils(model, devices="cpu:*", num_devices=2, devices_per_actor=1, **options)
    with local, ours:
        sides = {
            "local": lambda: local.predict({"x": x})["y"],
            "plain": lambda: call_plain(actors, x),
            "ours": lambda: ours.predict({"x": x})["y"],
        }
        assert all(np.array_equal(side(), -x) for side in sides.values())
        calls = [interleave(sides) for _ in range(rounds)]
        half = x[:rows]
        streams = [measure_streams(actors, ours, half) for _ in range(rounds)]
    for actor in actors:
        ray.kill(actor)
    local_ms, plain_ms, ours_ms = (statistics.median(one[side] for one in calls) for side in sides)
    stream_ms = [statistics.median(one[i] for one in streams) for i in range(2)]
    size = f"{kib} KiB" if kib < 1024 else f"{kib // 1024} MiB"
    return [
        size,
        *(f"{ms:.2f}" for ms in (local_ms, plain_ms, ours_ms)),
        ratio([(one["plain"], one["ours"]) for one in calls]),
        *(f"{ms:.3f}" for ms in stream_ms),
        ratio(streams),
    ]


def call_plain(actors: Sequence[Any], x: Any) -> Any:
    """Send half of the rows to each actor; join the results."""
    half = len(x) // 2
    return np.concatenate(
        ray.get([actor.run.remote({"x": part}) for actor, part in zip(actors, (x[:half], x[half:]), strict=True)])
    )


def interleave(sides: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the median milliseconds of a call of each side; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    end_s = time.perf_counter() + ROUND_S * len(sides)
    while time.perf_counter() < end_s or len(times["ours"]) < 10:
        for name, side in sides.items():
            started_s = time.perf_counter()
            side()
            times[name].append((time.perf_counter() - started_s) * 1e3)
    return {name: statistics.median(own) for name, own in times.items()}


def measure_streams(actors: Sequence[Any], ours: ClusterPredictUtils, x: Any) -> tuple[float, float]:
    """Return the milliseconds per call of a stream, of plain Ray and of ours; each call has the rows of one actor."""
    count = 20
    while True:
        started_s = time.perf_counter()
        stream_plain(actors, x, count)
        plain_s = time.perf_counter() - started_s
        started_s = time.perf_counter()
        for _ in ours.map({"x": x} for _ in range(count)):
            pass
        ours_s = time.perf_counter() - started_s
        if plain_s + ours_s > ROUND_S:
            return plain_s / count * 1e3, ours_s / count * 1e3
        count *= 2


def stream_plain(actors: Sequence[Any], x: Any, count: int) -> None:
    """Keep some calls in flight; take the results in order."""
    waiting: deque[Any] = deque()
    for i in range(count):
        waiting.append(actors[i % len(actors)].run.remote({"x": x}))
        if len(waiting) >= IN_FLIGHT:
            ray.get(waiting.popleft())
    while waiting:
        ray.get(waiting.popleft())


def ratio(pairs: Sequence[tuple[float, float]]) -> str:
    """Return the median and the range of plain Ray's time relative to ours."""
    values = sorted(plain / own for plain, own in pairs)
    return f"{statistics.median(values):.2f} ({values[0]:.2f} to {values[-1]:.2f})"


# ---- files


class Trivial:
    """The pipeline of map_pipelines.py for Ray Data."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return one result for each path."""
        return {"file": batch["path"], "size": np.array([len(str(path)) for path in batch["path"]])}


def measure_files(console: Console, rounds: int, folder: Path) -> None:
    """Print the seconds that a folder of files takes."""
    inputs = folder / "in"
    inputs.mkdir()
    for number in range(FILES):
        (inputs / f"f{number:05d}.jpg").touch()
    seconds: dict[str, list[float]] = {"parallel_map": [], "Ray Data": []}
    for number in range(rounds):
        for name, run in (("parallel_map", files_by_us), ("Ray Data", files_by_ray_data)):
            started_s = time.perf_counter()
            run(inputs, folder / f"{name} {number}")
            seconds[name].append(time.perf_counter() - started_s)
    table = Table(title=f"{FILES:,} trivial files on two workers; {rounds} rounds")
    for title in ("", "s", "files/s"):
        table.add_column(title, justify="right")
    for name, own in seconds.items():
        middle = statistics.median(own)
        table.add_row(name, f"{middle:.2f} ({min(own):.2f} to {max(own):.2f})", f"{FILES / middle:,.0f}")
    console.print(table)
    pairs = list(zip(seconds["Ray Data"], seconds["parallel_map"], strict=True))
    console.print(f"Ray Data's time, relative to ours: {ratio(pairs)}")


def files_by_us(inputs: Path, output: Path) -> None:
    """Run the files through ``parallel_map``."""
    pipeline = f"{HERE / 'map_pipelines.py'}:trivial"
    options = {"devices": "cpu:*", "num_devices": 2, "cluster": "ray", "ordered": False}
    done = sum(o.ok for o in parallel_map(pipeline, inputs, output_dir=output, output_format="jsonl", **options))
    assert done == FILES


def files_by_ray_data(inputs: Path, output: Path) -> None:
    """Run the files through Ray Data."""
    paths = [{"path": str(path)} for path in sorted(inputs.iterdir())]
    ray.data.from_items(paths).map_batches(Trivial, compute=ray.data.ActorPoolStrategy(size=2), num_cpus=1).write_json(
        str(output)
    )
    assert sum(len(path.read_text().splitlines()) for path in output.glob("*.json")) == FILES


# ---- scaling


def measure_scaling(console: Console, counts: Sequence[int]) -> None:
    """Print the efficiency by number of actors, and what a driver's messages cost."""
    table = Table(title=f"actors of {DEVICES_OF_HOST} simulated devices of {MS_PER_ROW} ms a row: efficiency")
    titles = ("actors", "devices", "one long predict", "map, a row for\neach device", "map, single rows")
    for title in (*titles, "driver's CPU, us per row\n(long, map, single)"):
        table.add_column(title, justify="right")
    for count in counts:
        table.add_row(*measure_actors(count))
        print(f"{count} actors measured", file=sys.stderr)
    console.print(table)


def measure_actors(count: int) -> list[str]:
    """Return one row of the table."""
    devices = count * DEVICES_OF_HOST
    row = np.zeros((1, 16), np.float32)
    options: dict[str, Any] = {"engine": "simulated", "engine_options": {"ms_per_row": MS_PER_ROW}, "chunk_size": 1}
    options |= {"devices": "simulated:*", "resource": "SIM", "num_devices": devices}
    with ClusterPredictUtils("sim", devices_per_actor=DEVICES_OF_HOST, **options) as runner:
        whole = np.zeros((devices, 16), np.float32)
        runner.predict({"x": whole})
        rows = devices * 100  # two seconds
        long = timed(lambda: runner.predict({"x": np.zeros((rows, 16), np.float32)}), rows)
        mapped = timed(lambda: drain(runner.map({"x": whole} for _ in range(100))), rows)
        single = timed(lambda: drain(runner.map({"x": row} for _ in range(rows))), rows)
    ideal = devices / MS_PER_ROW * 1e3
    efficiencies = [f"{rows_per_s / ideal:.1%}" for rows_per_s, _ in (long, mapped, single)]
    cpu = ", ".join(f"{us:.0f}" for _, us in (long, mapped, single))
    return [str(count), str(devices), *efficiencies, cpu]


def drain(results: Iterator[Any]) -> None:
    """Take all results."""
    for _ in results:
        pass


def timed(work: Callable[[], Any], rows: int) -> tuple[float, float]:
    """Return rows per second, and the CPU time of this process in microseconds per row."""
    started_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    return rows / (time.perf_counter() - started_s), (time.process_time() - cpu_s) / rows * 1e6


# ---- the command


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", help="calls, files, scaling, serve (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of calls and files (default: 5)")
    parser.add_argument("--kib", default=SIZES_KIB, help=f"sizes of calls (default: {SIZES_KIB})")
    parser.add_argument("--haproxy", action="store_true", help="Ray Serve tuned for throughput, with HAProxy")
    parser.add_argument("--actors", default="1,2,4,8", help="numbers of actors of scaling (default: 1,2,4,8)")
    arguments = parser.parse_args()
    sizes_kib = read_numbers(parser, "--kib", arguments.kib)
    actors = read_numbers(parser, "--actors", arguments.actors)
    parts = arguments.parts or ["calls", "files", "scaling", "serve"]
    console = Console(width=150)
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled")  # no telemetry, no files left
    with tempfile.TemporaryDirectory(prefix="ap-", dir="/tmp") as text:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])  # for Ray's workers
        if "serve" in parts and arguments.haproxy:
            os.environ.update(HAPROXY)
        options = {"num_cpus": 4, "resources": {"SIM": 64}, "object_store_memory": 2 << 30, "_temp_dir": f"{text}/r"}
        ray.init(include_dashboard=False, log_to_driver=False, **options)
        load = os.getloadavg()[0]
        console.print(json.dumps({"cores": os.cpu_count(), "ray": ray.__version__, "load average": round(load, 1)}))
        try:
            if "calls" in parts:
                measure_calls(console, sizes_kib, arguments.rounds, Path(text))
            if "files" in parts:
                measure_files(console, arguments.rounds, Path(text))
            if "scaling" in parts:
                measure_scaling(console, actors)
            if "serve" in parts:
                from cluster_serve import measure_serve

                measure_serve(console, arguments.rounds, Path(text))
        finally:
            ray.shutdown()


if __name__ == "__main__":
    main()

"""Pictures over HTTP: eight clients at once against one after the other, and against what the devices can do at best.

    python benchmarks/images.py [--rounds 5] [--sides simulated,single,tiny]

The server is `ascend-parallel serve` with two devices, in a process of its own; a client is a thread with a connection
of its own, which asks for one picture with guidance: two rows of the U-Net in each of its steps. The sides:

- simulated: two devices that sleep 40 ms for each row of the U-Net, which takes a time step for each row;
- single: the same, but the U-Net takes one time step for all rows, as that of MindSpore Lite's tutorial;
- tiny: the tiny model of examples/sd21, computed by ONNX Runtime on two workers of one thread each.

The rows' ideal is the time of all rows of the eight pictures on two devices that never wait: for the simulated ones
rows x 40 ms / 2; for the tiny model the same rows through the bare runner, as full batches of 8 on each worker,
measured in the same round. It has no text encoder, no decoder, no sampler, no PNG and no HTTP.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from sides.options import choose

from ascend_parallel import ParallelPredictUtils

SD21 = Path(__file__).resolve().parents[1] / "examples" / "sd21"
sys.path.append(str(SD21))
CLIENTS = 8
MS_PER_ROW = 40
BATCH = 8  # rows; the server's default
DEVICES = "cpu:0,1"
GUIDANCE = 4.0


class Side(NamedTuple):
    """What is served, and how many steps a picture has."""

    name: str
    steps: int
    is_simulated: bool


SIDES = {
    "simulated": Side("two simulated devices of 40 ms a row, a time step for each row", 30, True),
    "single": Side("the same, one time step for all rows", 30, True),
    "tiny": Side("the tiny model on two workers of a CPU, a time step for each row", 50, False),
}


class Times(NamedTuple):
    """Seconds of one round: eight pictures one after the other, at once, and at best."""

    alone_s: float
    at_once_s: float
    ideal_s: float


# ---- the server


def serve(name: str) -> None:
    """Serve a side until SIGTERM; its models take the place of those of the tiny model's folder."""
    import simulated_sd21

    from ascend_parallel.serving import server
    from ascend_parallel.serving.config import ServerConfig
    from ascend_parallel.serving.image_config import ImageConfig
    from ascend_parallel.serving.images import image_model

    options: dict[str, Any] = {"threads": 1}
    if SIDES[name].is_simulated:
        models = simulated_sd21.MODELS if name == "single" else simulated_sd21.MODELS_OF_TIMESTEPS
        files = {part: Path(factory) for part, factory in models.items()}
        options = {"ms_per_row": MS_PER_ROW}
        read = image_model.read_folder
        image_model.read_folder = lambda path, engine: replace(read(path, engine), engine="callable", files=files)
    image = ImageConfig(folder=str(SD21 / "tiny"), devices=DEVICES, engine_options=options, max_batch_size=BATCH)
    server.run(ServerConfig(port=0, images=[image]))


@contextlib.contextmanager
def serving(name: str) -> Iterator[int]:
    """Run the server of a side in a process of its own; yield its port."""
    process = subprocess.Popen([sys.executable, __file__, "--serve", name], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = []
    try:
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"serving on http://\S+:(\d+)", line):
                yield int(found[1])
                break
        else:
            raise SystemExit(f"the server did not start:\n{''.join(lines)}")
    finally:
        process.terminate()
        process.communicate()


# ---- the clients


def ask(port: int, side: Side, seed: int) -> None:
    """Ask for one picture, and wait for it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    with contextlib.closing(connection):
        body = {"prompt": "a red circle on white", "seed": seed, "steps": side.steps, "guidance_scale": GUIDANCE}
        connection.request("POST", "/v1/images/generations", json.dumps(body))
        response = connection.getresponse()
        answer = response.read()
    if response.status != 200:
        raise SystemExit(f"the server answered {response.status}: {answer[:500]!r}")


def time_of(action: Callable[[], object]) -> float:
    """Return how many seconds an action takes."""
    started_s = time.perf_counter()
    action()
    return time.perf_counter() - started_s


def run_round(port: int, side: Side, pool: ThreadPoolExecutor, best: Callable[[], float]) -> Times:
    """Measure each way once."""
    alone_s = time_of(lambda: [ask(port, side, seed) for seed in range(CLIENTS)])
    at_once_s = time_of(lambda: list(pool.map(lambda seed: ask(port, side, seed), range(CLIENTS))))
    return Times(alone_s, at_once_s, best())


# ---- what the devices can do at best


@contextlib.contextmanager
def ideal_of(side: Side) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the rows' ideal, in seconds."""
    rows = 2 * CLIENTS * side.steps
    if side.is_simulated:
        yield lambda: rows * MS_PER_ROW / 1000 / 2
        return
    random = np.random.default_rng(0)
    feeds = {
        "sample": random.standard_normal((2 * BATCH, 4, 8, 8), np.float32),
        "timestep": np.full(2 * BATCH, 500),
        "encoder_hidden_states": random.standard_normal((2 * BATCH, 77, 48), np.float32),
    }
    model = SD21 / "tiny" / "unet" / "model.onnx"
    with ParallelPredictUtils(model, devices=DEVICES, engine_options={"threads": 1}) as runner:
        runner.predict(feeds)
        calls = rows // (2 * BATCH)
        yield lambda: time_of(lambda: [runner.predict(feeds) for _ in range(calls)])


def measure(name: str, rounds: int) -> list[Times]:
    """Measure a side; the first round is not counted."""
    side = SIDES[name]
    with serving(name) as port, ThreadPoolExecutor(CLIENTS) as pool, ideal_of(side) as best:
        return [run_round(port, side, pool, best) for _ in range(rounds + 1)][1:]


def describe(values: list[float], unit: str) -> str:
    """Return the median, and the range."""
    return f"{statistics.median(values):.2f}{unit} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side (default: 5)")
    parser.add_argument("--sides", default=",".join(SIDES), help=f"default: {','.join(SIDES)}")
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    sides = choose(parser, "--sides", arguments.sides, SIDES)
    title = f"{CLIENTS} pictures, medians and ranges of {arguments.rounds} rounds"
    columns = ("", "one after the other", "at once", "rows' ideal", "at once / ideal", "times faster")
    table = Table(*columns, title=title)
    for name in sides:
        times = measure(name, arguments.rounds)
        table.add_row(
            f"{SIDES[name].name}, {SIDES[name].steps} steps",
            describe([t.alone_s for t in times], " s"),
            describe([t.at_once_s for t in times], " s"),
            describe([t.ideal_s for t in times], " s"),
            describe([t.at_once_s / t.ideal_s for t in times], ""),
            describe([t.alone_s / t.at_once_s for t in times], ""),
        )
    Console(width=200).print(table)


if __name__ == "__main__":
    main()

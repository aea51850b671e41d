"""Measure a denoising step: its time, what of it is ours, and the memory of the workers.

    python examples/sd21/measure_steps.py MODELS [--steps 6] [--rounds 2]

On one worker of two threads, one of one, and two of one each: the same request each time, with guidance, so that a
step predicts two rows. Layouts alternate, each built anew, for as many rounds. The first step of each is not counted.
What is ours is a step's time less that which the engine was busy in the busiest worker: guidance, the scheduler's step,
and the way to the workers and back.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from commands import new_app, run_app
from model_folder import ModelFolder, find_models
from numpy.typing import NDArray
from pipeline import Request, TextToImage
from rich.console import Console
from rich.table import Table
from scheduler import DDIMScheduler
from tokenizer import ClipTokenizer

from ascend_parallel import ParallelPredictUtils

PROMPT = "a red circle on white"
GUIDANCE = 7.5
ENGINE = "onnxruntime"

app = new_app()


class Layout(NamedTuple):
    """How workers share the processor's cores."""

    name: str
    devices: str
    threads: int


LAYOUTS = (
    Layout("one worker, 2 threads", "cpu:0", 2),
    Layout("one worker, 1 thread", "cpu:0", 1),
    Layout("two workers, 1 thread each", "cpu:0,1", 1),
)


class Step(NamedTuple):
    """One denoising step: its time, and the engine's in the busiest worker."""

    took_s: float
    busy_s: float


class Memory(NamedTuple):
    """What a worker holds when all is drawn, in bytes: resident, its share of that, and what is its own alone."""

    rss: int
    pss: int
    anonymous: int


class Result(NamedTuple):
    """What one layout gave in one round."""

    steps: list[Step]
    memory: list[Memory]
    picture: NDArray[np.uint8]


class StepWatch:
    """Notes each step's time and what the workers were busy in it."""

    def __init__(self, runner: ParallelPredictUtils) -> None:
        self._runner = runner
        self._marks: list[tuple[float, list[float]]] = []

    def note(self) -> None:
        """Mark the end of a step."""
        workers = self._runner.stats()["workers"].values()
        self._marks.append((time.perf_counter(), [worker["busy_s"] for worker in workers]))

    def steps(self) -> list[Step]:
        """Return the steps from the second on: the first has no mark before it."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return [
            Step(end_s - start_s, max(now - then for now, then in zip(busy, before, strict=True)))
            for (start_s, before), (end_s, busy) in pairs
        ]


def measure(folder: ModelFolder, layout: Layout, steps: int, *, copy_weights: bool) -> Result:
    """Build the models and draw one picture."""
    options = {"threads": layout.threads, **({} if copy_weights else folder.engine_options)}
    scheduler = DDIMScheduler.from_config(folder.path / "scheduler" / "scheduler_config.json")
    scheduler.set_timesteps(steps)
    tokenizer = ClipTokenizer.from_folder(folder.path / "tokenizer")
    with ParallelPredictUtils(folder.files, devices=layout.devices, engine=ENGINE, engine_options=options) as runner:
        watch = StepWatch(runner)
        pipeline = TextToImage(runner, folder, tokenizer, scheduler)
        pictures = pipeline.draw(Request([PROMPT], "", GUIDANCE, 0), on_step=watch.note)
        memory = [read_memory(worker["pid"]) for worker in runner.stats()["workers"].values()]
    return Result(watch.steps(), memory, pictures[0])


def read_memory(pid: int) -> Memory:
    """Read a process's memory from /proc/PID/smaps_rollup."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, size, _ = line.split()
        fields[name.rstrip(":")] = int(size) * 1024
    return Memory(fields["Rss"], fields["Pss"], fields["Anonymous"])


def describe(layout: Layout, results: Sequence[Result]) -> list[str]:
    """Return a layout's row of the table: medians over all its steps, and the last round's memory."""
    steps = [step for result in results for step in result.steps]
    took_s = statistics.median(step.took_s for step in steps)
    ours_s = statistics.median(step.took_s - step.busy_s for step in steps)
    memory = results[-1].memory
    told = [" + ".join(f"{getattr(worker, field) / 1e9:.2f}" for worker in memory) for field in Memory._fields]
    return [layout.name, f"{took_s:.4g}", f"{ours_s * 1e3:.2f}", f"{ours_s / took_s:.3%}", *told]


@app.command()
def main(
    models: Annotated[
        Path, typer.Argument(metavar="MODELS", help="A folder of ONNX models, such as export_onnx.py makes.")
    ],
    steps: Annotated[int, typer.Option(min=2, help="Denoising steps of a picture.")] = 6,
    rounds: Annotated[int, typer.Option(min=1, help="How often each layout has its turn.")] = 2,
    copy_weights: Annotated[
        bool, typer.Option("--copy-weights", help="Do not map weights: each worker copies them.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks, the worker's too.")] = False,
) -> None:
    """Print the time of a step, our part of it, and the workers' memory, for one worker and for two."""
    folder = find_models(models, ENGINE)
    results: dict[Layout, list[Result]] = {layout: [] for layout in LAYOUTS}
    for _ in range(rounds):
        for layout, found in results.items():
            found.append(measure(folder, layout, steps, copy_weights=copy_weights))
            took_s = statistics.median(step.took_s for step in found[-1].steps)
            print(f"{layout.name}: {took_s:.3g} s a step", file=sys.stderr)  # at the real size each takes minutes
    weights = "mapped" if folder.engine_options and not copy_weights else "copied"
    table = Table(title=f"{models}, {steps} steps, {rounds} rounds, {os.cpu_count()} cores, weights {weights}")
    for title in ("workers", "s a step", "ours, ms", "ours", "RSS, GB", "PSS, GB", "own, GB"):
        table.add_column(title, justify="left" if title == "workers" else "right")
    for layout, found in results.items():
        table.add_row(*describe(layout, found))
    Console(width=120).print(table)
    pictures = np.stack([result.picture for found in results.values() for result in found]).astype(np.int16)
    print(f"largest difference of a pixel between them: {np.ptp(pictures, axis=0).max()} of 255")
    print(f"standard deviation of the picture's pixels: {pictures[0].std():.0f}")


if __name__ == "__main__":
    run_app(app, "measure_steps.py")

"""Measure a denoising step: its time, the host overhead, and the memory of the workers.

    python examples/sd21/measure_steps.py MODELS [--steps 6] [--rounds 2]

It measures one worker with two threads, one with one thread, and two with one thread each. The request is the same,
with guidance, so a step predicts two rows. The layouts alternate in each round, and each is built again. The first step
of each is not counted. The host overhead is a step's time minus the engine's time in the busiest worker: guidance, the
scheduler's step, and the transport to the workers and back.
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
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from text_to_image import Request, TextToImage

from ascend_parallel import ParallelPredictUtils
from ascend_parallel.diffusion.model_folder import ModelFolder, find_models

PROMPT = "a red circle on white"
GUIDANCE = 7.5
ENGINE = "onnxruntime"

app = new_app()


class Layout(NamedTuple):
    """How the workers divide the processor's cores."""

    name: str
    devices: str
    threads: int


LAYOUTS = (
    Layout("one worker, 2 threads", "cpu:0", 2),
    Layout("one worker, 1 thread", "cpu:0", 1),
    Layout("two workers, 1 thread each", "cpu:0,1", 1),
)


class Step(NamedTuple):
    """The time of one denoising step, and the engine's time in the busiest worker."""

    step_s: float
    busy_s: float


class Memory(NamedTuple):
    """The memory of a worker after the drawing, in bytes: resident, proportional (PSS), and anonymous."""

    rss: int
    pss: int
    anonymous: int


class Result(NamedTuple):
    """The result of one layout in one round."""

    steps: list[Step]
    memory: list[Memory]
    picture: NDArray[np.uint8]


class StepWatch:
    """Records the time of each step, and the engine's time in each worker."""

    def __init__(self, runner: ParallelPredictUtils) -> None:
        self._runner = runner
        self._marks: list[tuple[float, list[float]]] = []

    def note(self) -> None:
        """Record the end of a step."""
        workers = self._runner.stats()["workers"].values()
        self._marks.append((time.perf_counter(), [worker["busy_s"] for worker in workers]))

    def steps(self) -> list[Step]:
        """Return the steps without the first one, whose start is unknown."""
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return [
            Step(end_s - start_s, max(now - then for now, then in zip(busy, before, strict=True)))
            for (start_s, before), (end_s, busy) in pairs
        ]


def measure(folder: ModelFolder, layout: Layout, steps: int, *, copy_weights: bool) -> Result:
    """Build the models and draw one picture."""
    options = {"threads": layout.threads, **({} if copy_weights else folder.engine_options)}
    scheduler = folder.read_sampler()
    scheduler.set_timesteps(steps)
    tokenizer = folder.read_tokenizer()
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
    """Return the table row of a layout: medians over all its steps, and the memory of the last round."""
    steps = [step for result in results for step in result.steps]
    step_s = statistics.median(step.step_s for step in steps)
    overhead_s = statistics.median(step.step_s - step.busy_s for step in steps)
    memory = results[-1].memory
    memory_texts = [" + ".join(f"{getattr(worker, field) / 1e9:.2f}" for worker in memory) for field in Memory._fields]
    return [layout.name, f"{step_s:.4g}", f"{overhead_s * 1e3:.2f}", f"{overhead_s / step_s:.3%}", *memory_texts]


@app.command()
def main(
    models: Annotated[
        Path, typer.Argument(metavar="MODELS", help="Folder of ONNX models, such as one written by export_onnx.py.")
    ],
    steps: Annotated[int, typer.Option(min=2, help="Denoising steps per picture.")] = 6,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each layout.")] = 2,
    copy_weights: Annotated[
        bool, typer.Option("--copy-weights", help="Do not map the weights: each worker copies them.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks, including the workers'.")] = False,
) -> None:
    """Print the time of a step, the host overhead, and the workers' memory, for one worker and for two."""
    folder = find_models(models, ENGINE)
    results: dict[Layout, list[Result]] = {layout: [] for layout in LAYOUTS}
    for _ in range(rounds):
        for layout, results_of_layout in results.items():
            results_of_layout.append(measure(folder, layout, steps, copy_weights=copy_weights))
            step_s = statistics.median(step.step_s for step in results_of_layout[-1].steps)
            print(f"{layout.name}: {step_s:.3g} s per step", file=sys.stderr)  # at the real size each takes minutes
    weights = "mapped" if folder.engine_options and not copy_weights else "copied"
    table = Table(title=f"{models}, {steps} steps, {rounds} rounds, {os.cpu_count()} cores, weights {weights}")
    for title in ("workers", "s per step", "host, ms", "host", "RSS, GB", "PSS, GB", "anonymous, GB"):
        table.add_column(title, justify="left" if title == "workers" else "right")
    for layout, results_of_layout in results.items():
        table.add_row(*describe(layout, results_of_layout))
    Console(width=120).print(table)
    pictures = np.stack(
        [result.picture for results_of_layout in results.values() for result in results_of_layout]
    ).astype(np.int16)
    print(f"largest difference of a pixel between the pictures: {np.ptp(pictures, axis=0).max()} of 255")
    print(f"standard deviation of the picture's pixels: {pictures[0].std():.0f}")


if __name__ == "__main__":
    run_app(app, "measure_steps.py")

"""Measure how to distribute several pictures over several devices.

    python examples/sd21/measure_pictures.py                            simulated devices, then the tiny model
    python examples/sd21/measure_pictures.py MODELS --steps 4           the models of a folder, on cpu:0,1

Three methods, which alternate:

- one by one: one picture at a time, with its two rows on two devices (guidance-parallel);
- together: the rows of all pictures in one batch on all devices, as in main.py;
- apart: one runner per device; each draws whole pictures from a common list (picture-parallel).

Each prints the seconds until the first picture is complete, and until all are.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import simulated_sd21
import typer
from commands import TINY, new_app, run_app
from rich.console import Console
from rich.table import Table
from text_to_image import Request, TextToImage

from ascend_parallel import ParallelPredictUtils, parse_devices
from ascend_parallel.diffusion.model_folder import ModelFolder, find_models

PROMPT = "a red circle on white"
MS_PER_ROW = 40.0  # of the simulated devices: a chip of tens of TFLOPS needs that for a row of the real U-Net
ENGINE = "onnxruntime"

app = new_app()


class Case(NamedTuple):
    """What is measured: the models, the devices, the guidance."""

    name: str
    folder: ModelFolder
    options: dict[str, Any]
    devices: str
    guidance: float


class Times(NamedTuple):
    """Seconds since the start."""

    first_s: float
    all_s: float


Draw = Callable[[int], Times]


@contextmanager
def open_pipeline(case: Case, devices: str, steps: int) -> Iterator[TextToImage]:
    """Yield a pipeline on these devices; close its runner at the end."""
    scheduler = case.folder.read_sampler()
    scheduler.set_timesteps(steps)
    tokenizer = case.folder.read_tokenizer()
    with ParallelPredictUtils(
        case.folder.files, devices=devices, engine=case.folder.engine, engine_options=case.options
    ) as runner:
        yield TextToImage(runner, case.folder, tokenizer, scheduler)


def draw_one_by_one(pipeline: TextToImage, guidance: float, pictures: int) -> Times:
    """Draw each picture with all devices."""
    started_s = time.perf_counter()
    ends_s = []
    for seed in range(pictures):
        pipeline.draw(Request([PROMPT], "", guidance, seed))
        ends_s.append(time.perf_counter() - started_s)
    return Times(ends_s[0], ends_s[-1])


def draw_together(pipeline: TextToImage, guidance: float, pictures: int) -> Times:
    """Draw all pictures in one batch."""
    started_s = time.perf_counter()
    pipeline.draw(Request([PROMPT] * pictures, "", guidance, 0))
    elapsed_s = time.perf_counter() - started_s
    return Times(elapsed_s, elapsed_s)


def draw_apart(pipelines: Sequence[TextToImage], guidance: float, pictures: int) -> Times:
    """Let each pipeline draw the next picture of a common list."""
    seeds = iter(range(pictures))
    lock = threading.Lock()
    ends_s: list[float] = []

    def work(pipeline: TextToImage) -> None:
        while True:
            with lock:
                seed = next(seeds, None)
            if seed is None:
                return
            pipeline.draw(Request([PROMPT], "", guidance, seed))
            ends_s.append(time.perf_counter() - started_s)

    threads = [threading.Thread(target=work, args=(pipeline,)) for pipeline in pipelines]
    started_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Times(min(ends_s), max(ends_s))


def measure(case: Case, counts: Sequence[int], steps: int, rounds: int) -> dict[int, dict[str, Times]]:
    """Return the medians for each number of pictures and each method."""
    shared: dict[str, dict[int, list[Times]]] = {"one by one": {}, "together": {}}
    with open_pipeline(case, case.devices, steps) as pipeline:
        methods: dict[str, Draw] = {
            "one by one": lambda count: draw_one_by_one(pipeline, case.guidance, count),
            "together": lambda count: draw_together(pipeline, case.guidance, count),
        }
        _repeat(methods, shared, counts, rounds)
    apart: dict[str, dict[int, list[Times]]] = {"apart": {}}
    with ExitStack() as stack:
        pipelines = [
            stack.enter_context(open_pipeline(case, str(device), steps)) for device in parse_devices(case.devices)
        ]
        _repeat({"apart": lambda count: draw_apart(pipelines, case.guidance, count)}, apart, counts, rounds)
    times_by_method = {**shared, **apart}
    return {
        count: {method: _median(times_by_count[count]) for method, times_by_count in times_by_method.items()}
        for count in counts
    }


def _repeat(
    methods: dict[str, Draw], times_by_method: dict[str, dict[int, list[Times]]], counts: Sequence[int], rounds: int
) -> None:
    """Run the methods in turn; a first picture of each is not counted."""
    for draw in methods.values():
        draw(1)
    for _ in range(rounds):
        for count in counts:
            for method, draw in methods.items():
                times_by_method[method].setdefault(count, []).append(draw(count))


def _median(samples: Sequence[Times]) -> Times:
    return Times(*(statistics.median(values) for values in zip(*samples, strict=True)))


def show(case: Case, medians: dict[int, dict[str, Times]], steps: int) -> None:
    """Print a case's table."""
    print(
        f"\n{case.name} on {case.devices}, guidance {case.guidance:g}, {steps} steps: s to the first picture / to all"
    )
    table = Table()
    for title in ("pictures", *next(iter(medians.values()))):
        table.add_column(title, justify="right")
    for count, methods in medians.items():
        table.add_row(str(count), *(f"{times.first_s:.3g} / {times.all_s:.3g}" for times in methods.values()))
    Console(width=120).print(table)


def own_cases() -> list[Case]:
    """Return the cases without a folder: simulated devices, and the tiny model."""
    tiny = find_models(TINY, ENGINE)
    simulated = replace(tiny, engine="callable", files=simulated_sd21.MODELS)
    sleeps = {"ms_per_row": MS_PER_ROW}
    name = f"simulated devices, {MS_PER_ROW:g} ms per row"
    return [
        Case(name, simulated, sleeps, "cpu:0,1", 7.5),
        Case(name, simulated, sleeps, "cpu:0-3", 7.5),
        Case(name, simulated, sleeps, "cpu:0,1", 1.0),
        Case("the tiny model", tiny, {"threads": 1}, "cpu:0,1", 7.5),
    ]


@app.command()
def main(
    models: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODELS]", help="Folder of ONNX models. [default: simulated devices and the tiny model]"
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each method.")] = 3,
    pictures: Annotated[
        list[int] | None, typer.Option(min=1, help="Number of pictures; repeatable. [default: 1, 2, 3, 4, 8]")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks, including the workers'.")] = False,
) -> None:
    """Print how long several pictures take on several devices, distributed in three ways."""
    if models is None:
        cases = own_cases()
    else:
        folder = find_models(models, ENGINE)
        cases = [Case(str(models), folder, {"threads": 1, **folder.engine_options}, "cpu:0,1", 7.5)]
    print(f"{os.cpu_count()} cores, medians of {rounds} rounds")
    for case in cases:
        show(case, measure(case, pictures or [1, 2, 3, 4, 8], steps, rounds), steps)


if __name__ == "__main__":
    run_app(app, "measure_pictures.py")

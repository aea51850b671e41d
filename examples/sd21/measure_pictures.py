"""Measure how several pictures spread over several devices best.

    python examples/sd21/measure_pictures.py                            simulated devices, then the tiny model
    python examples/sd21/measure_pictures.py MODELS --steps 4           the models of a folder, on cpu:0,1

Three ways, which alternate:

- one by one: a picture at a time, its two rows on two devices (guidance-parallel);
- together: the rows of all pictures in one batch, spread over all devices, as main.py does;
- apart: a runner a device, each of which draws whole pictures from a common list (picture-parallel).

Each gives the seconds until the first picture is there, and until all are.
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
from commands import new_app, run_app
from model_folder import TINY, ModelFolder, find_models
from pipeline import Request, TextToImage
from rich.console import Console
from rich.table import Table
from scheduler import DDIMScheduler
from tokenizer import ClipTokenizer

from ascend_parallel import ParallelPredictUtils, parse_devices

PROMPT = "a red circle on white"
MS_PER_ROW = 40.0  # of the simulated devices: what a chip of tens of TFLOPS takes for a row of the real U-Net
ENGINE = "onnxruntime"

app = new_app()


class Case(NamedTuple):
    """What is measured: which models, on which devices, with which guidance."""

    name: str
    folder: ModelFolder
    options: dict[str, Any]
    devices: str
    guidance: float


class Times(NamedTuple):
    """Seconds from the beginning."""

    first_s: float
    all_s: float


Draw = Callable[[int], Times]


@contextmanager
def open_pipeline(case: Case, devices: str, steps: int) -> Iterator[TextToImage]:
    """Give a pipeline on these devices, and close its runner."""
    scheduler = DDIMScheduler.from_config(case.folder.path / "scheduler" / "scheduler_config.json")
    scheduler.set_timesteps(steps)
    tokenizer = ClipTokenizer.from_folder(case.folder.path / "tokenizer")
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
    took_s = time.perf_counter() - started_s
    return Times(took_s, took_s)


def draw_apart(pipelines: Sequence[TextToImage], guidance: float, pictures: int) -> Times:
    """Have each pipeline draw the next picture that none has drawn yet."""
    seeds = iter(range(pictures))
    taking = threading.Lock()
    ends_s: list[float] = []

    def work(pipeline: TextToImage) -> None:
        while True:
            with taking:
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
    """Return the medians of each number of pictures and each way."""
    shared: dict[str, dict[int, list[Times]]] = {"one by one": {}, "together": {}}
    with open_pipeline(case, case.devices, steps) as pipeline:
        ways: dict[str, Draw] = {
            "one by one": lambda count: draw_one_by_one(pipeline, case.guidance, count),
            "together": lambda count: draw_together(pipeline, case.guidance, count),
        }
        _repeat(ways, shared, counts, rounds)
    apart: dict[str, dict[int, list[Times]]] = {"apart": {}}
    with ExitStack() as stack:
        each = [stack.enter_context(open_pipeline(case, str(device), steps)) for device in parse_devices(case.devices)]
        _repeat({"apart": lambda count: draw_apart(each, case.guidance, count)}, apart, counts, rounds)
    found = {**shared, **apart}
    return {count: {way: _median(taken[count]) for way, taken in found.items()} for count in counts}


def _repeat(
    ways: dict[str, Draw], found: dict[str, dict[int, list[Times]]], counts: Sequence[int], rounds: int
) -> None:
    """Let the ways alternate; what comes before the first round is not counted."""
    for draw in ways.values():
        draw(1)
    for _ in range(rounds):
        for count in counts:
            for way, draw in ways.items():
                found[way].setdefault(count, []).append(draw(count))


def _median(taken: Sequence[Times]) -> Times:
    return Times(*(statistics.median(values) for values in zip(*taken, strict=True)))


def show(case: Case, found: dict[int, dict[str, Times]], steps: int) -> None:
    """Print a case's table."""
    print(
        f"\n{case.name} on {case.devices}, guidance {case.guidance:g}, {steps} steps: s to the first picture / to all"
    )
    table = Table()
    for title in ("pictures", *next(iter(found.values()))):
        table.add_column(title, justify="right")
    for count, ways in found.items():
        table.add_row(str(count), *(f"{times.first_s:.3g} / {times.all_s:.3g}" for times in ways.values()))
    Console(width=120).print(table)


def own_cases() -> list[Case]:
    """Return what is measured without a folder: simulated devices, and the tiny model."""
    tiny = find_models(TINY, ENGINE)
    simulated = replace(tiny, engine="callable", files=simulated_sd21.MODELS)
    sleeps = {"ms_per_row": MS_PER_ROW}
    name = f"simulated devices, {MS_PER_ROW:g} ms a row"
    return [
        Case(name, simulated, sleeps, "cpu:0,1", 7.5),
        Case(name, simulated, sleeps, "cpu:0-3", 7.5),
        Case(name, simulated, sleeps, "cpu:0,1", 1.0),
        Case("the tiny model", tiny, {"threads": 1}, "cpu:0,1", 7.5),
    ]


@app.command()
def main(
    models: Annotated[
        Path | None, typer.Argument(metavar="[MODELS]", help="A folder of ONNX models. [default: see above]")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="How often each way has its turn.")] = 3,
    pictures: Annotated[list[int] | None, typer.Option(min=1, help="Repeat it. [default: 1, 2, 3, 4, 8]")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks, the worker's too.")] = False,
) -> None:
    """Print how long several pictures take on several devices, spread in three ways."""
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

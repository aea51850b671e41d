"""Text to image with Stable Diffusion 2.1 on several devices.

    python examples/sd21/main.py                                  four pictures with the tiny model, on cpu:0,1
    python examples/sd21/main.py --prompt "a blue ring on pink" --output ring.png
    python examples/sd21/main.py --models DIR --prompt "..."      with the models of a folder, such as the real ones

An error is one line on stderr; its class determines the exit code. --debug prints tracebacks.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
import typer
from commands import TINY, need_packages, new_app, run_app
from numpy.typing import NDArray
from pictures import choose_files, make_folder, save
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ascend_parallel import ParallelPredictUtils, UsageError, parse_devices
from ascend_parallel.diffusion.model_folder import ModelFolder, find_models

if TYPE_CHECKING:
    from text_to_image import Request

    from ascend_parallel.diffusion.scheduler import DDIMScheduler
    from ascend_parallel.diffusion.tokenizer import ClipTokenizer

TINY_PROMPTS = ["a red circle on white", "a blue square on pink", "a yellow cross on gray", "a purple ring on white"]
TINY_DEVICES = "cpu:0,1"
TINY_GUIDANCE = 4.0  # the value for which check_tiny.py checks it
GUIDANCE = 7.5  # diffusers' default
#: Module -> its package.
NEEDED = {"tokenizers": "tokenizers", "PIL": "pillow"}

app = new_app()


class Parts(NamedTuple):
    """The parts of a run, all checked; nothing is started."""

    folder: ModelFolder
    tokenizer: ClipTokenizer
    scheduler: DDIMScheduler
    request: Request
    files: list[Path]


@app.command()
def draw(
    prompt: Annotated[
        list[str] | None, typer.Option(help="What to draw; repeat the option for several pictures.")
    ] = None,
    num_images: Annotated[int, typer.Option(min=1, help="Pictures per prompt, each with its own seed.")] = 1,
    negative_prompt: Annotated[str, typer.Option(help="What not to draw.")] = "",
    steps: Annotated[int, typer.Option(help="Denoising steps; more steps are slower and finer.")] = 30,
    guidance_scale: Annotated[
        float | None,
        typer.Option(
            help=f"How closely to follow the prompt; 1 or less turns guidance off. [default: {GUIDANCE:g}; "
            f"{TINY_GUIDANCE:g} for the tiny model]"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the first picture; each further picture adds one.")] = 0,
    models: Annotated[
        Path,
        typer.Option(
            help="Folder of models, in the layout of diffusers' or optimum's export.", show_default="the tiny model"
        ),
    ] = TINY,
    devices: Annotated[
        str | None,
        typer.Option(
            help=f"Devices, such as ascend:0,1 or cpu:0,1. [default: {TINY_DEVICES} for the tiny model, else all "
            "devices of the machine's best type]"
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            help="mslite or onnxruntime; with mslite, model.onnx files are converted for the CPU if there are no "
            "model.mindir files. [default: by the models' files]"
        ),
    ] = None,
    worker_python: Annotated[
        str | None,
        typer.Option(help="Python interpreter of the workers, if the engine needs another one. [default: this one]"),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(help="Folder; or x.png for one picture, 'x-{}.png' for several. Missing folders are created."),
    ] = Path("out/pictures"),
    debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks, including the workers'.")] = False,
) -> None:
    """Draw pictures from text with Stable Diffusion 2.1, on several devices.

    Without options, the example's tiny model draws four pictures to out/pictures.
    """
    check_packages()
    folder = find_models(models, engine)
    tokenizer, scheduler = load_parts(folder, steps)
    request = make_request(folder, prompt, num_images, negative_prompt, guidance_scale, seed)
    parts = Parts(folder, tokenizer, scheduler, request, choose_files(output, request.prompts))
    devices = devices or default_devices(folder)
    if devices and folder.needs_conversion:
        parts = parts._replace(folder=convert(parts, devices, worker_python))
    runner = ParallelPredictUtils(
        parts.folder.files,
        devices=devices,
        engine=folder.engine,
        engine_options=parts.folder.engine_options,
        worker_python=worker_python,
    )
    make_folder(parts.files[0].parent)
    elapsed_s, pictures = run(runner, parts)
    save(pictures, parts.files)
    print(f"{folder.engine} on {', '.join(map(str, runner.devices))}, {steps} steps, seed {seed}")
    print(f"Total predict time = {elapsed_s:.3f} s")
    print(*parts.files, sep="\n")


def is_tiny(folder: ModelFolder) -> bool:
    """Whether this is the example's tiny model."""
    return folder.path.resolve() == TINY


def check_packages() -> None:
    """Check that the packages that only this example needs are installed; raises UsageError."""
    need_packages(NEEDED, "'ascend-parallel[sd]'")


def load_parts(folder: ModelFolder, steps: int) -> tuple[ClipTokenizer, DDIMScheduler]:
    """Read the tokenizer and the scheduler, with its time steps; raises UsageError."""
    tokenizer, scheduler = folder.read_tokenizer(), folder.read_sampler()
    try:
        scheduler.set_timesteps(steps)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return tokenizer, scheduler


def make_request(
    folder: ModelFolder,
    prompts: list[str] | None,
    num_images: int,
    negative_prompt: str,
    guidance_scale: float | None,
    seed: int,
) -> Request:
    """Fill in the defaults, which differ for the tiny model, and repeat each prompt.

    Raises:
        UsageError: if something is missing or invalid.
    """
    from text_to_image import Request

    if not prompts and not is_tiny(folder):
        raise UsageError("--prompt is missing: it says what to draw")
    if guidance_scale is None:
        guidance_scale = TINY_GUIDANCE if is_tiny(folder) else GUIDANCE
    if not math.isfinite(guidance_scale):
        raise UsageError(f"--guidance-scale is {guidance_scale}; expected a number such as {GUIDANCE}")
    if seed < 0:
        raise UsageError(f"--seed is {seed}; expected a whole number, at least 0")
    repeated = [text for text in prompts or TINY_PROMPTS for _ in range(num_images)]
    return Request(repeated, negative_prompt, guidance_scale, seed)


def default_devices(folder: ModelFolder) -> str | None:
    """Return two CPU workers for the tiny ONNX model and for models converted here; None: the runner chooses."""
    is_small = is_tiny(folder) and folder.engine == "onnxruntime"
    return TINY_DEVICES if is_small or folder.needs_conversion else None


def convert(parts: Parts, devices: str, worker_python: str | None) -> ModelFolder:
    """Convert the folder's ONNX files for MindSpore Lite on these devices; raises UsageError if they are not CPUs."""
    from convert_for_cpu import convert_folder, rows_per_device

    parsed_devices = parse_devices(devices)
    if any(device.type != "cpu" for device in parsed_devices):
        raise UsageError(
            f"{parts.folder.path} has only ONNX files, which this command converts for the CPU only; for {devices} "
            "convert them first (converter_lite --optimize=ascend_oriented)"
        )
    request = parts.request
    rows = {
        "text_encoder": len(set(request.texts)),
        "unet": len(request.texts),
        "vae_decoder": len(request.prompts),
    }
    rows_of_each = {name: rows_per_device(count, parsed_devices) for name, count in rows.items()}
    return convert_folder(parts.folder, rows_of_each, parts.tokenizer.length, worker_python or sys.executable)


def run(runner: ParallelPredictUtils, parts: Parts) -> tuple[float, NDArray[np.uint8]]:
    """Build the models and draw; return the seconds without the build, and the pictures."""
    from text_to_image import TextToImage

    with show_progress(len(parts.scheduler.timesteps)) as (progress, task), runner:
        pipeline = TextToImage(runner, parts.folder, parts.tokenizer, parts.scheduler)
        progress.update(task, description="drawing")
        started_s = time.perf_counter()
        pictures = pipeline.draw(parts.request, on_step=lambda: progress.advance(task))
        return time.perf_counter() - started_s, pictures


@contextmanager
def show_progress(steps: int) -> Iterator[tuple[Progress, Any]]:
    """Show a progress bar on stderr if that is a terminal; yield it and its task."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield progress, progress.add_task("building the models", total=steps)


def main() -> None:
    """Run the command line; exit with the error's exit code."""
    run_app(app, "main.py")


if __name__ == "__main__":
    main()

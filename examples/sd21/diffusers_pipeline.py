"""diffusers' StableDiffusionPipeline with its U-Net on all devices; everything else of diffusers is unchanged.

    python examples/sd21/diffusers_pipeline.py CHECKPOINT_DIR MODELS --prompt "..." --devices ascend:0,1

or in your own program, where MODELS is the export of the checkpoint by export_onnx.py::

    from parallel_unet import ParallelUNet

    with ParallelPredictUtils("MODELS/unet/model.onnx", devices="cpu:0,1") as runner:
        unet = ParallelUNet(runner, json.loads(Path("MODELS/unet/config.json").read_text()))
        pipeline = StableDiffusionPipeline.from_pretrained("CHECKPOINT_DIR", unet=unet)
        pipeline("a lighthouse in a storm").images[0].save("lighthouse.png")

Schedulers, callbacks, prompt weighting and latents are diffusers' own. Features that modify the U-Net itself
(ControlNet, LoRA, IP-Adapter, attention processors) are refused, because the U-Net is a file that was exported before.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from commands import need_packages, new_app, run_app
from pictures import choose_files, make_folder, save

from ascend_parallel import ParallelPredictUtils, UsageError
from ascend_parallel.diffusion.model_folder import find_models

if TYPE_CHECKING:
    from parallel_unet import ParallelUNet

#: Module -> its package.
NEEDED = {"torch": "torch", "diffusers": "diffusers", "transformers": "transformers", "PIL": "pillow"}
INSTALL = "torch diffusers transformers accelerate pillow"

app = new_app()


@app.command()
def draw(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT_DIR", help="Folder of a checkpoint saved by diffusers.")
    ],
    models: Annotated[
        Path, typer.Argument(metavar="MODELS", help="Its export by export_onnx.py, or a folder of MINDIR files.")
    ],
    prompt: Annotated[str, typer.Option(help="What to draw.")],
    devices: Annotated[
        str | None,
        typer.Option(help="Devices, such as ascend:0,1. [default: all devices of the machine's best type]"),
    ] = None,
    worker_python: Annotated[
        str | None, typer.Option(help="Python interpreter of the workers. [default: this one]")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Denoising steps.")] = 30,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    output: Annotated[Path, typer.Option(help="Folder, or a file x.png.")] = Path("out/pictures"),
    debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks, including the workers'.")] = False,
) -> None:
    """Draw a picture with diffusers' pipeline, with the U-Net on all devices."""
    need_packages(NEEDED, INSTALL)
    files = choose_files(output, [prompt])
    if not (checkpoint / "model_index.json").is_file():
        raise UsageError(f"{checkpoint} has no model_index.json; expected a folder saved by diffusers")
    folder = find_models(models, None)
    runner = ParallelPredictUtils(
        folder.files["unet"],
        devices=devices,
        engine=folder.engine,
        engine_options=folder.engine_options,
        worker_python=worker_python,
    )
    make_folder(files[0].parent)
    with runner:
        pictures = draw_with(runner, checkpoint, folder.settings["unet"], prompt, steps, seed)
    save((pictures * 255).round().astype("uint8"), files)
    print(*files, sep="\n")


def draw_with(
    runner: ParallelPredictUtils, checkpoint: Path, settings: Mapping[str, Any], prompt: str, steps: int, seed: int
) -> Any:
    """Return one picture, (1, height, width, 3) in 0..1, drawn with the runner's U-Net and its ``settings``."""
    import torch
    from parallel_unet import ParallelUNet

    pipeline = load_pipeline(checkpoint, ParallelUNet(runner, settings))
    noise = torch.Generator().manual_seed(seed)
    return pipeline(prompt, num_inference_steps=steps, generator=noise, output_type="np").images


def load_pipeline(checkpoint: Path, unet: ParallelUNet) -> Any:
    """Return a checkpoint's pipeline with another U-Net; raises UsageError if the checkpoint cannot be read."""
    from diffusers import StableDiffusionPipeline

    try:
        return StableDiffusionPipeline.from_pretrained(checkpoint, unet=unet, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UsageError(f"{checkpoint} is not a checkpoint that diffusers can load: {error}") from error


if __name__ == "__main__":
    run_app(app, "diffusers_pipeline.py")

"""Export a Stable Diffusion 2.1 checkpoint of diffusers to ONNX, in the layout that main.py reads.

    python examples/sd21/export_onnx.py CHECKPOINT_DIR OUT
    python examples/sd21/export_onnx.py --random OUT          the real size with random weights, 5 GB

The weights of each model are in one file beside it (model.onnx_data), which engines can map. Each model is run once by
ONNX Runtime and compared with torch. OUT appears when all models are complete.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from checkpoint import Checkpoint, RandomSD21, Source, unet_settings
from commands import need_packages, new_app, run_app

from ascend_parallel import AscendParallelError, DiskError, UsageError
from ascend_parallel.diffusion.model_folder import MODELS

if TYPE_CHECKING:
    from networks import Network

#: Module -> its package.
NEEDED = {name: name for name in ("torch", "diffusers", "transformers", "onnx", "onnxruntime", "numpy")}
INSTALL = "torch diffusers transformers accelerate onnx onnxruntime"
BYTES = 4  # a float32
SIZE_FACTOR = 1.05  # includes the graphs, and the gaps between weights
TRACED_ROWS = 2  # for an open batch; the comparison uses another number of rows
#: The accepted difference between ONNX Runtime and torch, relative to the largest number: float32 sums differ in order.
TOLERANCE = 1e-3

app = new_app()


@app.command()
def export(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="[CHECKPOINT_DIR] OUT", help="Folder saved by diffusers, and the folder to write."),
    ],
    batch: Annotated[
        int | None, typer.Option(min=1, help="Fixed batch size of the models. [default: any batch size]")
    ] = None,
    timestep_per_row: Annotated[
        bool,
        typer.Option(
            "--timestep-per-row",
            help="The U-Net takes a time step for each row, so that a server joins pictures at different steps in one "
            "batch. [default: one for all rows]",
        ),
    ] = False,
    random: Annotated[
        bool,
        typer.Option("--random", help="Use random weights at Stable Diffusion 2.1's size instead of a checkpoint."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print tracebacks.")] = False,
) -> None:
    """Export a Stable Diffusion 2.1 checkpoint of diffusers to ONNX, for main.py --models OUT."""
    need_packages(NEEDED, INSTALL)
    if len(folders) != 2 - random:
        expected = "--random OUT" if random else "CHECKPOINT_DIR OUT, or --random OUT"
        raise UsageError(f"got {len(folders)} folders ({', '.join(map(str, folders))}); expected {expected}")
    source = RandomSD21() if random else Checkpoint(folders[0])
    export_folder(source, folders[-1], batch, is_timestep_per_row=timestep_per_row)
    print(f'python examples/sd21/main.py --models {folders[-1]} --prompt "..."')


def export_folder(source: Source, out: Path, batch: int | None, *, is_timestep_per_row: bool = False) -> None:
    """Export the three models, one after the other, with their settings and tokenizer.

    Args:
        source: the source of the models.
        out: a folder that does not exist, or is empty; it appears when it is complete.
        batch: the batch size of the models; None for any.
        is_timestep_per_row: whether the U-Net takes a time step for each row, or one for all.

    Raises:
        UsageError: if ``out`` exists and is not empty.
        DiskError: if it is not writable, or the disk does not have enough free space.
        AscendParallelError: if a model computes other numbers than torch.
    """
    from networks import make_network

    with _new_folder(out, int(source.count_parameters() * BYTES * SIZE_FACTOR)) as temporary:
        source.write_settings_and_tokenizer(temporary)
        settings = unet_settings(source)
        for name in MODELS:
            (temporary / name).mkdir(exist_ok=True)
            started_s = time.perf_counter()
            options = {"rows": batch or TRACED_ROWS, "is_timestep_per_row": is_timestep_per_row}
            network = make_network(name, source.load(name).requires_grad_(False), settings, **options)
            expected, feeds = _export_one(network, temporary / name / "model.onnx", is_batch_open=batch is None)
            del network
            gc.collect()  # frees torch's copy of the weights before ONNX Runtime loads its own
            difference = _compare(name, temporary / name / "model.onnx", feeds, expected)
            size_mb = sum(file.stat().st_size for file in (temporary / name).iterdir()) / 1e6
            elapsed_s = time.perf_counter() - started_s
            print(
                f"{name}: {size_mb:.0f} MB, {elapsed_s:.0f} s; difference from torch {difference:.1e} of the largest",
                flush=True,
            )


Arrays = Mapping[str, np.ndarray[Any, Any]]


def _export_one(network: Network, file: Path, *, is_batch_open: bool) -> tuple[Arrays, Arrays]:
    """Export one model; return torch's outputs and their inputs."""
    from networks import write_onnx
    from weights_file import gather_weights

    try:
        expected = write_onnx(network, file, is_batch_open=is_batch_open)
        gather_weights(file)
    except OSError as error:
        raise DiskError(f"{file.parent} could not be written: {error.strerror or error}") from error
    return (
        {key: tensor.numpy() for key, tensor in expected.items()},
        {key: tensor.numpy() for key, tensor in network.inputs.items()},
    )


def _compare(name: str, file: Path, feeds: Arrays, expected: Arrays) -> float:
    """Run a model with ONNX Runtime; return the largest difference from torch, relative to the largest number.

    A model with an open batch is run with one row, because it was traced with two.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    rows = 1 if isinstance(session.get_inputs()[0].shape[0], str) else None
    feeds_of_rows = {key: array[:rows] for key, array in feeds.items()}
    difference = 0.0
    for key, actual in zip(expected, session.run(list(expected), feeds_of_rows), strict=True):
        expected_rows = expected[key][:rows]
        largest = abs(expected_rows).max()
        if not np.isfinite(largest):
            raise AscendParallelError(
                f"{name} computes numbers in torch that are not finite ({key}): are its weights complete?"
            )
        difference = max(difference, float(abs(actual - expected_rows).max() / largest))
    if not difference <= TOLERANCE:
        raise AscendParallelError(
            f"the exported {name} computes other numbers than torch: they differ by {difference:.1e} of the largest, "
            f"more than {TOLERANCE:g}"
        )
    return difference


@contextmanager
def _new_folder(out: Path, size_bytes: int) -> Iterator[Path]:
    """Yield a temporary folder beside ``out``, which is renamed at the end, and removed after an error."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} exists and is not a folder; expected a new folder, or an empty one")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} exists and is not empty; expected a new folder, or an empty one")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(out.parent).free
        if free_bytes < size_bytes:
            raise DiskError(
                f"{out} needs {size_bytes / 1e9:.1f} GB, and {out.absolute().parent} has {free_bytes / 1e9:.1f} GB "
                "free; free some disk space, or choose another folder"
            )
        with tempfile.TemporaryDirectory(
            dir=out.parent, prefix=f".{out.name}-", ignore_cleanup_errors=True
        ) as temporary:
            yield Path(temporary)
            Path(temporary).chmod(0o755)  # a temporary folder is private by default
            Path(temporary).replace(out)
    except DiskError:
        raise
    except OSError as error:
        raise DiskError(f"{out} could not be written: {error.strerror or error}") from error


if __name__ == "__main__":
    run_app(app, "export_onnx.py")

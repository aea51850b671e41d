"""Export a Stable Diffusion 2.1 checkpoint of diffusers to ONNX, in the layout that main.py reads.

    python examples/sd21/export_onnx.py CHECKPOINT_DIR OUT
    python examples/sd21/export_onnx.py --random OUT          the real size with random weights, 5 GB

Each model's weights lie in one file beside it (model.onnx_data), which engines map. Every model is run once by ONNX
Runtime and compared with torch before OUT is there.
"""

from __future__ import annotations

import gc
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from checkpoint import Checkpoint, RandomSD21, Source, unet_settings
from commands import need_packages, new_app, run_app
from model_folder import MODELS

from ascend_parallel import AscendParallelError, DiskError, UsageError

#: Module -> the package that has it.
NEEDED = {name: name for name in ("torch", "diffusers", "transformers", "onnx", "onnxruntime", "numpy")}
INSTALL = "torch diffusers transformers accelerate onnx onnxruntime"
BYTES = 4  # a float32
SPARE = 1.05  # the graphs, and the gaps between weights
TRACED_ROWS = 2  # of an open batch: another number than the one that it is tried with
#: How far ONNX Runtime may be from torch, as a share of the largest number: float32 sums in another order.
TOLERANCE = 1e-3

app = new_app()


@app.command()
def export(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="[CHECKPOINT_DIR] OUT", help="What diffusers saved, and the folder to write."),
    ],
    batch: Annotated[
        int | None, typer.Option(min=1, help="Rows that each model takes at a time. [default: any number]")
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="Take no checkpoint, but random weights at Stable Diffusion 2.1's size.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Export a Stable Diffusion 2.1 checkpoint of diffusers to ONNX, for main.py --models OUT."""
    need_packages(NEEDED, INSTALL)
    if len(folders) != 2 - random:
        wanted = "--random OUT" if random else "CHECKPOINT_DIR OUT, or --random OUT"
        raise UsageError(f"got {len(folders)} folders ({', '.join(map(str, folders))}); expected {wanted}")
    source = RandomSD21() if random else Checkpoint(folders[0])
    export_folder(source, folders[-1], batch)
    print(f'python examples/sd21/main.py --models {folders[-1]} --prompt "..."')


def export_folder(source: Source, out: Path, batch: int | None) -> None:
    """Export the three models, one after the other, and write what belongs beside them.

    Args:
        source: where they come from.
        out: a folder that is not there, or is empty; it appears when everything is in it.
        batch: rows that the models take; None for any number.

    Raises:
        UsageError: ``out`` is there already.
        DiskError: it cannot be written to, or the disk has too little room.
        AscendParallelError: a model gives other numbers than torch's.
    """
    with _new_folder(out, int(source.count_parameters() * BYTES * SPARE)) as part:
        source.write_beside(part)
        settings = unet_settings(source)
        for name in MODELS:
            (part / name).mkdir(exist_ok=True)
            started_s = time.perf_counter()
            wanted, feeds = _export_one(name, source.load(name), settings, part / name / "model.onnx", batch)
            gc.collect()  # torch's copy of the weights goes before ONNX Runtime makes its own
            far = _compare(name, part / name / "model.onnx", feeds, wanted)
            size_mb = sum(file.stat().st_size for file in (part / name).iterdir()) / 1e6
            took_s = time.perf_counter() - started_s
            print(f"{name}: {size_mb:.0f} MB, {took_s:.0f} s; farthest from torch {far:.1e} of the largest", flush=True)


Arrays = Mapping[str, np.ndarray[Any, Any]]


def _export_one(name: str, model: Any, unet: Mapping[str, Any], file: Path, batch: int | None) -> tuple[Arrays, Arrays]:
    """Export one model; return what torch computes, and of which inputs."""
    from networks import make_network, write_onnx
    from weights_file import gather_weights

    network = make_network(name, model.requires_grad_(False), unet, batch or TRACED_ROWS)
    try:
        wanted = write_onnx(network, file, is_batch_open=batch is None)
        gather_weights(file)
    except OSError as error:
        raise DiskError(f"{file.parent} could not be written: {error.strerror or error}") from error
    return (
        {key: tensor.numpy() for key, tensor in wanted.items()},
        {key: tensor.numpy() for key, tensor in network.inputs.items()},
    )


def _compare(name: str, file: Path, feeds: Arrays, wanted: Arrays) -> float:
    """Run a model by ONNX Runtime; return its largest difference from torch, as a share of the largest number.

    One that takes any number of rows is given one, since it was traced with two.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    rows = 1 if isinstance(session.get_inputs()[0].shape[0], str) else None
    given = {key: array if key == "timestep" else array[:rows] for key, array in feeds.items()}
    far = 0.0
    for key, found in zip(wanted, session.run(list(wanted), given), strict=True):
        like = wanted[key][:rows]
        largest = abs(like).max()
        if not np.isfinite(largest):
            raise AscendParallelError(
                f"{name} gives numbers in torch that are not finite ({key}): are its weights whole?"
            )
        far = max(far, float(abs(found - like).max() / largest))
    if not far <= TOLERANCE:
        raise AscendParallelError(
            f"{name} as exported gives other numbers than in torch: they differ by {far:.1e} of the largest, more than "
            f"{TOLERANCE:g}"
        )
    return far


@contextmanager
def _new_folder(out: Path, size_bytes: int) -> Iterator[Path]:
    """Give a folder beside ``out`` that takes its name at the end, and is gone after an error."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is there already and is no folder; expected a new one, or an empty one")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is there already and is not empty; expected a new folder, or an empty one")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(out.parent).free
        if free_bytes < size_bytes:
            raise DiskError(
                f"{out} will take {size_bytes / 1e9:.1f} GB, and {out.absolute().parent} has {free_bytes / 1e9:.1f} GB "
                "free; make room, or choose another folder"
            )
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-", ignore_cleanup_errors=True) as part:
            yield Path(part)
            Path(part).chmod(0o755)  # as others would see it, not for the owner alone
            Path(part).replace(out)
    except DiskError:
        raise
    except OSError as error:
        raise DiskError(f"{out} could not be written: {error.strerror or error}") from error


if __name__ == "__main__":
    run_app(app, "export_onnx.py")

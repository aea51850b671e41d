"""``ascend-parallel run``: one batch through a model, from a file into a file."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ascend_parallel.errors import DiskError, UsageError

from .arguments import (
    Devices,
    EngineName,
    EngineOptions,
    Model,
    ShareWeights,
    WorkerPython,
    read_batch_axes,
    read_options,
)


def run(
    model: Model,
    input_file: Annotated[Path, typer.Option("--input", metavar="IN.npz", help="The inputs, by name.")],
    output_file: Annotated[Path, typer.Option("--output", metavar="OUT.npz", help="Where the outputs go, by name.")],
    devices: Devices = None,
    engine: EngineName = None,
    engine_option: EngineOptions = None,
    worker_python: WorkerPython = None,
    instances: Annotated[int, typer.Option(help="Times that each device runs the model at once.")] = 1,
    share_weights: ShareWeights = False,
    chunk_size: Annotated[int | None, typer.Option(help="Rows a task; by default one task for each worker.")] = None,
    batch_axis: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=AXIS", help="Where the rows of an input or output are; none: not sliced."),
    ] = None,
) -> None:
    """Run a batch through a model, over all devices."""
    from ascend_parallel import ParallelPredictUtils

    check_output(output_file)
    inputs = read_arrays(input_file)
    runner = ParallelPredictUtils(
        model,
        devices=devices,
        engine=engine,
        engine_options=read_options(engine_option),
        worker_python=worker_python,
        instances=instances,
        share_weights=share_weights,
        chunk_size=chunk_size,
        batch_axes=read_batch_axes(batch_axis),
    )
    with runner:
        started_s = time.perf_counter()
        outputs = runner.predict(inputs)
        took_s = time.perf_counter() - started_s
    write_arrays(output_file, outputs)
    used = ", ".join(map(str, runner.devices))
    print(f"predicted in {took_s:.3f} s on {used}; {output_file} holds:", file=sys.stderr)
    for name, array in outputs.items():
        print(f"  {name}: {array.dtype} {array.shape}", file=sys.stderr)


def check_output(path: Path) -> None:
    """Check, before anything is started, that an output file can be written there."""
    if path.suffix != ".npz":
        raise UsageError(f"--output {path} does not end in .npz; expected a name such as out.npz")
    folder = path.parent
    if not folder.is_dir():
        raise UsageError(f"--output {path}: there is no folder {folder}; make it first")
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"--output {path} cannot be written: check the permissions of {folder}")


def read_arrays(path: Path) -> Mapping[str, Any]:
    """Return the arrays of an .npz file, by name.

    Raises:
        UsageError: there is no such file, it is no .npz file, or it holds Python objects.
    """
    if not path.is_file():
        raise UsageError(f"--input {path}: there is no such file; expected an .npz file with the model's inputs")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise UsageError(
                    f"--input {path} is one array without a name; save it with numpy.savez(file, NAME=array)"
                )
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"--input {path} is not an .npz file of plain arrays: {error}") from None


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an .npz file, whole or not at all.

    Raises:
        DiskError: it could not be written; nothing is left of it.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".npz", delete=False) as file:
            temporary = Path(file.name)
            try:
                np.savez(file, **arrays)
                file.flush()
                temporary.chmod(0o666 & ~_umask())
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise DiskError(f"{path} could not be written: {error.strerror or error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

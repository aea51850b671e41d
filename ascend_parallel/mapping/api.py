"""``parallel_map``: run a pipeline over many files, from Python."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any

from ascend_parallel.devices import Device
from ascend_parallel.errors import UsageError

from .files import File, list_folder, name_files
from .outcome import Outcome
from .run import MapRun
from .settings import MapSettings

__all__ = ["parallel_map"]

#: With ordered results, at most this many outcomes wait for a slow file.
_MAX_AHEAD = 4096


def parallel_map(
    pipeline: str,
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    engine: str | None = None,
    devices: str | Iterable[str | Device] | None = None,
    instances_per_device: int = 1,
    batch_size: int = 1,
    options: Mapping[str, Any] | None = None,
    precision: str | None = None,
    predict_options: Mapping[str, Any] | None = None,
    pages: str = "separate",
    pattern: str = "*",
    recursive: bool = False,
    preprocess: str | None = None,
    postprocess: str | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    output_format: str = "files",
    save: str | Iterable[str] | None = None,
    resume: bool = False,
    retry_failed: bool = False,
    ordered: bool = True,
    timeout_s: float = 600.0,
    workers: str = "processes",
    share_weights: bool = False,
    worker_python: str | os.PathLike[str] | None = None,
    cluster: str | None = None,
    num_devices: int | None = None,
    name: str | None = None,
) -> Iterator[Outcome]:
    """Run files through a pipeline on all devices; yield an :class:`Outcome` for each file.

    ::

        for outcome in parallel_map("paddlex:doc_preprocessor.yaml", "imgs", devices="gpu:0,1", output_dir="out"):
            print(outcome.file, outcome.outputs if outcome.ok else outcome.error)

    The call itself checks the arguments. Workers start when the first outcome is requested. They end after the last
    outcome, or when the generator is closed. A file that fails does not stop the run: its outcome has ``ok`` False.

    Args:
        pipeline: ``"module:factory"`` (called in each worker with ``device="gpu:0"`` and the options; returns an object
            with ``predict(list_of_paths)``, or a callable), ``"paddlex:NAME_OR_CONFIG.yaml"``,
            ``"paddleocr:ClassName"``, ``"pipeline:CONFIG.yml"`` (a pipeline of ops; each file is a request), or an
            .onnx, .mindir or .om file.
        inputs: a folder, or paths (or any strings that the pipeline takes).
        engine: of a model file: "mslite", "onnxruntime", or ``"package.module:EngineClass"``; None: by its suffix.
        devices: such as ``"gpu:0,1,2,3"`` or ``"cpu:0,1"`` (two workers); None: all of the machine's best type.
        instances_per_device: workers on each device; of a model file, threads over one set of weights.
        batch_size: files that the pipeline is given at a time.
        options: keywords of the pipeline's constructor; of a model file, options of its engine.
        precision: of a model file: "fp32", "fp16", "bf16" or "int8"; what its engine cannot compute is refused.
        predict_options: keywords of the pipeline's ``predict``.
        pages: what becomes of the pages of a document: "separate", a result each; "restructured", with tables merged
            across pages and titles in their levels (PaddleOCR-VL); "joined", one result (also PP-StructureV3 and
            PP-DocTranslation, whose Markdown texts are joined).
        pattern: which files of the folder.
        recursive: those in its sub-folders, too.
        preprocess: for a model file, ``"module:function"``: path -> an array, or a dict of input name -> array, without
            the batch axis; None: the files are .npy or .npz. For a pipeline of ops: path -> the inputs of its request;
            None: the arrays of an .npz file, else ``path`` and ``data`` (bytes, or the array of an .npy file).
        postprocess: for a model file, ``"module:function"``: a dict of output name -> array (one row) -> the result;
            None: the dict is the result. For a pipeline of ops: its outputs -> the result.
        output_dir: the folder for results and ``manifest.jsonl``; None: results are returned in ``outcome.results``,
            with the types of JSON, and arrays and images as numpy arrays.
        output_format: "files": one file per result; "jsonl": one line of ``results.jsonl`` per input file.
        save: formats in which PaddleX's results save themselves, such as ``"json,img,markdown"`` or ``"all"``: each
            input file gets a folder of its own, and each page a folder in it. What results lack is a UserWarning, once.
        resume: continue an interrupted run: files in its manifest are neither processed nor yielded.
        retry_failed: with ``resume``: process the failed files again.
        ordered: yield outcomes in the order of the inputs; else in the order of completion.
        timeout_s: time limit per file; a worker that exceeds it is killed.
        workers: "processes"; or, for a model file, "threads" of this process, which share one set of weights.
        share_weights: of a model file, whether worker processes on CPUs map one set of weights instead of loading one
            each.
        worker_python: the Python interpreter of the workers, if the pipeline needs another one.
        cluster: "ray" or "ray=ADDRESS": run on the hosts of a Ray cluster, with files on storage that all of them
            share; ``devices`` is a type then, such as ``"ascend:*"``. None: on this machine.
        num_devices: how many devices of the cluster; None: all, those of hosts that join later included.
        name: which pipeline of ``"pipeline:CONFIG.yml"``; None: the only one.

    Yields:
        An :class:`Outcome` for each file.

    Raises:
        UsageError: if an argument is invalid; nothing was started.
        WorkerError: if the pipeline could not be built, or no device is left.
        DiskError: if the output folder accepts no more files.
    """
    input_dir = inputs if isinstance(inputs, (str, os.PathLike)) else None
    settings = MapSettings.pick(locals(), max_ahead=_MAX_AHEAD if ordered else None)
    files = _list(inputs, pattern, recursive, output_dir)
    run = MapRun(files, settings)
    return _in_order(run) if ordered else _as_they_come(run)


def _list(
    inputs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    pattern: str,
    recursive: bool,
    output_dir: str | os.PathLike[str] | None,
) -> list[File]:
    """Return the files of a folder or of a list of paths."""
    if isinstance(inputs, (str, os.PathLike)):
        return list_folder(inputs, pattern, recursive=recursive, leave_out=output_dir)
    if recursive or pattern != "*":
        raise UsageError("pattern and recursive apply to a folder, but the inputs are a list of files: leave them out")
    return name_files(inputs)


def _warned(run: MapRun) -> Generator[list[Outcome], None, None]:
    """Yield the outcomes of a run, and warn of what its workers have to say, each once."""
    told = 0
    with contextlib.closing(run.run()) as bundles:
        for outcomes in bundles:
            for note in list(run.notes)[told:]:
                warnings.warn(note, stacklevel=4)
            told = len(run.notes)
            yield outcomes


def _as_they_come(run: MapRun) -> Iterator[Outcome]:
    with contextlib.closing(_warned(run)) as bundles:
        for outcomes in bundles:
            yield from outcomes


def _in_order(run: MapRun) -> Iterator[Outcome]:
    waiting: dict[str, Outcome] = {}
    order = iter(run.files)
    next_file = next(order, None)
    with contextlib.closing(_warned(run)) as bundles:
        for outcomes in bundles:
            waiting.update((outcome.file, outcome) for outcome in outcomes)
            while next_file is not None and next_file.name in waiting:
                yield waiting.pop(next_file.name)
                next_file = next(order, None)

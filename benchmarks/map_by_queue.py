"""A folder of files by the scheme of PaddleX's documentation: the baseline of benchmarks/map.py.

    python benchmarks/map_by_queue.py PIPELINE --input_dir DIR --output_dir OUT --instances 2 [--batch_size 4]

A queue of a ``multiprocessing.Manager`` contains all paths. One process per instance builds its pipeline, takes paths
with ``get_nowait`` until the queue is empty, runs them in batches, and writes each result to a JSON file with the
input's stem as its name. PIPELINE is ``file.py:factory`` or ``paddlex:CONFIG.yaml``. In addition to the documentation,
``--keep lines`` appends the results to one JSON Lines file, and ``--keep values`` returns them to the parent through a
second queue.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import queue
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def open_pipeline(spec: str) -> Callable[[list[str]], Iterable[Any]]:
    """Return the callable that gets a list of paths."""
    library, _, name = spec.partition(":")
    if library == "paddlex":
        from paddlex import create_pipeline

        return create_pipeline(pipeline=name, device="cpu").predict
    module_spec = importlib.util.spec_from_file_location("pipelines", library)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return getattr(module, name)(device="cpu:0")


def save(result: Any, output_dir: str) -> None:
    """Write one result to its own file."""
    path = Path(output_dir) / f"{Path(result['input_path']).stem}.json"
    if hasattr(result, "save_to_json"):
        result.save_to_json(str(path))
    else:
        path.write_text(json.dumps(result))


def work(arguments: argparse.Namespace, tasks: Any, results: Any) -> None:
    """Process paths until the queue is empty."""
    predict = open_pipeline(arguments.pipeline)
    lines = os.open(Path(arguments.output_dir) / "results.jsonl", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    keep = {
        "files": lambda result: save(result, arguments.output_dir),
        "lines": lambda result: os.write(lines, (json.dumps(result) + "\n").encode()),
        "values": lambda result: results.put(result),
    }[arguments.keep]
    batch: list[str] = []
    is_queue_empty = False
    while not is_queue_empty:
        try:
            batch.append(tasks.get_nowait())
        except queue.Empty:
            is_queue_empty = True
        if batch and (is_queue_empty or len(batch) == arguments.batch_size):
            for result in predict(batch):
                keep(result)
            batch = []


def main() -> None:
    """Process a folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pipeline")
    parser.add_argument("--input_dir", required=True)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--instances", type=int, default=1)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--keep", choices=("files", "lines", "values"), default="files")
    arguments = parser.parse_args()
    if arguments.pipeline.startswith("paddlex:"):
        import paddlex  # noqa: F401 - imported before the fork, as in the documentation's scripts
    Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    with multiprocessing.Manager() as manager:
        tasks, results = manager.Queue(), manager.Queue()
        paths = sorted(Path(arguments.input_dir).iterdir())
        for path in paths:
            tasks.put(str(path))
        processes = [
            multiprocessing.Process(target=work, args=(arguments, tasks, results)) for _ in range(arguments.instances)
        ]
        for process in processes:
            process.start()
        returned = [results.get() for _ in paths] if arguments.keep == "values" else []
        for process in processes:
            process.join()
        print(f"{len(returned) if arguments.keep == 'values' else len(paths)} files")


if __name__ == "__main__":
    main()

"""A folder of files by the scheme of PaddleX's documents: what ``ascend-parallel map`` is measured against.

    python benchmarks/map_by_queue.py PIPELINE --input_dir DIR --output_dir OUT --instances 2 [--batch_size 4]

A queue of a ``multiprocessing.Manager`` holds all paths. One process an instance builds its pipeline, pulls paths by
``get_nowait`` until there are none, runs them in batches, and writes each result to a JSON file named by the input's
stem. PIPELINE is ``file.py:factory`` or ``paddlex:CONFIG.yaml``. Beyond the documents: ``--keep lines`` appends results
to one JSON-lines file, ``--keep values`` hands them back to the parent through a second such queue.
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
    """Return what is called with paths."""
    place, _, name = spec.partition(":")
    if place == "paddlex":
        from paddlex import create_pipeline

        return create_pipeline(pipeline=name, device="cpu").predict
    found = importlib.util.spec_from_file_location("pipelines", place)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return getattr(module, name)(device="cpu:0")


def save(result: Any, output_dir: str) -> None:
    """Write one result to a file of its own."""
    path = Path(output_dir) / f"{Path(result['input_path']).stem}.json"
    if hasattr(result, "save_to_json"):
        result.save_to_json(str(path))
    else:
        path.write_text(json.dumps(result))


def work(arguments: argparse.Namespace, tasks: Any, results: Any) -> None:
    """Pull paths until there are none."""
    predict = open_pipeline(arguments.pipeline)
    lines = os.open(Path(arguments.output_dir) / "results.jsonl", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    keep = {
        "files": lambda result: save(result, arguments.output_dir),
        "lines": lambda result: os.write(lines, (json.dumps(result) + "\n").encode()),
        "values": lambda result: results.put(result),
    }[arguments.keep]
    batch: list[str] = []
    is_over = False
    while not is_over:
        try:
            batch.append(tasks.get_nowait())
        except queue.Empty:
            is_over = True
        if batch and (is_over or len(batch) == arguments.batch_size):
            for result in predict(batch):
                keep(result)
            batch = []


def main() -> None:
    """Run a folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pipeline")
    parser.add_argument("--input_dir", required=True)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--instances", type=int, default=1)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--keep", choices=("files", "lines", "values"), default="files")
    arguments = parser.parse_args()
    if arguments.pipeline.startswith("paddlex:"):
        import paddlex  # noqa: F401 - as the documents' scripts do, so that the processes need not
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
        handed_back = [results.get() for _ in paths] if arguments.keep == "values" else []
        for process in processes:
            process.join()
        print(f"{len(handed_back) if arguments.keep == 'values' else len(paths)} files")


if __name__ == "__main__":
    main()

"""The engines of ``ascend-parallel map``: files in, results saved or returned.

Both take one uint8 array and return one (see pipelines/payload.py). ``pipeline`` runs any pipeline, with one process
per instance, because a pipeline may not be thread-safe. ``modelfile`` runs a model file between two functions of the
user; its instances share weights if the instances of the inner engine do.
"""

from __future__ import annotations

import os
from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np

from ..pipelines.payload import RECORDS, Reply, pack_reply, pad, unpack_files
from .base import Arrays, Engine

#: The variable of the environment that holds the host's name on a cluster, which records name devices with.
HOST_VARIABLE = "ASCEND_PARALLEL_HOST"


class PipelineEngine(Engine):
    """A pipeline (see pipelines/opening.py).

    Options: ``pipeline_options`` (keyword arguments of its constructor), ``predict_options`` (those of ``predict``),
    ``pages`` (see pipelines/pages.py), ``batch_size`` (files per call of the pipeline), ``keep`` ("files", "lines" or
    "values") and, with "files", ``output_dir`` and maybe ``save``, the formats to save results in.
    """

    name = "pipeline"
    device_types: Tuple[str, ...] = ("ascend", "gpu", "xpu", "mlu", "gcu", "dcu", "iluvatar_gpu", "metax_gpu", "cpu")
    options = None
    may_run_in_threads = False  # nobody knows all libraries that a pipeline uses

    def __init__(self, model: str, device: Tuple[str, int], options: Dict[str, Any]) -> None:
        from ..pipelines.batches import BatchRunner
        from ..pipelines.opening import open_pipeline

        self._device = name_device(device)
        of_predict = {name: options[name] for name in ("predict_options", "pages") if name in options}
        self._batches = BatchRunner(open_pipeline(model, device, options["pipeline_options"], **of_predict), options)

    def set_device(self, device: Tuple[str, int]) -> None:
        """Report this device with the records."""
        self._device = name_device(device)

    def predict(self, names: Optional[Sequence[str]], inputs: Sequence[np.ndarray], destinations: Arrays) -> Arrays:
        """Run the files of a request through the pipeline; a file's error is in its record and is not raised."""
        records = self._batches.run(*unpack_files(inputs[0]))
        writer = self._batches.writer
        is_certain = self._batches.last_good is not None
        reply = pack_reply(Reply(self._device, records, is_certain, list(writer.notes), *writer.take()))
        writer.notes.clear()
        return {RECORDS: write_to_destination(reply, destinations.get(RECORDS))}


def name_device(device: Tuple[str, int]) -> str:
    """Return a device's name for records: ``cpu:0``, or ``node1/cpu:0`` on a cluster."""
    host = os.environ.get(HOST_VARIABLE)
    return "%s%s:%d" % ("" if host is None else host + "/", *device)


def has_room(destination: np.ndarray, size_bytes: int) -> bool:
    """Whether a destination takes so many bytes."""
    return destination.dtype == np.uint8 and destination.ndim == 1 and destination.size >= size_bytes


def write_to_destination(data: bytes, destination: Optional[np.ndarray]) -> np.ndarray:
    """Write bytes to the destination if they fit there; else return them as a new array."""
    if destination is None or not has_room(destination, len(data)):
        return pad(data)
    destination[: len(data)] = np.frombuffer(data, np.uint8)
    return destination

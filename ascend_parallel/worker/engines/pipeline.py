"""The engines of ``ascend-parallel map``: lists of files in, results kept or handed back.

Both take one uint8 array and return one (see pipelines/payload.py). ``pipeline`` runs any pipeline, one process an
instance, as nothing is known of its threads; ``modelfile`` runs a model file between two functions of the user's, and
its instances share the weights as those of the engine inside do.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np

from ..pipelines.payload import RECORDS, pack_records, pad, unpack_files
from .base import Arrays, Engine


class PipelineEngine(Engine):
    """A pipeline (see pipelines.py).

    Options: ``pipeline_options`` (keywords of its constructor), ``batch_size`` (files that it is given at a time),
    ``keep`` ("files", "lines" or "values") and, for files, ``output_dir``.
    """

    name = "pipeline"
    device_types = ("ascend", "gpu", "cpu")
    options = None

    def __init__(self, model: str, device: Tuple[str, int], options: Dict[str, Any]) -> None:
        from ..pipelines.batches import BatchRunner
        from ..pipelines.opening import open_pipeline

        self._device = "%s:%d" % device
        self._batches = BatchRunner(open_pipeline(model, device, options["pipeline_options"]), options)

    def set_device(self, device: Tuple[str, int]) -> None:
        """Report this device with the records."""
        self._device = "%s:%d" % device

    def predict(self, names: Optional[Sequence[str]], inputs: Sequence[np.ndarray], destinations: Arrays) -> Arrays:
        """Run the files of a request through the pipeline; never raises for a fault of a file's."""
        records = self._batches.run(*unpack_files(inputs[0]))
        answer = pack_records(self._device, records, *self._batches.writer.take())
        return {RECORDS: put(answer, destinations.get(RECORDS))}


def put(data: bytes, destination: Optional[np.ndarray]) -> np.ndarray:
    """Write bytes to the destination where they are wanted, if they fit there; else return an array of their own."""
    if destination is None or destination.dtype != np.uint8 or destination.ndim != 1 or destination.size < len(data):
        return pad(data)
    destination[: len(data)] = np.frombuffer(data, np.uint8)
    return destination

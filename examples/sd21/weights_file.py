"""Move an ONNX file's weights into one file beside it, which engines can map in place of reading it.

Needed where the weights are more than the 2 GB that an ONNX file can be; the exporter then leaves hundreds of files.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import onnx
from onnx import TensorProto
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

SMALLEST_BYTES = 1024  # what is smaller stays inside: sizes, axes, scalars
PAGE_BYTES = 4096  # each weight begins on a page of its own, so that it can be mapped


def gather_weights(file: Path) -> Path:
    """Move the weights of an ONNX file, and of the files that it names, into ``FILE_data``.

    Of those in files of their own one is in memory at a time.

    Args:
        file: such as ``unet/model.onnx``; written anew. The files that it named are deleted.

    Returns:
        The file with the weights: ``unet/model.onnx_data``, the name that optimum gives it.
    """
    model = onnx.load(file, load_external_data=False)
    data = file.with_name(f"{file.name}_data")
    with data.open("wb") as into:
        for tensor in model.graph.initializer:
            _move(tensor, file.parent, into, data.name)
    onnx.save(model, file)
    return data


def _move(tensor: TensorProto, folder: Path, into: BinaryIO, name: str) -> None:
    """Append one weight, and have its tensor point there."""
    if uses_external_data(tensor):
        piece = folder / ExternalDataInfo(tensor).location
        content = piece.read_bytes()
        piece.unlink()
    elif len(tensor.raw_data) >= SMALLEST_BYTES:
        content = tensor.raw_data
    else:
        return
    into.seek(-into.tell() % PAGE_BYTES, 1)  # the gap is a hole that reads as zeros
    where = {"location": name, "offset": str(into.tell()), "length": str(len(content))}
    into.write(content)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in where.items():
        tensor.external_data.add(key=key, value=value)

"""Moves an ONNX file's weights to one file beside it, which engines can map instead of reading it.

Needed for weights above 2 GB, the limit of an ONNX file: the exporter then writes hundreds of files.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import onnx
from onnx import TensorProto
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

SMALLEST_BYTES = 1024  # smaller tensors stay in the ONNX file: sizes, axes, scalars
PAGE_BYTES = 4096  # each weight starts on a page boundary, so that it can be mapped


def gather_weights(file: Path) -> Path:
    """Move the weights of an ONNX file, and of its external files, to ``FILE_data``.

    Only one external weight is in memory at a time.

    Args:
        file: such as ``unet/model.onnx``; it is rewritten. Its external files are deleted.

    Returns:
        The file with the weights: ``unet/model.onnx_data``, the name that optimum uses.
    """
    model = onnx.load(file, load_external_data=False)
    data = file.with_name(f"{file.name}_data")
    with data.open("wb") as output:
        for tensor in model.graph.initializer:
            _move(tensor, file.parent, output, data.name)
    onnx.save(model, file)
    return data


def _move(tensor: TensorProto, folder: Path, output: BinaryIO, name: str) -> None:
    """Append one weight to the output, and point its tensor to it."""
    if uses_external_data(tensor):
        weight_file = folder / ExternalDataInfo(tensor).location
        content = weight_file.read_bytes()
        weight_file.unlink()
    elif len(tensor.raw_data) >= SMALLEST_BYTES:
        content = tensor.raw_data
    else:
        return
    output.seek(-output.tell() % PAGE_BYTES, 1)  # the gap is a hole in the file that reads as zeros
    location = {"location": name, "offset": str(output.tell()), "length": str(len(content))}
    output.write(content)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in location.items():
        tensor.external_data.add(key=key, value=value)

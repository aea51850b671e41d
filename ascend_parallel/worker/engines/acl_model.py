"""What ACL tells of a loaded OM model: its inputs and outputs, and its gears."""

from __future__ import annotations

import re
from typing import Any, Callable, List, NamedTuple, Tuple

from .acl_process import Acl
from .om_gears import OPEN, Gear, Shape, Shapes, batch_gear, dims_gear, image_size_gear, static_gear

#: aclDataType -> numpy's name.
DTYPES = {
    0: "float32",
    1: "float16",
    2: "int8",
    3: "int32",
    4: "uint8",
    6: "int16",
    7: "uint16",
    8: "uint32",
    9: "int64",
    10: "uint64",
    11: "float64",
    12: "bool",
    16: "complex64",
    17: "complex128",
}
#: The name of the input by which a gear is set; the caller sets it through ACL, not with data.
GEAR_INPUT = "ascend_mbatch_shape_data"
#: The name of the input by which dynamic AIPP is set.
AIPP_INPUT = "ascend_dynamic_aipp_data"
#: ATC names an output of an ONNX model "node:number:name".
_OUTPUT_NAME = re.compile(r".+:\d+:(.+)")
#: ACL puts such a name in place of one of more than 127 characters.
_SHORTENED = "acl_modelId_"
#: The index that get_dynamic_hw and the like demand.
_RESERVED = -1


class Tensor(NamedTuple):
    """One input or output.

    Attributes:
        number: its index, as ACL counts.
        name: its name in the model.
        dtype: numpy's name of the element type.
        shape: its sizes; -1 for one that the gears set; of an output, those of the largest gear.
        size_bytes: the memory that it needs at most.
    """

    number: int
    name: str
    dtype: str
    shape: Shape
    size_bytes: int


class AclModel:
    """The description of a loaded model.

    Attributes:
        inputs: its inputs, without the one that sets the gear.
        outputs: its outputs.
        gear_index: ACL's number of the input that sets the gear; -1 where there is none.
        gears: its gears.
        input_sizes: the bytes of all inputs, in ACL's order.
    """

    def __init__(self, acl: Acl, model_id: int) -> None:
        """Ask ACL; raises AclError, and ValueError or TypeError where this engine cannot run such a model."""
        self._acl = acl
        self._mdl = acl.module.mdl
        self._handle = acl.made(self._mdl.create_desc(), "acl.mdl.create_desc")
        try:
            acl.check(self._mdl.get_desc(self._handle, model_id), "acl.mdl.get_desc")
            self._read()
        except BaseException:
            self.free()
            raise

    def free(self) -> None:
        """Release the description."""
        self._acl.released(self._mdl.destroy_desc(self._handle), "acl.mdl.destroy_desc")

    def output_shape(self, index: int) -> Shape:
        """Return the shape of an output in the gear that is set; raises AclError."""
        dims = self._acl.take(self._mdl.get_cur_output_dims(self._handle, index), "acl.mdl.get_cur_output_dims")
        return tuple(int(dim) for dim in dims["dims"])

    def _read(self) -> None:
        mdl, desc = self._mdl, self._handle
        # Of an input with static AIPP, only V2 gives the sizes of the picture as it lies in memory.
        inputs = self._tensors(
            mdl.get_num_inputs, mdl.get_input_dims_v2, mdl.get_input_data_type, mdl.get_input_size_by_index
        )
        self.input_sizes = [tensor.size_bytes for tensor in inputs]
        self.outputs = _with_short_names(
            self._tensors(
                mdl.get_num_outputs, mdl.get_output_dims, mdl.get_output_data_type, mdl.get_output_size_by_index
            )
        )
        self.gear_index = next((tensor.number for tensor in inputs if tensor.name == GEAR_INPUT), -1)
        self.inputs = [tensor for tensor in inputs if tensor.name != GEAR_INPUT]
        self._check()
        self.gears = self._read_gears(tuple(tensor.shape for tensor in self.inputs), desc)

    def _tensors(
        self, count: Callable[..., int], dims: Callable[..., Any], dtype: Callable[..., int], size: Callable[..., int]
    ) -> List[Tensor]:
        return [
            self._tensor(index, self._acl.take(dims(self._handle, index), "acl.mdl.%s" % dims.__name__), dtype, size)
            for index in range(count(self._handle))
        ]

    def _tensor(self, index: int, dims: Any, dtype: Callable[..., int], size: Callable[..., int]) -> Tensor:
        name, kind = dims["name"], dtype(self._handle, index)
        if name.startswith(_SHORTENED):
            name = self._mdl.get_tensor_real_name(self._handle, name) or name
        if kind not in DTYPES and name != GEAR_INPUT:
            raise TypeError("%r has the element type %d of ACL, which numpy does not have" % (name, kind))
        shape = tuple(int(dim) for dim in dims["dims"])
        return Tensor(index, name, DTYPES.get(kind, ""), shape, int(size(self._handle, index)))

    def _check(self) -> None:
        if any(tensor.name == AIPP_INPUT for tensor in self.inputs):
            raise ValueError("the model has dynamic AIPP, which this engine does not set; convert it with static AIPP")
        is_open = any(OPEN in tensor.shape for tensor in self.inputs)
        if (is_open and self.gear_index < 0) or any(tensor.size_bytes == 0 for tensor in self.outputs):
            raise ValueError(
                "the model takes a range of shapes, for which ACL does not tell the memory; convert it with fixed "
                "shapes or with gears (--dynamic-batch-size)"
            )

    def _read_gears(self, shapes: Shapes, desc: int) -> List[Gear]:
        if self.gear_index < 0:
            return [static_gear(shapes)]
        acl, mdl = self._acl, self._mdl
        batches = acl.take(mdl.get_dynamic_batch(desc), "acl.mdl.get_dynamic_batch")
        if batches["batchCount"]:
            return [batch_gear(shapes, int(rows)) for rows in batches["batch"]]
        sizes = acl.take(mdl.get_dynamic_hw(desc, _RESERVED), "acl.mdl.get_dynamic_hw")
        if sizes["hwCount"]:
            return [image_size_gear(shapes, int(height), int(width)) for height, width in sizes["hw"]]
        count = acl.take(mdl.get_input_dynamic_gear_count(desc, _RESERVED), "acl.mdl.get_input_dynamic_gear_count")
        listed = acl.take(mdl.get_input_dynamic_dims(desc, _RESERVED, count), "acl.mdl.get_input_dynamic_dims")
        return [dims_gear(shapes, [int(size) for size in gear["dims"]]) for gear in listed]


def _with_short_names(outputs: List[Tensor]) -> List[Tensor]:
    """Return outputs with the names that they have in the ONNX file, where ATC's names tell them and they differ."""
    matches = [_OUTPUT_NAME.fullmatch(tensor.name) for tensor in outputs]
    names = [match.group(1) if match else tensor.name for match, tensor in zip(matches, outputs)]
    if len(set(names)) < len(names):
        return outputs
    return [tensor._replace(name=name) for tensor, name in zip(outputs, names)]


def max_rows(gears: List[Gear]) -> int:
    """Return the rows of the largest batch gear; 0 where the gears are of another kind."""
    return max((gear.values[0] for gear in gears if gear.kind == "batch"), default=0)


def open_output_shape(tensor: Tensor, gears: List[Gear]) -> Tuple[Any, ...]:
    """Return an output's shape with None for the sizes that change with the gear."""
    rows = max_rows(gears)
    if rows:
        return tuple(None if axis == 0 and dim == rows else dim for axis, dim in enumerate(tensor.shape))
    return tensor.shape if len(gears) == 1 else (None,) * len(tensor.shape)

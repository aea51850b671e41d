"""One load of an OM model on an Ascend device, used by one thread at a time."""

from __future__ import annotations

import os
from typing import Dict, List, Optional, Sequence

import numpy as np

from .acl_codes import is_fatal
from .acl_memory import Dataset, SharedWeights, allocate
from .acl_model import AclModel, open_output_shape
from .acl_process import Acl, AclError, open_acl
from .base import Arrays, EngineBroken, TensorSpec
from .om_gears import OPEN, Shape, Shapes, Step, divided_inputs, plan_steps

_TO_DEVICE = 1
_TO_HOST = 2
#: Plans that are kept; callers whose every call has another shape do not fill the memory.
_MAX_PLANS = 256


class AclSession:
    """A model loaded once, with a context, a stream, buffers and working memory of its own.

    The context is made current at each call: a session is opened by the thread that builds, and used by the one that
    serves. Two threads must not use one session.

    Attributes:
        inputs: the specs of the model's inputs; None for sizes that the gears set.
        outputs: likewise.
    """

    def __init__(self, path: str, device_id: int, instances: int = 1) -> None:
        """Load the model.

        Args:
            path: the .om file.
            device_id: the device's number, as ACL counts.
            instances: how many sessions will share the weights; with 1, ACL manages the model's memory itself.

        Raises:
            ImportError: there is no pyACL.
            AclError: CANN failed.
            ValueError, TypeError: this engine cannot run the model.
        """
        self._prepare(open_acl(), path, device_id)
        self._open(instances)

    def share(self) -> AclSession:
        """Return a session for another thread, over the same weights where they are shared; raises AclError."""
        other = AclSession.__new__(AclSession)
        other._prepare(self._acl, self._path, self._device_id)
        other._weights = self._weights
        other._open(1)
        return other

    def _prepare(self, acl: Acl, path: str, device_id: int) -> None:
        self._acl, self._path, self._device_id = acl, path, device_id
        self._context = self._stream = 0
        self._weights: Optional[SharedWeights] = None
        self._holds_weights = False
        self._work_address = 0
        self._model_id: Optional[int] = None
        self._datasets: List[Dataset] = []
        self._plans: Dict[Shapes, List[Step]] = {}
        self._output_shapes: Dict[int, List[Shape]] = {}
        self._is_broken = False

    def _open(self, instances: int) -> None:
        acl = self._acl
        acl.open_device(self._device_id)
        try:
            self._context = acl.take(acl.module.rt.create_context(self._device_id), "acl.rt.create_context")
            self._stream = acl.take(acl.module.rt.create_stream(), "acl.rt.create_stream")
            if instances > 1:
                self._weights = SharedWeights.of(acl, self._path)
            self._model_id = self._load()
            self._use(AclModel(acl, self._model_id))
        except BaseException:
            self.close()
            raise

    def _load(self) -> int:
        acl, weights = self._acl, self._weights
        if weights is None:
            loaded = acl.module.mdl.load_from_file(self._path)
            return int(acl.take(loaded, "acl.mdl.load_from_file(%s)" % os.path.basename(self._path)))
        weights.hold()
        self._holds_weights = True
        self._work_address = allocate(acl, weights.work_bytes)
        return weights.load(self._path, self._work_address)

    def _use(self, model: AclModel) -> None:
        self._model = model
        self._open_shapes = tuple(tensor.shape for tensor in model.inputs)
        self._divided = divided_inputs(self._open_shapes)
        self.inputs = [
            TensorSpec(t.name, t.dtype, tuple(None if dim == OPEN else dim for dim in t.shape)) for t in model.inputs
        ]
        self.outputs = [TensorSpec(t.name, t.dtype, open_output_shape(t, model.gears)) for t in model.outputs]
        self._datasets.append(Dataset(self._acl, model.input_sizes))
        self._datasets.append(Dataset(self._acl, [tensor.size_bytes for tensor in model.outputs]))

    def close(self) -> None:
        """Release everything in order: buffers, description, model, its memory, stream, context, device."""
        acl = self._acl
        if self._context:
            acl.released(acl.module.rt.set_context(self._context), "acl.rt.set_context")
        for dataset in self._datasets:
            dataset.free()
        if hasattr(self, "_model"):
            self._model.free()
        if self._model_id is not None:
            acl.released(acl.module.mdl.unload(self._model_id), "acl.mdl.unload")
        if self._work_address:
            acl.released(acl.module.rt.free(self._work_address), "acl.rt.free")
        if self._weights is not None and self._holds_weights:
            self._weights.release()
        if self._stream:
            acl.released(acl.module.rt.destroy_stream(self._stream), "acl.rt.destroy_stream")
        if self._context:
            acl.released(acl.module.rt.destroy_context(self._context), "acl.rt.destroy_context")
        acl.close_device(self._device_id)

    # ---- running

    def run(self, arrays: Sequence[np.ndarray], destinations: Arrays) -> Arrays:
        """Run the model on C-contiguous arrays of its dtypes; return those of the destinations that fit, or new arrays.

        Raises:
            ValueError: the shapes fit none of the model's gears.
            AclError: CANN failed.
            EngineBroken: it failed before in a way that this process does not recover from.
        """
        if self._is_broken:
            raise EngineBroken("the device's context is lost")
        try:
            return self._run(arrays, destinations)
        except AclError as error:
            self._is_broken = is_fatal(error.code)
            raise

    def _run(self, arrays: Sequence[np.ndarray], destinations: Arrays) -> Arrays:
        acl = self._acl
        steps = self._plan(tuple(array.shape for array in arrays))
        acl.check(acl.module.rt.set_context(self._context), "acl.rt.set_context")
        results: Arrays = {}
        for step in steps:
            self._copy_inputs(arrays, step)
            self._set_gear(step.gear)
            shapes = self._shapes_in_gear(step.gear)
            self._execute()
            self._copy_outputs(step, shapes, steps[-1].stop, results, destinations)
        return results

    def _execute(self) -> None:
        """Run the model once on what lies in the buffers.

        pyACL's ``execute`` would keep the interpreter's lock (GIL) until the device is done, and so stop all other
        threads; ``synchronize_stream`` gives it up.
        """
        acl, (inputs, outputs) = self._acl, self._datasets
        name = os.path.basename(self._path)
        code = acl.module.mdl.execute_async(self._model_id, inputs.handle, outputs.handle, self._stream)
        acl.check(code, "acl.mdl.execute_async(%s)" % name)
        acl.check(acl.module.rt.synchronize_stream(self._stream), "running %s (acl.rt.synchronize_stream)" % name)

    def _plan(self, shapes: Shapes) -> List[Step]:
        steps = self._plans.get(shapes)
        if steps is None:
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            steps = self._plans[shapes] = plan_steps(self._open_shapes, self._model.gears, shapes)
        return steps

    def _set_gear(self, number: int) -> None:
        """Set the model to a gear; before each execution, as the documents demand, though it may be set already."""
        model, mdl = self._model, self._acl.module.mdl
        gear = model.gears[number]
        where = (self._model_id, self._datasets[0].handle, model.gear_index)
        if gear.kind == "static":
            return
        if gear.kind == "batch":
            code = mdl.set_dynamic_batch_size(*where, gear.values[0])
        elif gear.kind == "image_size":
            code = mdl.set_dynamic_hw_size(*where, *gear.values)
        else:
            dims = {"name": "", "dimCount": len(gear.values), "dims": list(gear.values)}
            code = mdl.set_input_dynamic_dims(*where, dims)
        self._acl.check(code, "setting the %s %s" % (gear.kind.replace("_", " "), ",".join(map(str, gear.values))))

    # ---- copies

    def _copy_inputs(self, arrays: Sequence[np.ndarray], step: Step) -> None:
        for number, (tensor, array) in enumerate(zip(self._model.inputs, arrays)):
            address, room_bytes = self._datasets[0].addresses[tensor.number], tensor.size_bytes
            if not step.rows or number not in self._divided:
                self._to_device(address, room_bytes, array)
                continue
            real = array[step.start : step.stop]
            self._to_device(address, room_bytes, real)
            missing = step.rows - len(real)
            if missing:  # the last row again: zeros would cause NaN in the attention of some models
                padding = np.repeat(real[-1:], missing, axis=0)
                self._to_device(address + real.nbytes, room_bytes - real.nbytes, padding)

    def _copy_outputs(
        self, step: Step, shapes: Sequence[Shape], total_rows: int, results: Arrays, destinations: Arrays
    ) -> None:
        for tensor, spec, shape in zip(self._model.outputs, self.outputs, shapes):
            has_rows = step.rows > 0 and shape[:1] == (step.rows,)
            if step.stop - step.start < total_rows and not has_rows:
                raise ValueError(
                    "output %r has shape %s for %d rows, and cannot be put together from several executions"
                    % (spec.name, shape, step.rows)
                )
            result = results.get(spec.name)
            if result is None:
                whole = (total_rows,) + shape[1:] if has_rows else shape
                result = results[spec.name] = _place(spec, whole, destinations.get(spec.name))
            part = result[step.start : step.stop] if has_rows else result
            self._to_host(part, self._datasets[1].addresses[tensor.number])

    def _shapes_in_gear(self, gear: int) -> List[Shape]:
        """Return the shapes of the outputs in this gear, which was just set."""
        shapes = self._output_shapes.get(gear)
        if shapes is None:
            shapes = [self._model.output_shape(index) for index in range(len(self.outputs))]
            self._output_shapes[gear] = shapes
        return shapes

    def _to_device(self, address: int, room_bytes: int, array: np.ndarray) -> None:
        if array.nbytes:
            memcpy = self._acl.module.rt.memcpy
            code = memcpy(address, room_bytes, _address_of(array), array.nbytes, _TO_DEVICE)
            self._acl.check(code, "acl.rt.memcpy to the device")

    def _to_host(self, array: np.ndarray, address: int) -> None:
        if array.nbytes:
            code = self._acl.module.rt.memcpy(_address_of(array), array.nbytes, address, array.nbytes, _TO_HOST)
            self._acl.check(code, "acl.rt.memcpy from the device")


def _address_of(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def _place(spec: TensorSpec, shape: Shape, destination: Optional[np.ndarray]) -> np.ndarray:
    """Return the array for an output: its destination if that fits, else a new one."""
    if destination is None or not destination.flags.c_contiguous:
        return np.empty(shape, spec.dtype)
    fits = destination.shape == shape and destination.dtype == spec.dtype
    return destination if fits else np.empty(shape, spec.dtype)

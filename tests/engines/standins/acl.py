"""A strict stand-in for pyACL (``import acl``), which comes with CANN only: it enforces what the documents say.

- ACL is initialised once in a process, before all else, and finalised once, when nothing is left.
- Device memory, models and datasets are used with a context current in the calling thread; a model is loaded, executed
  and unloaded in one context, by one thread at a time.
- Device memory starts at multiples of 64 bytes, and is full of rubbish. A copy must fit into what was allocated, and
  its direction must be that of its addresses.
- A model with gears is set to one of them before each execution, through the input ascend_mbatch_shape_data.
- An execution is submitted to a stream of the current context; its outputs are there when the stream was synchronised.
- Everything is released in order, and nothing twice: buffers before their memory, models and streams before their
  context, contexts before their device. Weights stay until the last model that uses them is unloaded.

What is done otherwise returns an error code, as CANN does, and is noted as a violation. A model is a file of the tests:
``IMOD`` and JSON (see ``om_models.py``). The variable ACL_STANDIN, JSON too, sets the hardware and its faults.
"""

import atexit
import ctypes
import itertools
import json
import os
import threading
import time
import types

import numpy as np

SETTINGS = {"devices": 2, "soc": "Ascend310P3", "memory_bytes": 1 << 30, "faults": {}, "report": ""}
SETTINGS.update(json.loads(os.environ.get("ACL_STANDIN", "{}")))
ALIGNMENT = 64
RUBBISH = 0xA5
NUMBERS = {"float32": 0, "float16": 1, "int8": 2, "int32": 3, "uint8": 4, "int64": 9, "uint64": 10, "bool": 12}
GEAR_INPUT = {"name": "ascend_mbatch_shape_data", "dtype": "uint64", "dims": [1]}

_lock = threading.RLock()
_thread = threading.local()
_handles = itertools.count(1000, 8)
_calls = {}
state = {
    "inits": 0,
    "finalized": 0,
    "most_at_once": 0,
    "executions": 0,
    "loads": 0,
    "sets_of_weights": 0,
    "copied_bytes": 0,
}
violations = []
device_users = {}
contexts = {}  # handle -> device
streams = {}  # handle -> (its context, what was submitted and not awaited)
memory = {}  # address -> (bytes asked for, array that holds them)
weight_users = {}  # address -> models that use it
models = {}  # id -> Model
descs, datasets, buffers = {}, {}, {}
_running = [0]


def _fail(code, message, *, violation=True):
    _thread.message = "%s: %s" % (code, message)
    if violation:
        violations.append(_thread.message)
    return code


def _fault(name):
    """Return the code of a fault that is set for this call of a function; 0 where there is none."""
    with _lock:
        _calls[name] = _calls.get(name, 0) + 1
        for code, number in SETTINGS["faults"].get(name, []):
            if number in (0, _calls[name]):
                return _fail(code, "a fault of the test's in acl.%s" % name, violation=False)
    return 0


def _why_not_ready(name, context=True):
    """Return the code with which every function begins."""
    if not state["inits"] or state["finalized"]:
        return _fail(100001, "acl.%s before acl.init or after acl.finalize" % name)
    if context and getattr(_thread, "context", 0) not in contexts:
        return _fail(107002, "acl.%s without a current context" % name)
    return _fault(name)


def init(config=None):
    code = _fault("init")
    if not code:
        if state["inits"]:
            return _fail(100002, "acl.init for the second time")
        state["inits"] += 1
    return code


def finalize():
    if not state["inits"] or state["finalized"]:
        return _fail(100037, "acl.finalize without acl.init, or for the second time")
    if any(leaks().values()):
        violations.append("finalised with leaks: %s" % leaks())
    state["finalized"] += 1
    return 0


def get_recent_err_msg():
    message, _thread.message = getattr(_thread, "message", None), None
    return message


def get_soc_name():
    return SETTINGS["soc"]


def leaks():
    """Return how many objects of each kind are alive."""
    kinds = {
        "contexts": contexts,
        "streams": streams,
        "memory": memory,
        "models": models,
        "descs": descs,
        "datasets": datasets,
        "buffers": buffers,
    }
    return {name: len(held) for name, held in kinds.items()}


def report():
    """Return everything that a test wants to know."""
    return dict(state, pid=os.getpid(), leaks=leaks(), violations=list(violations))


@atexit.register
def _write_report():
    if SETTINGS["report"]:
        path = os.path.join(SETTINGS["report"], "%d" % os.getpid())
        with open(path, "w") as file:
            json.dump(report(), file)
        os.rename(path, path + ".json")  # a process may be terminated at its end


# ---- acl.rt


def set_device(device):
    code = _why_not_ready("rt.set_device", context=False)
    if code:
        return code
    if not 0 <= device < SETTINGS["devices"]:
        return _fail(107001, "there is no device %d" % device, violation=False)
    device_users[device] = device_users.get(device, 0) + 1
    return 0


def reset_device(device):
    if device_users.get(device, 0) < 1:
        return _fail(107001, "device %d is reset, but was not set" % device)
    if device in contexts.values():
        return _fail(500000, "device %d is reset before its contexts are destroyed" % device)
    device_users[device] -= 1
    return 0


def create_context(device):
    code = _why_not_ready("rt.create_context", context=False)
    if not code and not device_users.get(device):
        code = _fail(107001, "a context for device %d, which was not set" % device)
    if code:
        return 0, code
    handle = next(_handles)
    contexts[handle] = device
    _thread.context = handle
    return handle, 0


def set_context(handle):
    if handle not in contexts:
        return _fail(107002, "set_context with a context that is none")
    _thread.context = handle
    return 0


def destroy_context(handle):
    if handle not in contexts:
        return _fail(107002, "a context is destroyed twice")
    if any(model.context == handle for model in models.values()):
        return _fail(107004, "a context is destroyed before its models are unloaded")
    if any(context == handle for context, _ in streams.values()):
        return _fail(107003, "a context is destroyed before its streams")
    del contexts[handle]
    return 0


def create_stream():
    code = _why_not_ready("rt.create_stream")
    if code:
        return 0, code
    handle = next(_handles)
    streams[handle] = (_thread.context, [])
    return handle, 0


def destroy_stream(handle):
    context, submitted = streams.get(handle, (None, None))
    if context is None or submitted or context != _thread.context:
        return _fail(107003, "a stream is destroyed twice, before it was awaited, or in another context")
    del streams[handle]
    return 0


def synchronize_stream(handle):
    """Await what was submitted; other threads of Python go on meanwhile."""
    code = _why_not_ready("rt.synchronize_stream")
    context, submitted = streams.get(handle, (None, []))
    for finish in submitted:
        finish()
    submitted.clear()
    if context != getattr(_thread, "context", 0):
        return _fail(107003, "a stream of another context is synchronised")
    return code


def malloc(size, policy):
    code = _why_not_ready("rt.malloc")
    if not code and (type(size) is not int or size < 1 or policy not in range(6)):
        code = _fail(107000, "malloc(%r, %r)" % (size, policy))
    if code:
        return 0, code
    with _lock:
        if sum(held for held, _ in memory.values()) + size > SETTINGS["memory_bytes"]:
            return 0, _fail(207001, "alloc device memory failed, size %d" % size, violation=False)
        array = np.full(-(-size // 32) * 32 + 32 + ALIGNMENT, RUBBISH, np.uint8)
        start = -array.ctypes.data % ALIGNMENT
        memory[array.ctypes.data + start] = (size, array[start:])
        return array.ctypes.data + start, 0


def free(address):
    if address not in memory:
        return _fail(107000, "memory is freed that is not there (or twice)")
    if any(held == address for held, _ in buffers.values()) or weight_users.get(address):
        return _fail(500000, "memory is freed that is in use")
    del memory[address]
    return 0


def _room(address):
    """Return how many bytes of device memory there are from an address on; None where it is the host's."""
    for start, (size, _) in list(memory.items()):
        if start <= address < start + size:
            return start + size - address
    return None


def memcpy(target, room, source, count, kind):
    code = _why_not_ready("rt.memcpy")
    if code:
        return code
    to, origin = _room(target), _room(source)
    if (kind, to is None, origin is None) not in ((1, False, True), (2, True, False)):
        return _fail(107000, "memcpy in the direction %d between wrong addresses" % kind)
    if count > room or (to is not None and room > to) or (origin is not None and count > origin):
        return _fail(107000, "memcpy of %d bytes beyond an allocation" % count)
    ctypes.memmove(target, source, count)
    with _lock:
        state["copied_bytes"] += count
    return 0


# ---- data buffers and datasets


def create_data_buffer(address, size):
    if address not in memory or address % ALIGNMENT or memory[address][0] < size:
        _fail(200003, "a buffer on memory that is not there, not aligned or too small")
        return 0
    handle = next(_handles)
    buffers[handle] = (address, size)
    return handle


def destroy_data_buffer(handle):
    return 0 if buffers.pop(handle, None) else _fail(100000, "a buffer is destroyed twice")


def create_dataset():
    handle = next(_handles)
    datasets[handle] = []
    return handle


def add_dataset_buffer(dataset, buffer):
    if dataset not in datasets or buffer not in buffers:
        return dataset, _fail(100000, "add_dataset_buffer of what is not there")
    datasets[dataset].append(buffer)
    return dataset, 0


def destroy_dataset(handle):
    return 0 if datasets.pop(handle, None) is not None else _fail(100000, "a dataset is destroyed twice")


# ---- models


class Model:
    def __init__(self, content):
        self.context = getattr(_thread, "context", 0)
        self.weights = content.get("weights", {})
        self.gears = content.get("gears", {})
        self.inputs = content["inputs"]
        self.outputs = content["outputs"]
        self.seconds = content.get("ms", 0) / 1000
        self.gear = None if self.gears else self.shapes_of([])
        self.users = 0
        self.weight_address = self.own_weights = 0

    def tensors(self):
        return self.inputs + ([GEAR_INPUT] if self.gears else [])

    def shapes_of(self, values):
        """Return the shapes of the inputs with these values of the gear."""
        if "dims" in self.gears:
            rest = iter(values)
            return [[next(rest) for _ in tensor["dims"]] for tensor in self.inputs]
        shapes = []
        for tensor in self.inputs:
            sizes = iter(values * len(tensor["dims"]) if "batch" in self.gears else values)
            shapes.append([next(sizes, 1) if dim == -1 else dim for dim in tensor["dims"]])
        return shapes

    def all_shapes(self):
        gears = next(iter(self.gears.values()), [[]])
        return [self.shapes_of([gear] if isinstance(gear, int) else gear) for gear in gears]

    def input_size(self, index):
        if index == len(self.inputs):
            return 8
        item = np.dtype(self.inputs[index]["dtype"]).itemsize
        return max(int(np.prod(shapes[index])) for shapes in self.all_shapes()) * item

    def weight_bytes(self):
        return sum(np.asarray(value, np.float32).nbytes for value in self.weights.values())

    def place_weights(self, address):
        self.weight_address = address
        data = b"".join(np.asarray(value, np.float32).tobytes() for value in self.weights.values())
        memory[address][1][: len(data)] = np.frombuffer(data, np.uint8)

    def read_weights(self):
        values, start = {}, 0
        for name, value in self.weights.items():
            shape = np.asarray(value).shape
            stop = start + 4 * int(np.prod(shape))
            held = memory[self.weight_address][1]
            values[name] = held[start:stop].view(np.float32).reshape(shape)
            start = stop
        return values

    def compute(self, inputs):
        names = dict(zip([tensor["name"] for tensor in self.inputs], inputs), np=np)
        names.update(self.read_weights() if self.weight_address else self.weights_on_host())
        return [np.asarray(eval(tensor["expr"], names)).astype(tensor["dtype"]) for tensor in self.outputs]

    def weights_on_host(self):
        return {name: np.asarray(value, np.float32) for name, value in self.weights.items()}

    def output_shapes(self, shapes):
        zeros = [np.zeros(shape, tensor["dtype"]) for shape, tensor in zip(shapes, self.inputs)]
        names = dict(zip([tensor["name"] for tensor in self.inputs], zeros), np=np, **self.weights_on_host())
        with np.errstate(all="ignore"):
            return [list(np.shape(eval(tensor["expr"], names))) for tensor in self.outputs]

    def largest(self):
        return max(self.all_shapes(), key=lambda shapes: sum(int(np.prod(shape)) for shape in shapes))


def read_model(path):
    """Return a file's content; raises OSError, ValueError."""
    with open(path, "rb") as file:
        data = file.read()
    if data[:4] != b"IMOD":
        raise ValueError("no OM file")
    return json.loads(data[4:].decode())


def _load(name, path):
    code = _why_not_ready(name)
    if code:
        return None, code
    try:
        content = read_model(path)
    except OSError:
        return None, _fail(145002, "open file[%s] failed" % path, violation=False)
    except ValueError:
        return None, _fail(545001, "the header of %s is wrong" % path, violation=False)
    if content["soc"] != SETTINGS["soc"]:
        text = "ModelCheckCompatibility failed, supported socVersion=%s, but the model socVersion=%s"
        return None, _fail(507008, text % (SETTINGS["soc"], content["soc"]), violation=False)
    return Model(content), 0


def _keep(model):
    number = next(_handles)
    models[number] = model
    state["loads"] += 1
    return number, 0


def load_from_file(path):
    model, code = _load("mdl.load_from_file", path)
    if code:
        return 0, code
    if model.weight_bytes():
        address, code = malloc(model.weight_bytes(), 0)
        if code:
            return 0, _fail(245000, "allocating the weights failed", violation=False)
        model.own_weights = address
        model.place_weights(address)
        state["sets_of_weights"] += 1
    return _keep(model)


def load_from_file_with_mem(path, work, work_size, weights, weight_size):
    model, code = _load("mdl.load_from_file_with_mem", path)
    if code:
        return 0, code
    for address, size in ((work, work_size), (weights, weight_size)):
        if address not in memory or memory[address][0] < size:
            return 0, _fail(100000, "memory of the model that was not allocated")
    model.work = work
    model.place_weights(weights)
    state["sets_of_weights"] += not weight_users.get(weights)
    for address in (work, weights):
        weight_users[address] = weight_users.get(address, 0) + 1
    return _keep(model)


def query_size(path):
    model, code = _load("mdl.query_size", path)
    return (0, 0, code) if code else (1024, model.weight_bytes(), 0)


def unload(number):
    code = _why_not_ready("mdl.unload")
    if code:
        return code
    model = models.get(number)
    if model is None:
        return _fail(145003, "a model is unloaded twice")
    if model.context != _thread.context:
        return _fail(107004, "a model is unloaded in another context")
    del models[number]
    if model.own_weights:
        del memory[model.own_weights]
    elif model.weight_address:
        for address in (model.work, model.weight_address):
            weight_users[address] -= 1
    return 0


def create_desc():
    handle = next(_handles)
    descs[handle] = None
    return handle


def get_desc(desc, number):
    if desc not in descs or number not in models:
        return _fail(100000, "get_desc of what is not there")
    descs[desc] = models[number]
    return 0


def destroy_desc(desc):
    if desc not in descs:
        return _fail(100000, "a description is destroyed twice")
    del descs[desc]
    return 0


def _dims(tensor, shape, index, kind):
    name = tensor["name"]
    if len(name) > 127:
        name = "acl_modelId_0_%s_%d_x" % (kind, index)
    return {"name": name, "dimCount": len(shape), "dims": list(shape)}, 0


def get_num_inputs(desc):
    return len(descs[desc].tensors())


def get_num_outputs(desc):
    return len(descs[desc].outputs)


def get_input_dims_v2(desc, index):
    tensor = descs[desc].tensors()[index]
    return _dims(tensor, tensor["dims"], index, "input")


def get_output_dims(desc, index):
    model = descs[desc]
    return _dims(model.outputs[index], model.output_shapes(model.largest())[index], index, "output")


def get_cur_output_dims(desc, index):
    model = descs[desc]
    return _dims(model.outputs[index], model.output_shapes(model.gear or model.largest())[index], index, "output")


def get_tensor_real_name(desc, name):
    kind, index = name.split("_")[-3:-1]
    tensors = descs[desc].inputs if kind == "input" else descs[desc].outputs
    return tensors[int(index)]["name"]


def _number(tensor):
    return NUMBERS.get(tensor["dtype"], tensor.get("acl_dtype", -1))


def get_input_data_type(desc, index):
    return _number(descs[desc].tensors()[index])


def get_output_data_type(desc, index):
    return descs[desc].outputs[index].get("acl_dtype", _number(descs[desc].outputs[index]))


def get_input_size_by_index(desc, index):
    return descs[desc].input_size(index)


def get_output_size_by_index(desc, index):
    model = descs[desc]
    if any(-1 in tensor["dims"] for tensor in model.inputs) and not model.gears:
        return 0  # a range of shapes
    item = np.dtype(model.outputs[index]["dtype"]).itemsize
    return max(int(np.prod(model.output_shapes(shapes)[index])) for shapes in model.all_shapes()) * item


def get_dynamic_batch(desc):
    sizes = descs[desc].gears.get("batch", [])
    return {"batchCount": len(sizes), "batch": list(sizes)}, 0


def get_dynamic_hw(desc, index):
    sizes = descs[desc].gears.get("hw", [])
    return {"hwCount": len(sizes), "hw": [list(size) for size in sizes]}, 0


def get_input_dynamic_gear_count(desc, index):
    return len(descs[desc].gears.get("dims", [])), 0


def get_input_dynamic_dims(desc, index, count):
    gears = descs[desc].gears["dims"][:count]
    return [{"name": "", "dimCount": len(gear), "dims": list(gear)} for gear in gears], 0


def _set_gear(name, kind, number, dataset, index, value):
    code = _why_not_ready(name)
    if code:
        return code
    model = models[number]
    if kind not in model.gears:
        return _fail(100019, "%s of a model that has none" % name)
    if dataset not in datasets or index != len(model.inputs):
        return _fail(145011, "%s with a wrong dataset or index" % name)
    if value not in model.gears[kind]:
        return _fail(145013, "The current dynamic input does not match the gear of the model", violation=False)
    model.gear = model.shapes_of([value] if kind == "batch" else value)
    return 0


def set_dynamic_batch_size(number, dataset, index, size):
    return _set_gear("mdl.set_dynamic_batch_size", "batch", number, dataset, index, size)


def set_dynamic_hw_size(number, dataset, index, height, width):
    return _set_gear("mdl.set_dynamic_hw_size", "hw", number, dataset, index, [height, width])


def set_input_dynamic_dims(number, dataset, index, dims):
    assert dims["dimCount"] == len(dims["dims"]) and all(type(size) is int for size in dims["dims"])
    return _set_gear("mdl.set_input_dynamic_dims", "dims", number, dataset, index, dims["dims"])


def execute_async(number, inputs, outputs, stream):
    code = _why_not_ready("mdl.execute_async")
    if code:
        return code
    model = models.get(number)
    context, submitted = streams.get(stream, (None, None))
    if model is None or not model.context == context == _thread.context:
        return _fail(107004, "a model is executed in another context than it was loaded in")
    if model.gear is None:
        return _fail(145013, "a model with gears is executed before it is set to one")
    with _lock:
        model.users += 1
        _running[0] += 1
        state["executions"] += 1
        state["most_at_once"] = max(state["most_at_once"], _running[0])
        if model.users > 1:
            _fail(500000, "two threads execute one loaded model")
    code, results = _compute(model, datasets[inputs], datasets[outputs])
    if model.gears:
        model.gear = None

    def finish():
        time.sleep(model.seconds)
        for address, data in results:
            memory[address][1][: data.size] = data
        with _lock:
            model.users -= 1
            _running[0] -= 1

    submitted.append(finish)
    return code


def _compute(model, inputs, outputs):
    """Return a code, and the bytes that the execution will have written at the end, by address."""
    sizes = [model.input_size(index) for index in range(len(model.tensors()))]
    if [buffers[buffer][1] for buffer in inputs] != sizes or len(outputs) != len(model.outputs):
        return _fail(100017, "the buffers are not those that the model needs"), []
    arrays = []
    for tensor, shape, buffer in zip(model.inputs, model.gear, inputs):
        size = int(np.prod(shape)) * np.dtype(tensor["dtype"]).itemsize
        arrays.append(memory[buffers[buffer][0]][1][:size].view(tensor["dtype"]).reshape(shape))
    results = []
    for buffer, result in zip(outputs, model.compute(arrays)):
        address, size = buffers[buffer]
        if result.nbytes > size:
            return _fail(100018, "an output's buffer is too small"), []
        results.append((address, np.frombuffer(result.tobytes(), np.uint8)))
    return 0, results


rt = types.SimpleNamespace(
    set_device=set_device,
    reset_device=reset_device,
    create_context=create_context,
    set_context=set_context,
    destroy_context=destroy_context,
    create_stream=create_stream,
    destroy_stream=destroy_stream,
    synchronize_stream=synchronize_stream,
    malloc=malloc,
    free=free,
    memcpy=memcpy,
)
mdl = types.SimpleNamespace(
    create_dataset=create_dataset,
    add_dataset_buffer=add_dataset_buffer,
    destroy_dataset=destroy_dataset,
    load_from_file=load_from_file,
    load_from_file_with_mem=load_from_file_with_mem,
    query_size=query_size,
    unload=unload,
    create_desc=create_desc,
    get_desc=get_desc,
    destroy_desc=destroy_desc,
    get_num_inputs=get_num_inputs,
    get_num_outputs=get_num_outputs,
    get_input_dims_v2=get_input_dims_v2,
    get_output_dims=get_output_dims,
    get_cur_output_dims=get_cur_output_dims,
    get_tensor_real_name=get_tensor_real_name,
    get_input_data_type=get_input_data_type,
    get_output_data_type=get_output_data_type,
    get_input_size_by_index=get_input_size_by_index,
    get_output_size_by_index=get_output_size_by_index,
    get_dynamic_batch=get_dynamic_batch,
    get_dynamic_hw=get_dynamic_hw,
    get_input_dynamic_gear_count=get_input_dynamic_gear_count,
    get_input_dynamic_dims=get_input_dynamic_dims,
    set_dynamic_batch_size=set_dynamic_batch_size,
    set_dynamic_hw_size=set_dynamic_hw_size,
    set_input_dynamic_dims=set_input_dynamic_dims,
    execute_async=execute_async,
)

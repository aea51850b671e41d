"""A stand-in for MindSpore Lite's Python surface, for threads: the real wheel is tied to Python 3.7.

It holds its user to what the real one asks for in silence: a Model serves one thread at a time and builds once, tensors
are those that were filled, and an output is overwritten by the next predict. Its one model doubles x (?, 3) into y.
"""

import threading
import time

import numpy as np

__version__ = "stand-in"
#: Models that are alive, and the largest number of predicts at the same time.
models_built = 0
most_at_once = 0
_running = 0
_lock = threading.Lock()


class ModelType:
    MINDIR = "MINDIR"


class _Settings:
    thread_num = 1
    device_id = 0
    workers_num = 1


class Context:
    def __init__(self):
        self.target = []
        self.cpu, self.ascend, self.gpu, self.parallel = (_Settings() for _ in range(4))


class Tensor:
    def __init__(self, name, shape):
        self.name, self.dtype, self.shape = name, "DataType.FLOAT32", list(shape)
        self._data = None

    def set_data_from_numpy(self, array):
        assert array.flags.c_contiguous and array.dtype == np.float32
        assert list(array.shape) == self.shape, "the real one takes any shape of as many bytes, in silence"
        self._data = array  # no copy

    def get_data_to_numpy(self):
        return self._data


class Model:
    def __init__(self):
        self._users = 0
        self._is_built = False
        self._inputs = [Tensor("x", [-1, 3])]

    def build_from_file(self, path, kind, context):
        global models_built
        assert kind == ModelType.MINDIR and len(context.target) == 1 and not self._is_built
        self._is_built = True
        models_built += 1

    def get_inputs(self):
        return self._inputs

    def resize(self, inputs, shapes):
        assert inputs is not None and all(type(size) is int for shape in shapes for size in shape)
        self._inputs = [Tensor("x", shapes[0])]

    def predict(self, inputs):
        global _running, most_at_once
        with _lock:
            self._users += 1
            _running += 1
            most_at_once = max(most_at_once, _running)
            assert self._users == 1, "two threads use one Model: they get each other's numbers"
        (x,) = [tensor.get_data_to_numpy() for tensor in inputs]
        assert x is not None, "an input that was never set is garbage"
        time.sleep(0.002)
        output = Tensor("y", x.shape)
        output.set_data_from_numpy(x * 2)
        with _lock:
            self._users -= 1
            _running -= 1
        return [output]


class ModelParallelRunner:
    def build_from_file(self, path, context):
        self._free = []
        for _ in range(context.parallel.workers_num):
            model = Model()
            model.build_from_file(path, ModelType.MINDIR, context)
            self._free.append(model)
        self._semaphore = threading.Semaphore(len(self._free))

    def get_inputs(self):
        return [Tensor("x", [-1, 3])]

    def predict(self, inputs):
        with self._semaphore:
            model = self._free.pop()
            try:
                return model.predict(inputs)
            finally:
                self._free.append(model)

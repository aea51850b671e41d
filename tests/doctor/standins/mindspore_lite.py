"""A stand-in for MindSpore Lite on a machine with Ascend devices: it knows the doctor's tiny model only.

The variable STANDIN_FAULT, such as "busy:1", has what happens on which device.
"""

import os
import pathlib
import signal
import time

import numpy as np

__version__ = "stand-in"
FAULT, _, FAULT_DEVICE = os.environ.get("STANDIN_FAULT", "").partition(":")
TOGETHER = os.environ.get("STANDIN_TOGETHER")  # a folder in which two devices at once find each other
if FAULT == "import-crash":
    os.kill(os.getpid(), signal.SIGSEGV)
if FAULT == "import-hang":
    time.sleep(1000)

MODELS = pathlib.Path(os.environ["DOCTOR_MODELS"])


class ModelType:
    MINDIR = "MINDIR"


class FmkType:
    ONNX = "ONNX"


class _Settings:
    device_id = 0
    thread_num = 1


class Context:
    def __init__(self):
        self.target = []
        self.cpu, self.ascend, self.gpu = _Settings(), _Settings(), _Settings()


class Tensor:
    def __init__(self, name, shape):
        self.name, self.dtype, self.shape, self._data = name, "DataType.FLOAT32", list(shape), None

    def set_data_from_numpy(self, array):
        self._data = array

    def get_data_to_numpy(self):
        return self._data


class Model:
    def build_from_file(self, path, kind, context):
        self._is_faulty = str(context.ascend.device_id) == FAULT_DEVICE and context.target == ["ascend"]
        if self._is_faulty and FAULT == "busy":
            raise RuntimeError("build_from_file failed! EL0005: aclrtSetDevice failed, 507033")
        if self._is_faulty and FAULT == "gone":
            os._exit(1)

    def get_inputs(self):
        return [Tensor("x", [1, 3, 8, 8])]

    def predict(self, inputs):
        if self._is_faulty and FAULT == "hang":
            time.sleep(1000)
        [x] = [tensor.get_data_to_numpy() for tensor in inputs]
        with np.load(MODELS / "tiny.npz") as stored:
            rows = np.abs(stored["x"] - x).reshape(8, -1).max(1)
            y = stored["y"][rows.argmin()][np.newaxis].copy()
        if self._is_faulty and FAULT == "wrong":
            y = np.roll(y, 1)
        output = Tensor("y", y.shape)
        output.set_data_from_numpy(y)
        return [output]


class Converter:
    def convert(self, framework, source, target, config_file=""):
        pathlib.Path(target + ".mindir").write_bytes((MODELS / "tiny.mindir").read_bytes())

"""The real torch-npu beside torch, without CANN: Python code that imports it is refused, and the library is named."""

import models
import pytest

from ascend_parallel import EngineError, ParallelPredictUtils

pytestmark = pytest.mark.torch_npu

CODE = """
def make(device):
    import torch
    import torch_npu

    return lambda inputs: {"y": inputs["x"]}
"""


@pytest.mark.parametrize("autoload", ["1", "0"], ids=["by import torch", "by import torch_npu"])
def test_without_cann_the_missing_library_is_named(tmp_path, monkeypatch, autoload):
    monkeypatch.setenv("PYTHONPATH", models.vendor_folder("TORCH_NPU_PATH", "torch_npu"))
    monkeypatch.setenv("TORCH_DEVICE_BACKEND_AUTOLOAD", autoload)
    (tmp_path / "code.py").write_text(CODE)
    with pytest.raises(EngineError, match=r"cpu:. failed while building .*code\.py") as caught:
        ParallelPredictUtils(f"{tmp_path / 'code.py'}:make", devices="cpu:0,1").build_model()
    text = str(caught.value)
    assert "ImportError: libhccl.so: cannot open shared object file" in text
    assert "install CANN, and source its set_env.sh" in text

"""ONNX models of lower precision, made by onnxruntime's own tools.

float16 is not made with onnxconverter-common, whose code onnxruntime's tool continues: version 1.16 writes models that
cannot be opened where a node casts to float, as in the attention masks of transformers.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ascend_parallel.errors import ConversionError, UsageError
from ascend_parallel.model_precision import find_precision
from ascend_parallel.worker.engines.providers import read_cpu_flags

from .calibration import Arrays, read_samples
from .onnx_file import OnnxFile

__all__ = ["TOOLS", "Tool", "find_version", "may_saturate", "run_tool"]


class Tool(NamedTuple):
    """A function of onnxruntime that makes a model of lower precision.

    Attributes:
        call: its name, for messages.
        run: model, file to write, calibration files, whether activations are symmetric.
    """

    call: str
    run: Callable[[OnnxFile, Path, Sequence[Path], bool], None]


def find_version() -> str:
    """Return the version of onnxruntime, which has the tools; raises UsageError if it cannot be imported."""
    try:
        import onnxruntime.quantization
    except ImportError as error:
        raise UsageError(
            f"--to onnx converts with onnxruntime's tools, which cannot be imported ({error}): pip install "
            "'ascend-parallel[cpu]'"
        ) from None
    return str(onnxruntime.__version__)


# ---- float16


def _to_float16(model: OnnxFile, output: Path, calibration: Sequence[Path], symmetric: bool) -> None:
    """Convert the weights and what is computed; inputs and outputs stay float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    # Shapes are inferred without external weights: with them, a model may be larger than protobuf allows.
    proto = onnx.shape_inference.infer_shapes(model.load(weights=False))
    onnx.load_external_data_for_model(proto, str(model.path.parent))
    converted = convert_float_to_float16(proto, keep_io_types=True, disable_shape_infer=True)
    onnx.save(converted, str(output), save_as_external_data=bool(model.weight_files), location=f"{output.name}.data")


# ---- int8

#: What static quantization quantizes: where the time goes. onnxruntime's default takes additions, normalizations and
#: more. A ResNet-18 is then a tenth faster, but a vision transformer differs by 10 % of its range in place of 1 %.
_QUANTIZED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def _quantize_static(model: OnnxFile, output: Path, calibration: Sequence[Path], symmetric: bool) -> None:
    """Quantize weights by channel, and activations to the ranges that they have on the calibration data.

    Source of the types: the documentation of ``quantize_static``, for x86 processors and for TensorRT.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        _preprocess(model, output),
        output,
        _Reader(calibration),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(_QUANTIZED),
        activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=not symmetric and may_saturate(),
        use_external_data_format=bool(model.weight_files),
        extra_options={"ActivationSymmetric": symmetric},
    )


def may_saturate() -> bool:
    """Whether this processor's 8-bit products overflow: x86 without VNNI. Then weights have 7 bits."""
    flags = read_cpu_flags()
    return "sse2" in flags and not flags & {"avx512_vnni", "avx_vnni"}


def _quantize_dynamic(model: OnnxFile, output: Path, calibration: Sequence[Path], symmetric: bool) -> None:
    """Quantize weights; activations are quantized when the model runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        _preprocess(model, output),
        output,
        weight_type=QuantType.QInt8,
        use_external_data_format=bool(model.weight_files),
    )


def _preprocess(model: OnnxFile, output: Path) -> Path:
    """Return a copy with inferred shapes and fused operators, as onnxruntime's documentation recommends."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folder = output.parent.parent / "preprocessed"
    folder.mkdir()
    external = bool(model.weight_files)
    quant_pre_process(
        str(model.path),
        str(folder / "model.onnx"),
        skip_symbolic_shape=True,  # it needs sympy, and refuses some models that the rest takes
        save_as_external_data=external,
        all_tensors_to_one_file=external,
        external_data_location="model.onnx.data" if external else None,
    )
    return folder / "model.onnx"


class _Reader:
    """What onnxruntime asks for calibration data: a class with this method is one of its CalibrationDataReaders."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._samples: Iterator[Arrays] = read_samples(files)

    def get_next(self) -> Arrays | None:
        """Return the next sample; None after the last."""
        return next(self._samples, None)


TOOLS = {
    "fp16": Tool("onnxruntime.transformers.float16.convert_float_to_float16", _to_float16),
    "int8 static": Tool("onnxruntime.quantization.quantize_static", _quantize_static),
    "int8 dynamic": Tool("onnxruntime.quantization.quantize_dynamic", _quantize_dynamic),
}


@contextlib.contextmanager
def _no_log_handler() -> Iterator[None]:
    """Keep onnxruntime's tools, which log to the root, from giving it a handler where the program has none."""
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)


def run_tool(
    tool: Tool, model: OnnxFile, output: Path, calibration: Sequence[Path], symmetric: bool, precision: str
) -> None:
    """Make a model of lower precision.

    Raises:
        ConversionError: if the tool failed, or left the model as it was.
    """
    import onnx

    try:
        with _no_log_handler():
            tool.run(model, output, calibration, symmetric)
    except OSError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise ConversionError(f"{tool.call} could not convert {model.path}: {type(error).__name__}: {text}") from error
    if find_precision(onnx.load(str(output), load_external_data=False)) != precision:
        raise ConversionError(
            f"{tool.call} found nothing in {model.path} to convert to {precision}: it has no operators with weights of "
            "float32 that the tool knows"
        )

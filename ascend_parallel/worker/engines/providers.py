"""ONNX Runtime's execution providers: which one runs on a device, with which settings, and in which precisions."""

from __future__ import annotations

import json
import shlex
from typing import Any, Dict, Sequence, Set, Tuple

#: Device type -> short names of its providers; the first is the default.
PROVIDERS = {
    "cpu": ("cpu", "openvino"),
    "gpu": ("cuda", "tensorrt", "openvino"),
    "tensorrt": ("tensorrt",),
    "openvino": ("openvino",),
    "ascend": ("cann",),
}
PROVIDER_CLASSES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "cann": "CANNExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
#: The same the other way round, as providers may be given by either name.
SHORT_NAMES = {long: short for short, long in PROVIDER_CLASSES.items()}
#: Provider -> the package to install if it is missing.
PACKAGES = {
    "cpu": "onnxruntime",
    "cuda": "onnxruntime-gpu",
    "tensorrt": "onnxruntime-gpu (and TensorRT)",
    "cann": "onnxruntime-cann",
    "openvino": "onnxruntime-openvino",
}
_AS_IT_IS: Dict[str, Tuple[str, ...]] = {precision: (precision,) for precision in ("fp32", "fp16", "bf16", "int8")}
#: Provider -> precision -> precisions of the files that it computes so. Source: the providers' documentation.
COMPUTES: Dict[str, Dict[str, Tuple[str, ...]]] = {
    "cpu": _AS_IT_IS,
    "cuda": _AS_IT_IS,
    "tensorrt": {"fp32": ("fp32",), "fp16": ("fp32", "fp16"), "bf16": ("fp32", "bf16"), "int8": ("int8",)},
    "openvino": {
        "fp32": ("fp32", "fp16"),
        "fp16": ("fp32", "fp16"),
        "bf16": ("fp32", "fp16", "bf16"),
        "int8": ("int8",),
    },
    "cann": {"fp32": ("fp32",), "fp16": ("fp32", "fp16")},
}
#: Provider -> precision -> the provider's options for it. OpenVINO's are in _openvino_config.
_SETTINGS = {
    "tensorrt": {
        "fp16": {"trt_fp16_enable": "1"},
        "bf16": {"trt_bf16_enable": "1"},
        "int8": {"trt_int8_enable": "1"},
    },
    "cann": {
        "fp32": {"precision_mode": "must_keep_origin_dtype"},
        "fp16": {"precision_mode": "force_fp16"},
    },
}
#: With it, TensorRT computes a float file in int8.
_CALIBRATION_TABLE = "trt_int8_calibration_table_name"
#: Precision -> OpenVINO's INFERENCE_PRECISION_HINT; a quantized file needs none.
_OPENVINO_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
#: Precision -> sets of /proc/cpuinfo's words. Without one of them, OpenVINO's CPU plugin silently computes in another.
_OPENVINO_CPU_NEEDS = {
    "fp16": ({"avx512_fp16"}, {"amx_fp16"}, {"avx_ne_convert", "avx_vnni_int8"}, {"fphp", "asimdhp"}),
    "bf16": ({"avx512f", "avx512bw", "avx512dq", "avx512vl"}, {"avx_ne_convert", "avx_vnni_int8"}),
}


def choose_provider(device_type: str, options: Dict[str, Any]) -> str:
    """Return the short name of the provider for a device type and the options; raises ValueError."""
    possible = PROVIDERS[device_type]
    named = str(options.get("provider", possible[0]))
    provider = shorten_provider(named)
    if provider not in PROVIDER_CLASSES:
        raise ValueError("provider %r is unknown; expected one of %s" % (named, ", ".join(possible)))
    if provider not in possible:
        raise ValueError(
            "provider %r does not run on %s devices; expected one of %s" % (named, device_type, ", ".join(possible))
        )
    return provider


def shorten_provider(name: str) -> str:
    """Return "openvino" for "OpenVINOExecutionProvider"; other names stay as they are."""
    return SHORT_NAMES.get(name, name)


def list_providers(
    provider: str, device: Tuple[str, int], options: Dict[str, Any]
) -> Sequence[Tuple[str, Dict[str, str]]]:
    """Return a session's providers with their settings: what TensorRT does not take runs on CUDA, not on the CPU."""
    providers = [(PROVIDER_CLASSES[provider], provider_settings(provider, device, options))]
    if provider == "tensorrt":
        providers.append((PROVIDER_CLASSES["cuda"], {"device_id": str(device[1])}))
    return providers


def provider_settings(provider: str, device: Tuple[str, int], options: Dict[str, Any]) -> Dict[str, str]:
    """Return the provider's options: the device id, the precision, and the user's options."""
    users = {key: str(value) for key, value in options.get("provider_options", {}).items()}
    settings = {}
    if provider in ("cuda", "tensorrt", "cann"):
        settings["device_id"] = str(device[1])
    if provider == "openvino":
        settings["device_type"] = "GPU.%d" % device[1] if device[0] == "gpu" else "CPU"
        if device[0] != "gpu" and options.get("threads") and "load_config" not in users:
            settings["num_of_threads"] = str(options["threads"])  # it has threads of its own, by default all cores
    settings.update(precision_settings(provider, device[0], options.get("precision")))
    settings.update(users)
    return settings


def precision_settings(provider: str, device_type: str, precision: Any) -> Dict[str, str]:
    """Return the provider's options that make it compute in a precision; None: those of its default."""
    if provider == "openvino" and precision in _OPENVINO_HINTS:
        plugin = "GPU" if device_type == "gpu" else "CPU"
        return {"load_config": json.dumps({plugin: {"INFERENCE_PRECISION_HINT": _OPENVINO_HINTS[precision]}})}
    return dict(_SETTINGS.get(provider, {}).get(precision, {}))


# ---- what a provider cannot compute


def why_not_precision(precision: str, files: Dict[str, str], device_type: str, options: Dict[str, Any]) -> str:
    """Return why the provider of a device type cannot compute these files in a precision; "" if it can.

    Args:
        precision: "fp32", "fp16", "bf16" or "int8".
        files: path of a model's file -> its precision; "" if that is not known.
        device_type: "cpu", "gpu", ...
        options: the engine's options.
    """
    provider = choose_provider(device_type, options)
    users = options.get("provider_options", {})
    computes = COMPUTES[provider]
    if precision not in computes:
        return "onnxruntime's provider %s computes in %s" % (provider, " or ".join(computes))
    clash = sorted(set(precision_settings(provider, device_type, precision)) & set(users))
    if clash:
        return "it sets %s of the provider %s, which provider_options set, too: leave one out" % (clash[0], provider)
    takes = computes[precision]
    if (provider, precision) == ("tensorrt", "int8") and _CALIBRATION_TABLE in users:
        takes += ("fp32",)
    for path, stored in files.items():
        if stored not in takes:
            return _explain_file(path, stored, precision, provider)
    return _why_not_on_this_cpu(precision) if provider == "openvino" and device_type != "gpu" else ""


def _explain_file(path: str, stored: str, precision: str, provider: str) -> str:
    if not stored:
        return "the precision of %s cannot be read from it; name its .onnx file, or leave precision out" % path
    text = "%s is an %s model, which onnxruntime's provider %s does not compute in %s" % (
        path,
        stored,
        provider,
        precision,
    )
    if stored == "fp32" and precision in ("fp16", "int8"):
        remedy = "ascend-parallel convert %s --to onnx --precision %s" % (shlex.quote(path), precision)
        if provider == "tensorrt":  # which needs a calibrated and symmetric model
            remedy += " --devices tensorrt:0 --calibration FILE.npz"
        return "%s; convert it: %s" % (text, remedy)
    return "%s; name a file of %s, or leave precision out" % (text, precision)


def _why_not_on_this_cpu(precision: str) -> str:
    if _cpu_computes(precision):
        return ""
    others = [name for name in ("fp32", "bf16", "fp16") if _cpu_computes(name)]
    return "this CPU has no instructions for it, and OpenVINO would not say so: choose %s" % " or ".join(others)


def _cpu_computes(precision: str) -> bool:
    needs = _OPENVINO_CPU_NEEDS.get(precision)
    return needs is None or any(words <= read_cpu_flags() for words in needs)


def read_cpu_flags() -> Set[str]:
    """Return the processor's features as the kernel names them; an empty set if it does not tell."""
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line.partition(":") for line in file]
    except OSError:
        return set()
    return {word for key, _, words in lines if key.strip() in ("flags", "Features") for word in words.split()}

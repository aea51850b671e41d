"""``precision``: what each engine computes in; what it cannot is refused before anything is started."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import models
import numpy as np
import onnx
import pytest
from faults import procs

from ascend_parallel import EngineError, ParallelPredictUtils, UsageError, parallel_map
from ascend_parallel.devices import parse_devices
from ascend_parallel.model_precision import find_precision, read_precision
from ascend_parallel.runner.options import add_precision, load_engine
from ascend_parallel.worker.engines import providers

STANDIN = Path(__file__).with_name("standins") / "mindspore_lite.py"
ORT, MSLITE = load_engine("onnxruntime"), load_engine("mslite")
FILES = {"fp32": models.linear, "fp16": models.linear_fp16, "int8": models.linear_int8}


def path_of(precision):
    return str(FILES[precision]())


def settings_of(precision, device, stored, **options):
    """Return the settings of the providers of a session, after the checks that the runner makes."""
    (parsed,) = parse_devices(device)
    options = add_precision(options, precision, ORT, [path_of(stored)], [parsed])
    provider = providers.choose_provider(parsed.type, options)
    return dict(providers.list_providers(provider, tuple(parsed), options))


# ---- the precision of a file


@pytest.mark.parametrize("precision", FILES)
def test_the_precision_of_a_file_is_that_of_most_of_its_weights(precision):
    assert read_precision(path_of(precision)) == precision


def test_a_file_without_weights_has_the_precision_of_its_inputs():
    assert read_precision(str(models.identity("float16"))) == "fp16"
    assert read_precision(str(models.two())) == "fp32"
    assert read_precision(str(models.identity("int64"))) == ""


def test_weights_in_constant_nodes_count():
    """As some exporters write them."""
    model = onnx.load(models.linear_fp16())
    weights = model.graph.initializer.pop()
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [weights.name], value=weights))
    assert not model.graph.initializer and find_precision(model) == "fp16"


# ---- onnxruntime


@pytest.mark.parametrize("precision", FILES)
@pytest.mark.parametrize("workers", ["processes", "threads"])
def test_the_cpu_provider_runs_the_file_s_own_precision(precision, workers):
    path = path_of(precision)
    x = np.ones((4, 8), np.float16 if precision == "fp16" else np.float32)
    with ParallelPredictUtils(path, devices="cpu:0,1", precision=precision, workers=workers) as runner:
        np.testing.assert_array_equal(runner.predict({"x": x})["y"], models.run_onnx(path, {"x": x})["y"])


TRT = {"trt_fp16_enable": "1"}, {"trt_bf16_enable": "1"}, {"trt_int8_enable": "1"}
CUDA = ("CUDAExecutionProvider", {"device_id": "1"})
SETTINGS = [  # precision, device, the file's precision -> the settings of its provider
    ("fp32", "tensorrt:1", "fp32", {"device_id": "1"}),
    ("fp16", "tensorrt:1", "fp32", {"device_id": "1", **TRT[0]}),
    ("fp16", "tensorrt:1", "fp16", {"device_id": "1", **TRT[0]}),
    ("bf16", "tensorrt:1", "fp32", {"device_id": "1", **TRT[1]}),
    ("int8", "tensorrt:1", "int8", {"device_id": "1", **TRT[2]}),
    ("fp32", "gpu:1", "fp32", {"device_id": "1"}),
    ("fp16", "gpu:1", "fp16", {"device_id": "1"}),
    ("fp32", "ascend:1", "fp32", {"device_id": "1", "precision_mode": "must_keep_origin_dtype"}),
    ("fp16", "ascend:1", "fp32", {"device_id": "1", "precision_mode": "force_fp16"}),
    ("int8", "openvino:1", "int8", {"device_type": "CPU"}),
]


@pytest.mark.parametrize(("precision", "device", "stored", "settings"), SETTINGS)
def test_the_provider_s_own_options_set_the_precision(precision, device, stored, settings):
    found = settings_of(precision, device, stored)
    assert next(iter(found.values())) == settings
    assert list(found)[1:] == ([CUDA[0]] if device.startswith("tensorrt") else [])


def test_what_tensorrt_does_not_take_runs_on_the_same_card_by_cuda():
    found = settings_of(None, "tensorrt:1", "fp32")
    assert list(found.items()) == [("TensorrtExecutionProvider", {"device_id": "1"}), CUDA]


def test_openvino_on_intel_s_gpu_is_told_there():
    found = settings_of("fp16", "gpu:1", "fp32", provider="openvino")["OpenVINOExecutionProvider"]
    assert found["device_type"] == "GPU.1"
    assert json.loads(found["load_config"]) == {"GPU": {"INFERENCE_PRECISION_HINT": "f16"}}


def test_tensorrt_computes_a_float_file_in_int8_with_a_calibration_table():
    table = {"trt_int8_calibration_table_name": "table"}
    found = settings_of("int8", "tensorrt:0", "fp32", provider_options=table)["TensorrtExecutionProvider"]
    assert found == {"device_id": "0", **TRT[2], **table}


CONVERT = "ascend-parallel convert {path} --to onnx --precision"
REFUSED = [  # precision, device, the file's precision, options -> words of the message
    (
        "fp16",
        "cpu:0",
        "fp32",
        {},
        "fp32 model.*cpu does not compute in fp16; convert it: " + CONVERT + " fp16$",
    ),
    ("int8", "gpu:0", "fp32", {}, "provider cuda does not compute in int8; convert it: " + CONVERT + " int8$"),
    ("int8", "tensorrt:0", "fp32", {}, CONVERT + " int8 --devices tensorrt:0 --calibration FILE.npz$"),
    ("fp32", "cpu:0", "fp16", {}, "fp16 model.*does not compute in fp32; name a file of fp32, or leave precision out$"),
    ("fp32", "tensorrt:0", "int8", {}, "int8 model.*does not compute in fp32"),
    ("bf16", "ascend:0", "fp32", {}, "provider cann computes in fp32 or fp16$"),
    ("fp16", "cpu:0", "fp32", {"provider": "cudnn"}, "provider 'cudnn' is unknown"),
    (
        "fp16",
        "tensorrt:0",
        "fp32",
        {"provider_options": {"trt_fp16_enable": 0}},
        "it sets trt_fp16_enable .*too: leave",
    ),
    ("half", "cpu:0", "fp32", {}, "precision is 'half'; expected fp32, fp16, bf16 or int8$"),
]


@pytest.mark.parametrize(("precision", "device", "stored", "options", "words"), REFUSED)
def test_what_a_provider_cannot_is_one_sentence_that_says_what_can_be_done(precision, device, stored, options, words):
    with pytest.raises(UsageError, match=words.format(path=path_of(stored))):
        settings_of(precision, device, stored, **options)


def test_nothing_is_started_where_one_of_the_devices_cannot():
    before = procs.children()
    with pytest.raises(UsageError, match="provider cpu does not compute in bf16"):
        ParallelPredictUtils(path_of("fp32"), devices="openvino:0,cpu:0", precision="bf16")
    assert procs.children() == before


def test_a_file_whose_precision_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"the precision of m.ort cannot be read from it; name its .onnx file"):
        add_precision({}, "fp32", ORT, ["m.ort"], parse_devices("cpu"))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x08no")
    with pytest.raises(UsageError, match="broken.onnx is not an ONNX file"):
        ParallelPredictUtils(broken, devices="cpu", precision="fp32")


# ---- OpenVINO, whose CPU plugin takes any hint and says nothing

AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
CPUS = [  # flags -> what OpenVINO computes in
    (set(), {"fp32"}),
    ({"avx2"}, {"fp32"}),
    (AVX512, {"fp32", "bf16"}),
    (AVX512 | {"avx512_fp16"}, {"fp32", "bf16", "fp16"}),
    ({"avx_ne_convert", "avx_vnni_int8"}, {"fp32", "bf16", "fp16"}),
    ({"fphp", "asimdhp"}, {"fp32", "fp16"}),
]


@pytest.mark.parametrize(("flags", "possible"), CPUS)
def test_what_this_cpu_has_no_instructions_for_is_refused(flags, possible, monkeypatch):
    monkeypatch.setattr(providers, "read_cpu_flags", lambda: flags)
    for precision, hint in {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}.items():
        if precision in possible:
            found = settings_of(precision, "openvino:0", "fp32")["OpenVINOExecutionProvider"]
            assert json.loads(found["load_config"]) == {"CPU": {"INFERENCE_PRECISION_HINT": hint}}
        else:
            with pytest.raises(UsageError, match="this CPU has no instructions for it.*choose fp32"):
                settings_of(precision, "openvino:0", "fp32")


def test_the_flags_are_those_of_the_kernel():
    assert {"fpu", "fp"} & providers.read_cpu_flags()


# ---- MindSpore Lite


@pytest.mark.mslite
def test_mindspore_lite_computes_in_fp32_on_cpus():
    path = models.convert(models.linear())
    options = {"devices": "cpu", "worker_python": models.mslite_python()}
    x = np.ones((4, 8), np.float32)
    with ParallelPredictUtils(path, precision="fp32", **options) as runner:
        np.testing.assert_allclose(runner.predict([x])[0], models.run_onnx(models.linear(), {"x": x})["y"], rtol=1e-5)


@pytest.mark.parametrize(
    ("precision", "device", "options", "words"),
    [
        ("fp16", "cpu", {}, "MindSpore Lite computes in fp32 on cpu devices$"),
        ("int8", "ascend:0", {}, "MindSpore Lite computes in fp32 or fp16 on ascend devices$"),
        ("fp16", "ascend:0", {"precision_mode": "enforce_fp16"}, "engine option precision_mode was given, too"),
    ],
)
def test_what_mindspore_lite_cannot(precision, device, options, words):
    with pytest.raises(UsageError, match=words):
        add_precision(options, precision, MSLITE, ["m.mindir"], parse_devices(device))


def test_a_file_converted_for_ascend_has_its_precision(tmp_path):
    from ascend_parallel.model_manifest import Manifest

    told = dict(source="m.onnx", source_sha256="", rows=1, inputs=(), shape_options=(), converter="", recipe="")
    for precision, stored in (("fp32", "fp32"), (None, "fp16")):
        manifest = Manifest(target="ascend", precision=precision, converter_version="", **told)
        (tmp_path / "m.mindir.json").write_text(manifest.to_json())
        assert read_precision(str(tmp_path / "m.mindir")) == stored
    devices = parse_devices("ascend:0")
    assert add_precision({}, "fp16", MSLITE, [str(tmp_path / "m.mindir")], devices) == {"precision": "fp16"}
    with pytest.raises(UsageError, match="m.mindir was converted for Ascend in fp16: .* --precision fp32$"):
        add_precision({}, "fp32", MSLITE, [str(tmp_path / "m.mindir")], devices)


def test_the_context_of_mindspore_lite_gets_it(tmp_path, monkeypatch):
    """By a stand-in of its Python interface, without an Ascend."""
    seen = []

    class Settings:
        device_id = 0
        precision_mode = property(lambda self: "", lambda self, value: seen.append(value))

    spec = importlib.util.spec_from_file_location("mindspore_lite", STANDIN)
    standin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(standin)
    monkeypatch.setattr(standin, "_Settings", Settings)
    monkeypatch.setitem(sys.modules, "mindspore_lite", standin)
    path = tmp_path / "m.mindir"
    path.write_bytes(b"MindSpore")
    MSLITE(str(path), ("ascend", 0), {"precision": "fp16"})
    MSLITE(str(path), ("gpu", 0), {"precision": "fp32"})
    assert seen == ["enforce_fp16", "enforce_fp32"]


# ---- other engines, and map


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("module:factory", {"devices": "cpu"}, "a callable chooses it in its own code"),
        ("sim", {"devices": "simulated:0", "engine": "simulated"}, "the engine simulated does not choose it"),
        ("m.om", {"devices": "ascend:0"}, "ATC fixed it when it made the OM file: leave precision out, or convert"),
    ],
)
def test_engines_that_do_not_choose_it_refuse(model, options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.om").write_bytes(b"IMOD")
    with pytest.raises(UsageError, match=f"precision is 'fp16', which is not possible here: {words}"):
        ParallelPredictUtils(model, precision="fp16", **options)


def test_map_runs_a_model_file_in_a_precision(tmp_path):
    np.save(tmp_path / "row.npy", np.ones(8, np.float32))
    options = {"devices": "cpu", "precision": "int8"}
    (outcome,) = parallel_map(path_of("int8"), tmp_path, **options)
    assert outcome.ok, outcome.error
    with pytest.raises(UsageError, match="provider cpu does not compute in int8; convert it"):
        parallel_map(path_of("fp32"), tmp_path, **options)
    with pytest.raises(UsageError, match="precision is for model files; module:factory chooses its own"):
        parallel_map("module:factory", tmp_path, **options)


# ---- what this onnxruntime cannot do


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("tensorrt:0", "has no TensorrtExecutionProvider .* install onnxruntime-gpu"),
        ("openvino:0", "has no OpenVINOExecutionProvider .* install onnxruntime-openvino .*worker_python"),
    ],
)
def test_a_provider_that_this_onnxruntime_lacks_is_named_with_its_package(device, words):
    with pytest.raises(EngineError, match=words):
        ParallelPredictUtils(path_of("fp32"), devices=device).build_model()


def test_a_command_in_a_message_can_be_pasted(tmp_path):
    path = shutil.copy(models.linear(), tmp_path / "my model.onnx")
    with pytest.raises(UsageError, match=f"ascend-parallel convert '{path}' --to onnx --precision int8$"):
        ParallelPredictUtils(path, devices="cpu", precision="int8")


def test_threads_share_one_set_of_weights_by_the_hardware():
    from ascend_parallel.backends.threads.building import group_by_weights
    from ascend_parallel.runner.options import make_worker_specs

    devices = parse_devices("cpu:0,1,openvino:0,1,tensorrt:0,1")
    specs = make_worker_specs({"": path_of("fp32")}, ORT, devices, {}, 1, None, 0)
    groups = [[spec.device for spec in group] for group in group_by_weights(specs, can_share=True)]
    assert groups == [["cpu:0", "cpu:1"], ["openvino:0", "openvino:1"], ["tensorrt:0"], ["tensorrt:1"]]

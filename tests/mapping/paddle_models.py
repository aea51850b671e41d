"""Tiny models with random weights that the real PaddleX and PaddleOCR load, and pictures; nothing is downloaded.

A model is a folder with ``inference.onnx`` and ``inference.yml``, like Paddle's own model folders. It runs on Paddle's
onnxruntime engine, so paddlepaddle need not be installed.
"""

from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

#: The only model that the doc_preprocessor pipeline always uses: the orientation of a page.
ORIENTATION = "PP-LCNet_x1_0_doc_ori"
ANGLES = ["0", "90", "180", "270"]
#: The side of the network's input, in pixels.
_SIDE = 224


def write_model(folder, name=ORIENTATION, labels=ANGLES, seed=0) -> Path:
    """Write an image classifier with random weights, and return its folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(_classifier(len(labels), np.random.default_rng(seed)), folder / "inference.onnx")
    (folder / "inference.yml").write_text(yaml.safe_dump(_describe(name, labels), sort_keys=False))
    return folder


def write_pipeline(folder, model_dir=None, threads=None) -> Path:
    """Write ``doc_preprocessor.yaml`` with its model beside it, and return its path.

    ``model_dir`` is the path of the model's folder in the configuration, relative to the working directory of its user.
    ``threads`` is the model's number of threads; None leaves it out of the configuration.
    """
    orientation_dir = write_model(Path(folder) / ORIENTATION)
    orientation = {
        "module_name": "doc_text_orientation",
        "model_name": ORIENTATION,
        "model_dir": str(model_dir or orientation_dir),
        "engine": "onnxruntime",
    }
    if threads is not None:
        orientation["engine_config"] = {"intra_op_num_threads": threads}
    path = Path(folder) / "doc_preprocessor.yaml"
    pipeline = {
        "pipeline_name": "doc_preprocessor",
        "use_doc_orientation_classify": True,
        "use_doc_unwarping": False,
        "SubModules": {"DocOrientationClassify": orientation},
    }
    path.write_text(yaml.safe_dump(pipeline, sort_keys=False))
    return path


def write_pictures(folder, count, size=64) -> list[Path]:
    """Write ``count`` different PNG pictures of coloured patches, and return their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    paths = [folder / f"page{number:04d}.png" for number in range(count)]
    for path in paths:
        patches = random.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(patches).resize((size, size), Image.Resampling.NEAREST).save(path)
    return paths


def _classifier(classes, random):
    """A convolution, relations between its features in each part of the picture, and a linear layer."""
    channels, parts = 8, 2

    def weight(name, *shape):
        values = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))  # small, so that no score is exactly 1.0
        return numpy_helper.from_array(values.astype(np.float32), name)

    kernel = _SIDE // 8 // parts
    nodes = [
        helper.make_node("Conv", ["x", "filters"], ["features"], strides=[8, 8]),
        helper.make_node("Relu", ["features"], ["positive"]),
        helper.make_node("AveragePool", ["positive"], ["pooled"], kernel_shape=[kernel] * 2, strides=[kernel] * 2),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("ReduceMean", ["flat"], ["mean"], axes=[1]),
        helper.make_node("Sub", ["flat", "mean"], ["centred"]),  # otherwise all pictures would get the same label
        helper.make_node("MatMul", ["centred", "layer"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, _SIDE, _SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", classes])],
        [weight("filters", channels, 3, 8, 8), weight("layer", channels * parts * parts, classes)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def _describe(name, labels):
    """The content of ``inference.yml``: PP-LCNet's resizing and ImageNet's means."""
    normalize = {
        "channel_num": 3,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "scale": 1 / 255,
        "order": "",
    }
    steps = [
        {"ResizeImage": {"resize_short": 256}},
        {"CropImage": {"size": _SIDE}},
        {"NormalizeImage": normalize},
        {"ToCHWImage": None},
    ]
    return {
        "Global": {"model_name": name},
        "PreProcess": {"transform_ops": steps},
        "PostProcess": {"Topk": {"topk": 1, "label_list": labels}},
    }

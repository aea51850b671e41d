"""Folders in Stable Diffusion's layout, with random models of any size, dtypes and names instead of real ones."""

import json
import shutil

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 13
IR_VERSION = 8
VOCABULARY = 600  # more than the tiny tokenizer's
ENLARGED = 8  # pixels of a picture per pixel of a latent, as in Stable Diffusion
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def make_folder(
    path,
    tokenizer,
    *,
    latent=(4, 6, 10),
    batch="batch",
    tokens=77,
    width=5,
    ids=TensorProto.INT64,
    timestep=TensorProto.INT64,
    timestep_shape=(1,),
    names=("input_ids", "sample", "timestep", "encoder_hidden_states", "latent_sample"),
    settings=None,
):
    """Write a complete folder and return its path; sizes that are strings leave axes open."""
    rng = np.random.default_rng(0)
    shutil.copytree(tokenizer, path / "tokenizer")
    write_json(path / "scheduler" / "scheduler_config.json", SCHEDULER)
    for name, content in (settings or {}).items():
        write_json(path / name / "config.json", content)
    channels = latent[0] if isinstance(latent[0], int) else 4
    _text_encoder(path, rng, names[0], ids, [batch, tokens], width)
    _unet(path, rng, names[1:4], [batch, *latent], (timestep, timestep_shape), [batch, tokens, width], channels)
    _decoder(path, rng, names[4], [batch, *latent], channels)
    return path


def write_json(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def _text_encoder(path, rng, name, dtype, shape, width):
    nodes = [helper.make_node("Gather", ["table", name], ["last_hidden_state"])]
    columns = width if isinstance(width, int) else 5
    _save(
        path / "text_encoder",
        nodes,
        [helper.make_tensor_value_info(name, dtype, shape)],
        [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*shape, width])],
        {"table": rng.standard_normal((VOCABULARY, columns), np.float32)},
    )


def _unet(path, rng, names, shape, timestep, text_shape, channels):
    """0.5 sample + (mean of the text + time step / 1000) per channel, weighted."""
    sample, step, text = names
    nodes = [
        helper.make_node("ReduceMean", [text], ["mean"], axes=[1, 2], keepdims=1),
        helper.make_node("Reshape", ["mean", "four"], ["lifted"]),
        helper.make_node("Cast", [step], ["as_float"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["as_float", "four"], ["time"]),
        helper.make_node("Mul", ["time", "per_mille"], ["share"]),
        helper.make_node("Add", ["lifted", "share"], ["both"]),
        helper.make_node("Mul", ["both", "weights"], ["weighted"]),
        helper.make_node("Mul", [sample, "half"], ["halved"]),
        helper.make_node("Add", ["halved", "weighted"], ["out_sample"]),
    ]
    constants = {
        "four": np.array([-1, 1, 1, 1], np.int64),
        "half": np.array([0.5], np.float32),
        "per_mille": np.array([0.001], np.float32),
        "weights": rng.standard_normal((1, channels, 1, 1), np.float32),
    }
    inputs = [
        helper.make_tensor_value_info(sample, TensorProto.FLOAT, shape),
        helper.make_tensor_value_info(step, *timestep),
        helper.make_tensor_value_info(text, TensorProto.FLOAT, text_shape),
    ]
    outputs = [helper.make_tensor_value_info("out_sample", TensorProto.FLOAT, shape)]
    _save(path / "unet", nodes, inputs, outputs, constants)


def _decoder(path, rng, name, shape, channels):
    nodes = [
        helper.make_node("Conv", [name, "weights"], ["colours"]),
        helper.make_node("Tanh", ["colours"], ["bounded"]),
        helper.make_node("Resize", ["bounded", "", "scales"], ["sample_out"], mode="nearest"),
    ]
    constants = {
        "weights": rng.standard_normal((3, channels, 1, 1), np.float32) / 4,
        "scales": np.array([1, 1, ENLARGED, ENLARGED], np.float32),
    }
    sides = [side * ENLARGED if isinstance(side, int) else f"{side}_of_picture" for side in shape[2:]]
    outputs = [helper.make_tensor_value_info("sample_out", TensorProto.FLOAT, [shape[0], 3, *sides])]
    _save(
        path / "vae_decoder", nodes, [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)], outputs, constants
    )


def _save(folder, nodes, inputs, outputs, constants):
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, folder.name, inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    folder.mkdir(exist_ok=True)
    onnx.save(model, folder / "model.onnx")

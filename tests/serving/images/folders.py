"""Folders of models for tests: the tiny model with a single time step, one of any size, one of fixed batch."""

import shutil

import onnx
from commands import TINY
from onnx import TensorProto
from standins import make_folder


def write_single_timestep(path):
    """Copy the tiny model; its U-Net takes one time step for all rows, as the tutorial's does."""
    shutil.copytree(TINY, path)
    model = onnx.load(path / "unet" / "model.onnx")
    model.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, path / "unet" / "model.onnx")
    return path


def write_open_sizes(path):
    """Write random models that leave the size of pictures open, as optimum's exports do; by default it is 64 x 64."""
    settings = {"unet": {"in_channels": 4, "sample_size": 8}}
    return make_folder(
        path,
        TINY / "tokenizer",
        latent=(4, "height", "width"),
        timestep=TensorProto.INT64,
        timestep_shape=("batch",),
        settings=settings,
    )


def write_fixed_batch(path):
    """Write the same random models for two rows, with one time step for both, and for pictures of 64 x 64 alone."""
    return make_folder(path, TINY / "tokenizer", latent=(4, 8, 8), batch=2, timestep=TensorProto.INT64)

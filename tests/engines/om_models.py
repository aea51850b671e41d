"""Models for the stand-in of pyACL: files that say their inputs, outputs, gears and what to compute, and references."""

import json

import numpy as np

SOC = "Ascend310P3"
W = np.random.default_rng(7).standard_normal((8, 5)).astype(np.float32)
B = np.random.default_rng(8).standard_normal(5).astype(np.float32)


def write(path, inputs, outputs, **rest):
    """Write a model; inputs are name -> (dtype, sizes), outputs are name -> (dtype, numpy expression)."""
    content = {
        "soc": SOC,
        "inputs": [{"name": name, "dtype": dtype, "dims": dims} for name, (dtype, dims) in inputs.items()],
        "outputs": [{"name": name, "dtype": dtype, "expr": expr} for name, (dtype, expr) in outputs.items()],
        **rest,
    }
    path.write_bytes(b"IMOD" + json.dumps(content).encode())
    return path


def linear(path, rows, **rest):
    """x (rows, 8) @ w + b -> y (rows, 5), with weights; rows is -1 where gears set it."""
    weights = {"w": W.tolist(), "b": B.tolist()}
    return write(
        path, {"x": ("float32", [rows, 8])}, {"MatMul_0:0:y": ("float32", "x @ w + b")}, weights=weights, **rest
    )


def linear_reference(x):
    return x @ W + B


def images(path):
    """A batch of 2 pictures of three sizes, whose means come out beside the pictures' negatives."""
    return write(
        path,
        {"image": ("uint8", [2, 3, -1, -1])},
        {
            "Sub_1:0:negative": ("uint8", "255 - image"),
            "Mean_2:0:mean": ("float32", "image.astype('float32').mean((2, 3))"),
        },
        gears={"hw": [[4, 6], [8, 8], [2, 2]]},
    )


def sequences(path):
    """ids (rows, length) and mask (rows, length) -> total (rows,), in gears of all sizes."""
    gears = [[rows, length] * 2 for rows in (1, 4) for length in (3, 6)]
    return write(
        path,
        {"ids": ("int64", [-1, -1]), "mask": ("float16", [-1, -1])},
        {"total": ("float32", "(ids * mask).sum(1)")},
        gears={"dims": gears},
    )

"""The model of this example: a small classifier in numpy. Any .onnx or .mindir file takes its place."""

import numpy as np

LABELS = 4
FEATURES = 8


def make(device):
    """Return the function that runs the model; each worker calls this once, with its device."""
    weights = np.random.default_rng(0).standard_normal((FEATURES, LABELS)).astype(np.float32)

    def classify(inputs):
        scores = np.exp(inputs["features"] @ weights)
        return {"probabilities": scores / scores.sum(axis=1, keepdims=True)}

    return classify

"""An engine of one's own: linear models in .npz files, computed by numpy."""

from __future__ import annotations

import numpy as np

from ascend_parallel import Engine, TensorSpec


class NpzEngine(Engine):
    """Computes ``logits = x @ weights + bias``; the file holds the two arrays."""

    suffixes = (".npz",)
    device_types = ("cpu",)
    options = {"scale": (int, float)}
    can_share = True

    def __init__(self, model: str, device: tuple[str, int], options: dict[str, object]) -> None:
        with np.load(model) as arrays:
            missing = {"weights", "bias"} - set(arrays.files)
            if missing:
                raise ValueError(f"{model} holds no array {' and '.join(sorted(missing))}")
            self._use(arrays["weights"] * options.get("scale", 1), arrays["bias"])

    def _use(self, weights: np.ndarray, bias: np.ndarray) -> None:
        self._weights, self._bias = weights, bias
        self.inputs = [TensorSpec("x", weights.dtype.name, ("batch", weights.shape[0]))]
        self.outputs = [TensorSpec("logits", weights.dtype.name, ("batch", weights.shape[1]))]

    def share(self) -> NpzEngine:
        """Return an engine for one more thread, over the same arrays."""
        other = NpzEngine.__new__(NpzEngine)
        other._use(self._weights, self._bias)
        return other

    def predict(
        self, names: list[str] | None, inputs: list[np.ndarray], destinations: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Compute into the destination where there is one that fits, else into a new array."""
        x = inputs[0]
        out = destinations.get("logits")
        if out is not None and (out.shape != (len(x), len(self._bias)) or out.dtype != self._weights.dtype):
            out = None
        logits = np.matmul(x, self._weights, out=out)
        logits += self._bias
        return {"logits": logits}

"""The ``op`` engine of pipelines: an op, with the model that it may have.

It takes one uint8 array with the requests of a task, and further arrays that lie in shared memory already. It returns
one uint8 array with an answer for each request (see ops/packing.py). A request is ``{"inputs": {name: value}}``. An
answer is ``{"outputs": {name: value}}`` or ``{"error": [kind, code, text, traceback]}`` (see ops/failures.py).
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence, Tuple

import numpy as np

from .base import Arrays, Engine
from .pipeline import has_room

#: The name of the output: the answers.
REPLY = "reply"
#: The values of the option ``interface``.
OWN, PADDLE_SERVING = "op", "paddle_serving"


class OpEngine(Engine):
    """An op.

    ``model`` is the model of the inner engine: the absolute path of a file, or any text; "" without one. Options:

    - ``name``: the op's name, for errors.
    - ``engine``, ``engine_options``: the inner engine's name, "" without a model, and its options, with ``threads`` and
      the like where it asks for them.
    - ``python``, ``options``: ``module:Class`` or ``file.py:Class``, None for a model alone; its keyword arguments.
    - ``interface``: "op" (see ops/user_op.py), the default, or "paddle_serving" (see ops/paddle_op.py).
    - ``max_batch_size``: the most rows of one run of the model; None, the default: any number.
    - ``pad``: input name -> pad rule (see ops/padding.py).
    - ``rename``: name for the Python -> name of the model's input or output, where they differ.
    - ``fetch_list``: with "paddle_serving", the names of the outputs that the op gets; None, the default: all.
    """

    name = "op"
    device_types = ("ascend", "gpu", "tensorrt", "openvino", "simulated", "cpu")
    options = None
    may_run_in_threads = False  # the Python of users does not run in the server's process

    def __init__(self, model: str, device: Tuple[str, int], options: Dict[str, Any]) -> None:
        from ..ops.packing import unpack

        self._unpack = unpack
        name = options.get("name", "")
        self._may_write = options.get("interface") == PADDLE_SERVING  # arrays belong to the op there
        self._inner: Optional[Engine] = None
        try:
            self._inner = build_inner(model, device, options) if options.get("engine") else None
            self._runner = build_runner(name, self._inner, device, options)
            if self._inner is not None:
                warm_up(self._inner)
        except Exception as error:
            self.close()
            raise RuntimeError("op %r: %s" % (name, error)) from error

    def predict(self, names: Optional[Sequence[str]], inputs: Sequence[np.ndarray], destinations: Arrays) -> Arrays:
        """Answer the requests of a task; a request's error is in its answer and is not raised."""
        if self._may_write:
            inputs = [array.copy() for array in inputs]
        answers = self._runner.answer(self._unpack(inputs[0], inputs[1:]))
        packed = self._runner.pack(answers)
        reply = destinations.get(REPLY)
        if reply is None or not has_room(reply, packed.size_bytes):
            return {REPLY: packed.to_array()}
        packed.write_to(reply)
        return {REPLY: reply}

    def close(self) -> None:
        """Close the inner engine."""
        if self._inner is not None:
            self._inner.close()


def build_inner(model: str, device: Tuple[str, int], options: Dict[str, Any]) -> Engine:
    """Return the engine of the op's model."""
    from . import build_engine, find_engine

    return build_engine(find_engine(options["engine"]), model, device, options.get("engine_options") or {})


def warm_up(inner: Engine) -> None:
    """Run the model once on zeros, where its shapes are known: the first request need not wait for what that takes."""
    from ..building import zeros_for

    zeros = zeros_for(inner)
    if zeros is not None:
        inner.predict([spec.name for spec in inner.inputs or ()], zeros, {})


def build_runner(name: str, inner: Optional[Engine], device: Tuple[str, int], options: Dict[str, Any]) -> Any:
    """Return what answers the requests of a task."""
    from ..ops.model_runner import ModelRunner
    from ..ops.paddle_op import make_paddle_op
    from ..ops.renamed import RenamedEngine
    from ..ops.request_runner import RequestRunner
    from ..ops.user_op import UserOp

    is_paddle = options.get("interface", OWN) == PADDLE_SERVING
    model = None
    if inner is not None:
        casting = "unsafe" if is_paddle else "same_kind"  # Paddle Serving converts whatever comes
        inner = RenamedEngine(inner, options["rename"]) if options.get("rename") else inner
        model = ModelRunner(inner, options.get("max_batch_size"), options.get("pad") or {}, casting)
    python, keywords = options.get("python"), options.get("options") or {}
    if is_paddle:
        return RequestRunner(name, make_paddle_op(name, python, keywords, model, options.get("fetch_list")), model)
    return RequestRunner(name, UserOp(python, keywords, "%s:%d" % device, model), model)

"""Ops of Paddle Serving 0.9.0, run unchanged as far as they touch no paddle.

A request is ``{"inputs": {name of an op: dict}, "data_id": int, "log_id": int}``. What is called, and with what, is as
there:

- ``init_op()``, once a process.
- ``preprocess(input_dicts, data_id, log_id)`` returns (feeds, is_skip_process, prod_errcode, prod_errinfo). Feeds are a
  dict, or a list of dicts, the mini-batches. If ``is_skip_process`` is True, or there is no model, postprocess gets the
  feeds as they are.
- ``process(feed_batch, typical_logid)`` returns (outputs, errcode, errinfo). It is called where a class has its own,
  with a list of one feed; else the model is run, on the feeds of several requests together.
- ``postprocess(input_dicts, outputs, data_id, log_id)`` returns (dict, prod_errcode, prod_errinfo).

Arrays are the op's own, to be kept and written to. Three things are better than there: ``is_skip_process`` holds for
its request also among others, requests of different shapes do not disturb each other, and what preprocess keeps in
``self`` is found by postprocess as its own request left it.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional

import numpy as np

from ..engines.callable import load_module
from .adapter import OpAdapter, Prepared
from .failures import WrongAnswer, WrongFeeds, WrongValue
from .interface import Skip
from .model_runner import ModelRunner
from .paddle_calls import call, read_tuple, refuse
from .paddle_ends import PaddleRequestOp, PaddleResponseOp
from .paddle_graph import find_attribute, find_graph, is_subclass, load_file
from .paddle_stand_ins import Op, PipelineServer, RequestOp, ResponseOp, WebService, install
from .user_op import check_answer, read_prepared

_PRODUCT_ERROR = ("prod_errcode", "prod_errinfo")
_FEEDS = "feeds that are a dict of input name -> array, or a list of such dicts (mini-batches)"


class _Unprocessed:
    """Feeds for which the user's own ``process`` is called."""

    def __init__(self, feeds: Any) -> None:
        self.feeds = feeds


def make_paddle_op(
    name: str,
    python: Optional[str],
    options: Dict[str, Any],
    model: Optional[ModelRunner],
    fetch_list: Optional[List[str]] = None,
) -> OpAdapter:
    """Build the user's op.

    Args:
        name: the op's name.
        python: ``file.py:Class`` of an op; or of a service, which builds the op of this name. None: the base class.
        options: further arguments of the op's class.
        model: the model; None where the op has none.
        fetch_list: the outputs that the op gets; None: all.

    Raises:
        Exception: it cannot be built; the message is a sentence.
    """
    install()
    op = build_op(name, python, options)
    if isinstance(op, (RequestOp, ResponseOp)):  # its init_op was called by its constructor, as there
        if model is not None:
            raise ValueError("%s is a %s, which has no model" % (python, type(op).__mro__[1].__name__))
        return PaddleRequestOp(op) if isinstance(op, RequestOp) else PaddleResponseOp(op)
    made = PaddleOp(op, model, fetch_list)
    try:
        op.init_op()
    except Exception as error:
        raise RuntimeError("init_op of %s raised %s: %s" % (python, type(error).__name__, error)) from error
    return made


class PaddleOp(OpAdapter):
    """An op of Paddle Serving."""

    def __init__(self, op: Op, model: Optional[ModelRunner], fetch_list: Optional[List[str]] = None) -> None:
        """Take the user's op before its ``init_op``; see :func:`make_paddle_op`."""
        self.target = self._op = op
        self._model = model
        self._fetch_list = fetch_list
        self._op.with_serving = model is not None
        self._op._run_model = self._run_model
        self.has_preprocess = type(op).preprocess is not Op.preprocess
        self._has_own_process = type(op).process is not Op.process

    def preprocess(self, entry: Dict[str, Any]) -> Prepared:
        """Return the feeds of a request."""
        returned = call(self._op.preprocess, entry["inputs"], entry["data_id"], entry["log_id"])
        feeds, is_skip, code, text = read_tuple("preprocess", returned, "feeds", "is_skip_process", *_PRODUCT_ERROR)
        refuse(code, text)
        if is_skip is True or self._model is None:
            return Prepared([Skip(feeds)], False)
        prepared = read_prepared(feeds, "preprocess", _FEEDS)
        return Prepared([Skip(_Unprocessed(prepared))], False) if self._has_own_process else prepared

    def postprocess(self, entry: Dict[str, Any], prepared: Prepared, outputs: List[Any]) -> Dict[str, Any]:
        """Return the answer to a request, from what came of its feeds."""
        given = [
            found if isinstance(feed, Skip) else self._fetch(found) for feed, found in zip(prepared.feeds, outputs)
        ]
        fetched = given if prepared.is_list else given[0]
        if isinstance(fetched, _Unprocessed):
            fetched = self._process(fetched.feeds, entry["data_id"])  # which Paddle Serving passes there, too
        returned = call(self._op.postprocess, entry["inputs"], fetched, entry["data_id"], entry["log_id"])
        answer, code, text = read_tuple("postprocess", returned, "dict", *_PRODUCT_ERROR)
        refuse(code, text)
        return check_answer("postprocess", answer)

    def _process(self, prepared: Prepared, typical_logid: int) -> Any:
        """Call the user's own ``process`` for each feed."""
        found = []
        for feed in prepared.feeds:
            returned = call(self._op.process, [feed], typical_logid)
            outputs, code, text = read_tuple("process", returned, "outputs", "errcode", "errinfo")
            refuse(code or None, text)
            found.append(outputs)
        return found if prepared.is_list else found[0]

    def _run_model(self, feed: Dict[str, Any]) -> Dict[str, np.ndarray]:
        """Run the model on one feed: what ``Op.process`` does."""
        if self._model is None:
            raise RuntimeError("the op has no model")
        try:
            read = self._model.read(feed)
        except WrongValue as error:
            raise WrongFeeds("what process was given does not fit the model: %s" % error) from error
        outcome = self._model.run([read])[0]
        if isinstance(outcome, Exception):
            raise outcome
        return self._fetch(outcome)

    def _fetch(self, outputs: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        if not self._fetch_list:
            return outputs
        missing = [name for name in self._fetch_list if name not in outputs]
        if missing:
            raise WrongAnswer(
                "fetch_list names %r, which is no output of the model; it has: %s" % (missing[0], ", ".join(outputs))
            )
        return {name: outputs[name] for name in self._fetch_list}


def build_op(name: str, python: Optional[str], options: Dict[str, Any]) -> Op:
    """Return the user's op."""
    if python is None:
        return Op(name=name, input_ops=[], **options)
    source, _, where = python.rpartition(":")
    module = load_file(source) if source.endswith(".py") else load_module(source)
    found = find_attribute(module, where, source)
    if isinstance(found, (WebService, PipelineServer)) or is_subclass(found, WebService):
        ops = {op.name: op for op in find_graph(module, source).ops}
        if name not in ops:
            raise ValueError("%s builds no op named %r; it has: %s" % (python, name, ", ".join(ops)))
        return ops[name]
    if is_subclass(found, RequestOp):
        return found(**options)  # type: ignore[no-any-return]
    if is_subclass(found, ResponseOp):
        return found(input_ops=[], **options)  # type: ignore[no-any-return]
    if not is_subclass(found, Op):
        raise TypeError("%s is no subclass of paddle_serving_server's Op, and no WebService" % python)
    return found(name=name, input_ops=[], **options)  # type: ignore[no-any-return]

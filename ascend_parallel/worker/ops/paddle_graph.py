"""The ops of a file of Paddle Serving, and what reads what; for ``migrate``, and to find an op in a worker::

    python3.8 .../ascend_parallel/worker/__main__.py paddle-graph web_service.py

It imports the file, with stand-ins for ``paddle_serving_server``, and writes one JSON object in a line to stdout:
``{"error": "..."}``, or what :func:`read_graph` returns. What the file prints meanwhile goes to stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from ..engines.callable import load_module
from .paddle_stand_ins import REQUEST_NAME, Op, PipelineServer, RequestOp, ResponseOp, WebService, install

#: The methods of an op that users write.
_METHODS = ("init_op", "preprocess", "process", "postprocess")


class Graph(NamedTuple):
    """The ops that a file builds.

    Attributes:
        name: of the service; "" where it has none.
        owner: the name in the file of the service's class, or of the server.
        config: what the service is configured with: the path of a file, a dict, or None.
        ops: each behind those that it reads.
        ends: the RequestOp and the ResponseOp, each None where the file does not name it.
    """

    name: str
    owner: str
    config: Any
    ops: List[Op]
    ends: Tuple[Optional[Op], Optional[Op]] = (None, None)


def read_graph(path: str) -> Dict[str, Any]:
    """Return the ops of a file, as plain values.

    Args:
        path: of the file, such as ``web_service.py``. It is imported, so this is best done in a process of its own.

    Returns:
        ``{"service": name, "config": path, dict or None, "request": ..., "response": ..., "ops": [...]}``. ``request``
        and ``response`` are the option ``python`` for subclasses of RequestOp and ResponseOp; None where the file has
        none. Each op is ``{"name", "class", "python",
        "inputs", "methods", "arguments"}``: the name of its class; what the option ``python`` of the engine is for it;
        the names of the ops that it reads, :data:`.paddle_stand_ins.REQUEST_NAME` for the request; which of
        ``init_op``, ``preprocess``, ``process`` and ``postprocess`` it has of its own; and the further arguments of its
        constructor, such as ``concurrency``, as text where they are no plain values.

    Raises:
        Exception: the file cannot be imported, or builds no graph; the message is a sentence.
    """
    module = load_file(path)
    graph = find_graph(module, path)
    return {
        "service": graph.name,
        "config": plain(graph.config),
        "request": _place_of_end(graph.ends[0], RequestOp, module, path),
        "response": _place_of_end(graph.ends[1], ResponseOp, module, path),
        "ops": [_describe(op, graph, module, path) for op in graph.ops],
    }


def _describe(op: Op, graph: Graph, module: Any, path: str) -> Dict[str, Any]:
    kind = type(op)
    name = kind.__qualname__
    if kind is Op:
        python = None
    elif kind.__init__ is Op.__init__ and getattr(module, name, None) is kind:
        python = "%s:%s" % (path, name)
    else:  # only the file itself knows how to build it
        python = "%s:%s" % (path, graph.owner)
    return {
        "name": op.name,
        "class": name,
        "python": python,
        "inputs": [other.name for other in op.get_input_ops()],
        "methods": [method for method in _METHODS if getattr(kind, method) is not getattr(Op, method)],
        "arguments": {key: plain(value) for key, value in op.arguments.items()},
    }


def _place_of_end(op: Optional[Op], base: Any, module: Any, path: str) -> Optional[str]:
    """Return where a subclass of RequestOp or ResponseOp is; None for the class itself."""
    if op is None or type(op) is base:
        return None
    name = type(op).__qualname__
    if getattr(module, name, None) is not type(op):
        raise ValueError("the %s of %s is a %s, which is not in that file" % (base.__name__, path, name))
    return "%s:%s" % (path, name)


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: text in place of what it cannot."""
    return json.loads(json.dumps(value, default=str))


def load_file(path: str) -> Any:
    """Import a file of Paddle Serving with stand-ins, as if it were run in its folder; raises ImportError."""
    install()
    del WebService.made[:], PipelineServer.made[:]
    folder = os.path.dirname(os.path.abspath(path))
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        with _argv([path]):
            return load_module(path)
    except (Exception, SystemExit) as error:
        raise ImportError("%s cannot be imported: %s: %s" % (path, type(error).__name__, error)) from error


@contextlib.contextmanager
def _argv(words: List[str]) -> Iterator[None]:
    """Set the command line: files of PaddleOCR read it."""
    kept = sys.argv
    sys.argv = words
    try:
        yield
    finally:
        sys.argv = kept


def find_graph(module: Any, path: str) -> Graph:
    """Return the graph that a loaded file builds; raises ValueError where there is none, or it is wrong."""
    for server in PipelineServer.made:
        if server.response_op is not None:
            owner = next((name for name, value in vars(module).items() if value is server), "")
            ops = order_ops(server.response_op.get_input_ops(), path)
            return Graph(server.name or "", owner, server.config, ops, (find_request(ops), server.response_op))
    classes = [value for value in vars(module).values() if is_subclass(value, WebService) and value is not WebService]
    services = WebService.made[:] or [kind() for kind in classes[:1]]
    if not services:
        raise ValueError("%s makes no WebService, and no PipelineServer with a response op" % path)
    service, kind = services[0], type(services[0]).__qualname__
    last = service.get_pipeline_response(RequestOp())
    if not isinstance(last, Op):
        raise ValueError(
            "get_pipeline_response of %s in %s returned a %s; expected the last op" % (kind, path, type(last).__name__)
        )
    ops = order_ops([last], path)
    return Graph(service.name, kind, service.config, ops, (find_request(ops), None))


def find_request(ops: List[Op]) -> Optional[Op]:
    """Return what the first ops read."""
    return next((other for op in ops for other in op.get_input_ops() if other.name == REQUEST_NAME), None)


def find_attribute(module: Any, where: str, path: str) -> Any:
    """Return what a dotted name in a module names; raises AttributeError with a sentence."""
    found = module
    for part in where.split("."):
        if not hasattr(found, part):
            raise AttributeError("%s has no %s" % (path, where))
        found = getattr(found, part)
    return found


def order_ops(last: List[Op], path: str) -> List[Op]:
    """Return all ops that these read, directly or not, and these, each behind those that it reads."""
    ordered: List[Op] = []
    by_name: Dict[str, Op] = {}

    def visit(op: Op, above: List[Op]) -> None:
        if op in above:
            raise ValueError("the ops of %s form a circle: %s" % (path, " -> ".join(o.name for o in [*above, op])))
        if by_name.setdefault(op.name, op) is not op:
            raise ValueError("%s has two ops named %r" % (path, op.name))
        if op in ordered:
            return
        for other in op.get_input_ops():
            visit(other, [*above, op])
        if op.name != REQUEST_NAME:
            ordered.append(op)

    for op in last:
        visit(op, [])
    return ordered


def is_subclass(value: Any, base: type) -> bool:
    """Whether a value is a class, and one of these."""
    return isinstance(value, type) and issubclass(value, base)


def main(argv: List[str]) -> None:
    """Write the graph of a file, or the error, and end the process."""
    answer_fd = os.dup(1)
    os.dup2(2, 1)
    try:
        answer = read_graph(argv[0])
    except Exception as error:
        answer = {"error": str(error)}
    os.write(answer_fd, json.dumps(answer).encode() + b"\n")
    os._exit(0)

"""Which nodes of a model ONNX Runtime runs on which provider.

ONNX Runtime keeps a node that a provider has no kernel for on the CPU, and says nothing: a model then holds the memory
of a GPU or NPU while the CPU computes it. The session tells the assignment from version 1.24 on, if its configuration
asks for it.
"""

from __future__ import annotations

from typing import Any, Dict, Optional

#: Provider -> operator -> number of nodes, such as ``{"CPUExecutionProvider": {"Hardmax": 1}}``.
Assignment = Dict[str, Dict[str, int]]

CPU = "CPUExecutionProvider"
#: What the engine's option ``fallback`` may be.
FALLBACKS = ("refuse", "warn", "allow")
#: Entries of the session's configuration.
RECORD = "session.record_ep_graph_assignment_info"
REFUSE = "session.disable_cpu_ep_fallback"
#: A part of the error of a session that was refused the CPU.
_REFUSED_WORDS = "fallback to CPU EP has been explicitly disabled"
#: Operators that compute shapes and indices. ONNX Runtime puts them on the CPU on purpose, and they cost nothing there.
# fmt: off
_LIGHT = frozenset((
    "Shape", "Size", "Constant", "ConstantOfShape", "Range", "Gather", "Concat", "Slice", "Split", "Squeeze",
    "Unsqueeze", "Reshape", "Flatten", "Identity", "Cast", "Add", "Sub", "Mul", "Div", "Mod", "Neg", "Floor",
    "Ceil", "Min", "Max", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Not", "And", "Or",
    "Where", "Expand", "ReduceProd", "ReduceMin", "ReduceMax", "NonZero", "If", "Loop",
))
# fmt: on
#: Above this share of the nodes even such operators are no matter of shapes any more.
_MAX_LIGHT_SHARE = 0.5


def configure(runtime: Any, session_options: Any, fallback: str, is_cpu: bool) -> None:
    """Ask a session for its assignment, where its version can tell it; have it refuse the CPU if ``fallback`` says so.

    The CPU's own provider (``is_cpu``) has nothing to fall back to.

    Raises:
        ValueError: ``fallback`` is none of :data:`FALLBACKS`.
    """
    if fallback not in FALLBACKS:
        raise ValueError("fallback is %r; expected one of %s" % (fallback, ", ".join(FALLBACKS)))
    if hasattr(runtime.InferenceSession, "get_provider_graph_assignment_info"):
        session_options.add_session_config_entry(RECORD, "1")
    if fallback == "refuse" and not is_cpu:
        session_options.add_session_config_entry(REFUSE, "1")


def was_refused(error: Exception) -> bool:
    """Whether a session was not made because some of its nodes would run on the CPU."""
    return _REFUSED_WORDS in str(error)


def read_assignment(session: Any) -> Optional[Assignment]:
    """Return a session's assignment; None where this version of ONNX Runtime does not tell it.

    Its nodes are those after the basic optimizations of the graph.
    """
    try:
        subgraphs = session.get_provider_graph_assignment_info()
    except (AttributeError, RuntimeError):  # before 1.24; or a build that does not record it
        return None
    assignment: Assignment = {}
    for subgraph in subgraphs:
        counts = assignment.setdefault(subgraph.ep_name, {})
        for node in subgraph.get_nodes():
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return assignment


def warn_of_cpu(assignment: Assignment, wanted: str) -> str:
    """Return a warning that nodes of weight run on the CPU; "" where none does.

    Operators that compute shapes weigh nothing, unless they are most of the model.
    """
    on_cpu = assignment.get(CPU, {})
    count, total = sum(on_cpu.values()), sum(sum(counts.values()) for counts in assignment.values())
    heavy = {name: number for name, number in on_cpu.items() if name not in _LIGHT}
    if not heavy and count <= _MAX_LIGHT_SHARE * total:
        return ""
    return (
        "warning: %d of %d nodes run on the CPU, because %s has no kernel for them: %s; the option fallback=refuse "
        "makes this an error, fallback=allow silences it" % (count, total, wanted, describe_counts(heavy or on_cpu))
    )


def describe_counts(counts: Dict[str, int]) -> str:
    """Return operators with their numbers, the most frequent first: ``MatMul 12, Relu 3``."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join("%s %d" % item for item in ordered)

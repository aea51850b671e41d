"""Pipelines as pictures, by graphviz."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from ascend_parallel.checks import check_writable
from ascend_parallel.errors import DiskError, UsageError
from ascend_parallel.files import write_whole

from .config import OpConfig, PipelineConfig
from .graph import REQUEST, Source

#: What can be drawn; the second draws nothing, and needs no graphviz.
SUFFIXES = (".svg", ".png", ".pdf")
TEXT_SUFFIXES = (".dot", ".gv")
_DRAW_S = 60.0
_STYLE = (
    "  rankdir=LR; compound=true;",
    '  graph [fontname="Helvetica,Arial,sans-serif", style=rounded, color=gray60];',
    '  node [fontname="Helvetica,Arial,sans-serif", shape=box, style="rounded,filled", fillcolor=white];',
    '  edge [fontname="Helvetica,Arial,sans-serif", fontsize=10];',
)
#: Fill of a node: Python, a model, Python around a model.
_PYTHON, _MODEL, _BOTH = "#fff4d6", "#dceafb", "#e3f3dd"


def draw(pipelines: Iterable[PipelineConfig], path: Path) -> Path:
    """Write a picture of pipelines, or its text in graphviz's language.

    Args:
        pipelines: what is drawn; checked.
        path: a .svg, .png or .pdf file; a .dot or .gv file for the text.

    Returns:
        The file that was written: where graphviz is not installed, the text in a .dot file beside ``path``.

    Raises:
        UsageError: the suffix is another one, or the file cannot be written.
        DiskError: graphviz failed, or was not done in time; or the text could not be written.
    """
    check_writable("draw", path, [*SUFFIXES, *TEXT_SUFFIXES])
    text = to_dot(pipelines)
    if path.suffix in TEXT_SUFFIXES or shutil.which("dot") is None:
        written = path if path.suffix in TEXT_SUFFIXES else path.with_suffix(".dot")
        write_whole(written, lambda file: file.write(text.encode()))
        return written
    command = ["dot", f"-T{path.suffix[1:]}", "-o", str(path)]
    try:
        done = subprocess.run(command, input=text, text=True, capture_output=True, timeout=_DRAW_S)
    except subprocess.TimeoutExpired:
        raise DiskError(f"graphviz did not draw {path} in {_DRAW_S:g} s; a .dot file needs no graphviz") from None
    if done.returncode:
        raise DiskError(f"graphviz could not draw {path}: {done.stderr.strip()}")
    return path


def to_dot(pipelines: Iterable[PipelineConfig]) -> str:
    """Return pipelines in graphviz's language."""
    lines = ["digraph pipelines {", *_STYLE]
    for number, pipeline in enumerate(pipelines):
        lines += _describe(pipeline, f"p{number}")
    if len(lines) == len(_STYLE) + 1:
        raise UsageError("the configuration has no pipelines to draw")
    return "\n".join([*lines, "}", ""])


def _describe(pipeline: PipelineConfig, prefix: str) -> Iterator[str]:
    graph = pipeline.graph()
    ops = {op.name: op for op in pipeline.ops}
    yield f"  subgraph cluster_{prefix} {{"
    yield f"    label={_quote(f'{pipeline.name} {pipeline.version}')};"
    yield f'    {_node(prefix, REQUEST)} [label="request", shape=plain, style=""];'
    yield f'    {_node(prefix, "")} [label="answer", shape=plain, style=""];'
    for name in graph.ops:
        label, fill = _label(ops[name])
        yield f'    {_node(prefix, name)} [label={_quote(label)}, fillcolor="{fill}"];'
    for name in graph.ops:
        yield from _edges(prefix, graph.wirings[name], name)
    yield from _edges(prefix, graph.answer, "")
    yield "  }"


def _edges(prefix: str, wiring: Iterable[Source], reader: str) -> Iterator[str]:
    names: dict[str, list[str]] = {}
    for source in wiring:
        names.setdefault(source.op, []).append(_edge_name(source))
    for op, read in names.items():
        yield f"    {_node(prefix, op)} -> {_node(prefix, reader)} [label={_quote(', '.join(filter(None, read)))}];"


def _edge_name(source: Source) -> str:
    if source.output is None:
        return ""
    return source.output if source.name in (None, source.output) else f"{source.output} as {source.name}"


def _label(op: OpConfig) -> tuple[str, str]:
    """Return what stands in a node, and its fill."""
    lines = [op.name]
    if op.python is not None:
        lines.append(op.python.rpartition("/")[2])
    if op.path is not None:
        lines.append(op.path.rpartition("/")[2])
    lines += filter(None, [_places(op)])
    fill = _MODEL if op.python is None else _PYTHON if op.path is None else _BOTH
    return "\n".join(lines), fill


def _places(op: OpConfig) -> str:
    devices = op.devices if isinstance(op.devices, str) else ", ".join(op.devices or ())
    count = op.concurrency or 1
    processes = "" if count == 1 else f"{count} processes"
    return " ".join(filter(None, [processes, devices and f"on {devices}"]))


def _node(prefix: str, op: str) -> str:
    return _quote(f"{prefix}/{op}")


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
